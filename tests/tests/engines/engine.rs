//! An engine with Docker's command line, Docker itself or podman, that runs in a system.

use std::collections::BTreeSet;
use std::time::Duration;

use gantry_tests::{Output, Terminal, command};

use crate::system::{GANTRY, System};

/// The image's name in every engine.
pub const IMAGE: &str = "localhost/engines:latest";

/// One that is ready to run containers.
#[derive(Debug)]
pub struct Engine {
    /// Where it runs.
    pub system: System,
    /// The client and the arguments that come before every command.
    pub client: Vec<&'static str>,
    /// What `run` is told so that our runtime makes the container.
    pub run_flags: Vec<String>,
    /// Where it has our runtime keep states.
    pub states: String,
    /// Whether its containers have cgroups.
    pub cgroups: bool,
    /// Whether it tells that the kernel killed a container for want of memory: podman 4 does not, with runc either.
    pub tells_out_of_memory: bool,
    /// The program that keeps a container's pipes.
    pub keeper: &'static str,
}

impl Engine {
    fn words<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let ours: Vec<&str> = self.run_flags.iter().map(String::as_str).collect();
        let mut words = self.client.clone();
        match arguments {
            ["run", rest @ ..] => {
                words.push("run");
                words.extend(ours);
                words.extend(rest);
            }
            other => words.extend(other),
        }
        words
    }

    /// Runs a command of the client.
    #[track_caller]
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.system.run(&self.words(arguments))
    }

    /// As [`Engine::run`], with standard input.
    #[track_caller]
    #[must_use]
    pub fn input(&self, arguments: &[&str], input: &str) -> Output {
        self.system.input(&self.words(arguments), input)
    }

    /// Runs, must succeed; standard output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    /// `inspect -f`.
    #[track_caller]
    #[must_use]
    pub fn inspect(&self, name: &str, format: &str) -> String {
        self.ok(&["inspect", "-f", format, name])
    }

    /// A command of the client in a real terminal.
    #[must_use]
    pub fn terminal(&self, arguments: &[&str]) -> Terminal {
        Terminal::start(&self.system.line(&self.words(arguments))).expect("a terminal")
    }

    /// A first container, so that what the engine makes once is there; then what there is.
    #[track_caller]
    #[must_use]
    pub fn settled(&self) -> BTreeSet<String> {
        self.ok(&["run", "--rm", IMAGE, "true"]);
        let keeper = format!("process {}", self.keeper);
        let settled = || {
            let traces = self.system.traces(&self.states);
            (!traces.iter().any(|trace| trace.contains(&keeper))).then_some(traces)
        };
        let traces = gantry_tests::until(Duration::from_secs(10), settled);
        traces.unwrap_or_else(|| {
            panic!("a removed container's {} stays: {:#?}", self.keeper, self.system.traces(&self.states))
        })
    }

    /// Removes containers, after which nothing of them may be left.
    #[track_caller]
    pub fn remove(&self, names: &[&str], before: &BTreeSet<String>) {
        self.ok(&[&["rm", "-f"], names].concat());
        assert_eq!(self.ok(&["ps", "-aq"]), "", "containers are left");
        self.system.assert_traceless(&self.states, before);
    }

    /// Checks that a running container is one of our runtime's; its full id.
    #[track_caller]
    pub fn is_ours(&self, name: &str) -> String {
        let (id, pid) = (self.inspect(name, "{{.Id}}"), self.inspect(name, "{{.State.Pid}}"));
        is_ours(&self.system, &self.states, &id, &pid);
        assert_eq!(
            self.cgroups,
            !self.system.cgroups_of(&id).is_empty(),
            "cgroups below the parent that was asked for"
        );
        id
    }

    /// Waits until a container's log contains `text`.
    #[track_caller]
    pub fn logs(&self, name: &str, text: &str) {
        let said = || self.ok(&["logs", name]);
        let seen = gantry_tests::until(Duration::from_secs(10), || said().contains(text).then_some(()));
        assert!(seen.is_some(), "the log has no {text:?}: {}", said());
    }
}

/// Checks that our runtime's own state names the process that the engine takes for the container's first.
#[track_caller]
pub fn is_ours(system: &System, states: &str, id: &str, pid: &str) {
    let state = system.run(&[GANTRY, "runtime", "--root", states, "state", id]).ok();
    let state: serde_json::Value = serde_json::from_str(&state).expect("the runtime's state is JSON");
    assert_eq!(state["status"], "running", "{state}");
    assert_eq!(state["pid"].to_string(), pid, "{state}");
}

/// Says which versions a test saw.
pub fn say_versions(system: &System, what: &[&[&str]]) {
    let mut versions = Vec::new();
    for words in what {
        let output = command::succeed(&mut system.command(words), command::LIMIT).expect("a version");
        versions.extend(output.stdout.lines().next().map(str::to_owned));
    }
    gantry_tests::note(&format!("{}: {}", system.name, versions.join(", ")));
}
