//! The same commands to our runtime and to the machine's runc: what an engine reads must be equal.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::World;
use serde_json::{Value, json};

const RUNC: &str = "/usr/sbin/runc";

/// What a scenario saw, by what it looked at.
#[derive(Default, PartialEq, Eq, Debug)]
struct Seen(BTreeMap<String, String>);

impl Seen {
    fn note(&mut self, what: impl Into<String>, seen: impl ToString) {
        self.0.insert(what.into(), seen.to_string());
    }

    /// Exit code and output of a command.
    fn run(&mut self, world: &World, what: &str, args: &[&str]) {
        let output = world.command(args);
        self.note(format!("{what}: code"), output.code);
        self.note(format!("{what}: output"), output.out);
    }

    /// Exit code alone: the words differ.
    fn code(&mut self, world: &World, what: &str, args: &[&str]) {
        self.note(format!("{what}: code"), world.command(args).code);
    }

    /// The names in a JSON object, and those in its objects.
    fn names(&mut self, what: &str, value: &Value) {
        for (name, inner) in value.as_object().into_iter().flatten() {
            self.note(format!("{what}.{name}"), kind(inner));
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A scenario: with a world and a container's name of its own.
type Scenario = fn(&mut World, &str, &mut Seen);

const SCENARIOS: &[(&str, Scenario)] = &[
    ("exit codes of run", |world, id, seen| {
        for (name, line) in [("true", "true"), ("three", "exit 3"), ("signal", "sh -c 'kill -9 $$'; exit $?")] {
            world.shell(line);
            seen.run(world, name, &["run", id]);
        }
        for program in ["nonesuch", "/nonesuch", "/etc", "/bin/../etc/"] {
            world.program(&[program]);
            seen.code(world, program, &["run", id]);
            seen.code(world, &format!("create {program}"), &["create", id]);
            seen.code(world, &format!("state {program}"), &["state", id]);
        }
    }),
    ("state in each part of a life", |world, id, seen| {
        world.program(&["sleep", "600"]);
        world.configure(|config| config["annotations"] = json!({"a.b": "c"}));
        let look = |world: &World, seen: &mut Seen, when: &str| {
            let state = world.state(id);
            seen.names(when, &state);
            seen.note(format!("{when}: status"), &state["status"]);
            seen.note(format!("{when}: annotations"), &state["annotations"]);
            seen.note(format!("{when}: owner"), &state["owner"]);
            seen.note(format!("{when}: pid is 0"), state["pid"] == 0);
            seen.note(format!("{when}: bundle"), state["bundle"] == json!(world.bundle()));
        };
        seen.code(world, "create", &["create", id]);
        look(world, seen, "created");
        seen.code(world, "create again", &["create", id]);
        seen.code(world, "start", &["start", id]);
        look(world, seen, "running");
        seen.code(world, "start again", &["start", id]);
        seen.code(world, "delete", &["delete", id]);
        seen.code(world, "pause", &["pause", id]);
        look(world, seen, "paused");
        seen.code(world, "exec while paused", &["exec", id, "true"]);
        seen.code(world, "resume", &["resume", id]);
        let list: Value = serde_json::from_str(&world.ok(&["list", "--format", "json"])).unwrap();
        seen.names("list", &list[0]);
        seen.note("list length", list.as_array().map_or(0, Vec::len));
        seen.code(world, "kill 0", &["kill", id, "0"]);
        seen.code(world, "kill", &["kill", id, "KILL"]);
        world.becomes(id, "stopped");
        look(world, seen, "stopped");
        for (what, args) in [
            ("kill stopped", &["kill", id, "KILL"][..]),
            ("kill all stopped", &["kill", "-a", id, "KILL"]),
            ("exec stopped", &["exec", id, "true"]),
            ("start stopped", &["start", id]),
            ("pause stopped", &["pause", id]),
            ("events stopped", &["events", "--stats", id]),
            ("delete", &["delete", id]),
            ("state gone", &["state", id]),
            ("delete gone", &["delete", id]),
            ("delete gone by force", &["delete", "--force", id]),
        ] {
            seen.code(world, what, args);
        }
    }),
    ("what a program finds", |world, id, seen| {
        world.configure(|config| config["hostname"] = json!("inside"));
        for (what, line) in [
            ("environment", "env | grep -v ^SHLVL"),
            ("ids", "id"),
            ("host name", "cat /proc/sys/kernel/hostname"),
            ("directory", "pwd"),
            ("umask", "umask"),
            (
                "devices",
                "ls -l /dev | grep -v -e ' pts' -e ' shm' -e ' mqueue' -e total | sed 's/[A-Z][a-z][a-z] .* //'",
            ),
            ("status", "grep -e Cap -e NoNew -e Seccomp -e SigBlk -e SigIgn -e Groups /proc/self/status"),
            ("first process", "ps -o pid,args"),
            ("descriptors", "ls /proc/self/fd"),
            ("masked", "cat /proc/kcore | wc -c; ls /proc/acpi /proc/scsi | wc -l"),
            ("read-only", "touch /proc/sys/x /x 2>&1"),
            ("limits", "ulimit -n; ulimit -c"),
            ("loopback", "grep lo: /proc/net/dev | wc -l"),
            ("session", "cat /proc/self/stat | cut -d' ' -f 5-6 | tr -d ' ' | wc -c"),
        ] {
            world.shell(line);
            seen.run(world, what, &["run", id]);
        }
    }),
    ("exec", |world, id, seen| {
        world.program(&["sleep", "600"]);
        world.ok(&["run", "-d", id]);
        for (what, args) in [
            ("code", &["exec", id, "sh", "-c", "exit 9"][..]),
            ("signal", &["exec", id, "sh", "-c", "kill -15 $$"]),
            ("missing", &["exec", id, "nonesuch"]),
            ("directory", &["exec", id, "/etc"]),
            ("no command", &["exec", id]),
            ("user", &["exec", "--user", "3:4", id, "id"]),
            ("bad user", &["exec", "--user", "nobody", id, "id"]),
            ("groups", &["exec", "-g", "5", "-g", "6", id, "id"]),
            ("environment", &["exec", "-e", "A=B", "-e=C=D", id, "env"]),
            ("directory of work", &["exec", "-cwd", "/tmp", id, "pwd"]),
            ("capabilities", &["exec", "--cap", "CAP_SYS_ADMIN", id, "grep", "Cap", "/proc/self/status"]),
            ("capabilities of a user", &["exec", "-u", "5", id, "grep", "Cap", "/proc/self/status"]),
            ("no-new-privs", &["exec", "--no-new-privs", id, "grep", "NoNew", "/proc/self/status"]),
            ("descriptors", &["exec", id, "ls", "/proc/self/fd"]),
            ("too many descriptors", &["exec", "--preserve-fds", "9", id, "true"]),
            ("flags after the command", &["exec", id, "echo", "-d", "--tty"]),
            ("session", &["exec", id, "sh", "-c", "test $(cut -d' ' -f 6 /proc/self/stat) != 0 && echo own"]),
        ] {
            seen.run(world, what, args);
        }
        let pids: Vec<u32> = serde_json::from_str(&world.ok(&["ps", "--format", "json", id])).unwrap();
        seen.note("processes", pids.len());
        seen.code(world, "ps", &["ps", id]);
    }),
    ("limits", |world, id, seen| {
        world.configure(|config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
            config["linux"]["resources"]["pids"] = json!({"limit": 50});
            config["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 20000, "period": 100_000});
        });
        world.program(&["sleep", "600"]);
        world.ok(&["run", "-d", id]);
        let look = |world: &World, seen: &mut Seen, when: &str| {
            let stats: Value = serde_json::from_str(&world.ok(&["events", "--stats", id])).unwrap();
            seen.note(format!("{when}: type"), &stats["type"]);
            for name in ["cpu", "memory", "pids", "blkio", "hugetlb"] {
                seen.note(format!("{when}: {name}"), kind(&stats["data"][name]));
            }
            // Without a limit runc says the last page of v1's counter there, and all bits on v2; ours all bits on both.
            let limit = stats["data"]["memory"]["usage"]["limit"].as_u64().filter(|limit| *limit < 1 << 62);
            seen.note(format!("{when}: memory"), limit.map_or("unlimited".to_owned(), |limit| limit.to_string()));
            seen.note(format!("{when}: pids"), &stats["data"]["pids"]["limit"]);
            for file in [
                "cpu/cpu.shares",
                "cpu/cpu.cfs_quota_us",
                "cpu/cpu.cfs_period_us",
                "memory/memory.memsw.limit_in_bytes",
            ] {
                let (controller, file) = file.split_once('/').unwrap();
                let text = world.ok(&["exec", id, "cat", &format!("/sys/fs/cgroup/{controller}/{file}")]);
                seen.note(format!("{when}: {file}"), text);
            }
        };
        look(world, seen, "as created");
        for (what, args) in [
            ("memory", &["update", "--memory", "96m", "--memory-swap", "128m", id][..]),
            ("pids", &["update", "--pids-limit=70", id]),
            ("quota", &["update", "--cpu-quota", "30000", id]),
            ("shares", &["update", "--cpu-share", "700", id]),
            ("unlimited", &["update", "--memory", "-1", "--pids-limit", "-1", id]),
            ("nonsense", &["update", "--memory", "much", id]),
        ] {
            seen.code(world, what, args);
            look(world, seen, what);
        }
    }),
    ("wrong command lines", |world, id, seen| {
        for args in [
            &["run"][..],
            &["run", "a", "b"],
            &["create", "--nonesuch", id],
            &["kill", id],
            &["kill", id, "SIGNOPE"],
            &["create", "a/b"],
            &["create", "--bundle", "/nonesuch", id],
            &["exec"],
            &["delete"],
            &["--log-format", "xml", "list"],
            &["list", "--format", "xml"],
            &["spec"],
        ] {
            seen.code(world, &args.join(" "), args);
        }
    }),
];

#[test]
fn what_engines_read_is_what_runc_says() {
    if !Path::new(RUNC).exists() {
        gantry_tests::skip("no runc on this machine");
        return;
    }
    let mut differences = Vec::new();
    for (name, scenario) in SCENARIOS {
        let seen = |runtime: &Path| {
            let mut world = World::of(runtime);
            let id = world.id();
            let mut seen = Seen::default();
            scenario(&mut world, &id, &mut seen);
            // Names and places that belong to the run.
            let own = world.path().display().to_string();
            seen.0.into_iter().map(|(k, v)| (k.replace(&id, "ID"), v.replace(&own, "DIR").replace(&id, "ID"))).collect()
        };
        let (theirs, ours): (BTreeMap<String, String>, BTreeMap<String, String>) =
            (seen(Path::new(RUNC)), seen(&common::ours()));
        for what in theirs.keys().chain(ours.keys().filter(|key| !theirs.contains_key(*key))) {
            if theirs.get(what) != ours.get(what) {
                differences.push(format!(
                    "{name}: {what}:\n    runc {:?}\n    ours {:?}",
                    theirs.get(what),
                    ours.get(what)
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
