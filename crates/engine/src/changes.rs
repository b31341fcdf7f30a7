//! The Dockerfile instructions that `--change` of `import` and `commit` takes.

mod variables;
mod words;

use gantry_api::container::{Config, Healthcheck};

use crate::error::{Error, Result};
use variables::Variables;

const INSTRUCTIONS: [&str; 10] =
    ["CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"];

/// Applies instructions, one after the other; each text may have several, a line each. It may take a while.
///
/// # Errors
/// An instruction that is not taken here, or that cannot be read, and what becomes too large.
pub(crate) fn apply(mut config: Config, changes: &[String]) -> Result<Config> {
    let text = changes.join("\n").replace("\\\n", "");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let had = config.env.is_some();
    let variables = Variables::new(config.env.take().unwrap_or_default());
    let mut changing = Changing { config, variables, command_is_set: false };
    for line in lines {
        changing.apply(line)?;
    }
    let Changing { mut config, variables, .. } = changing;
    config.env = Some(variables.into_pairs()).filter(|pairs| had || !pairs.is_empty());
    Ok(config)
}

struct Changing {
    /// Its environment is in `variables` meanwhile.
    config: Config,
    variables: Variables,
    /// By one of the instructions: an ENTRYPOINT takes away only what was there before.
    command_is_set: bool,
}

impl Changing {
    fn apply(&mut self, line: &str) -> Result<()> {
        let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let (instruction, rest) = (instruction.to_ascii_uppercase(), rest.trim());
        if !INSTRUCTIONS.contains(&instruction.as_str()) {
            return Err(Error::invalid(format!("{instruction} is not a valid change command")));
        }
        if rest.is_empty() {
            return Err(Error::invalid(format!("{instruction} requires at least one argument")));
        }
        match instruction.as_str() {
            "CMD" => {
                self.config.cmd = Some(self.command(rest));
                self.command_is_set = true;
            }
            "ENTRYPOINT" => self.entrypoint(rest),
            "ENV" => {
                for (name, value) in self.pairs(&instruction, rest)? {
                    self.variables.set(name, &value);
                }
            }
            "LABEL" => {
                let pairs = self.pairs(&instruction, rest)?;
                self.config.labels.get_or_insert_default().extend(pairs);
            }
            "EXPOSE" => self.expose(rest)?,
            "VOLUME" => self.volumes(rest)?,
            "USER" => self.config.user = self.expand(rest)?,
            "WORKDIR" => self.config.working_dir = within(&self.config.working_dir, &self.expand(rest)?)?,
            "STOPSIGNAL" => {
                let signal = self.expand(rest)?;
                crate::jobs::parse_signal(&signal)?;
                self.config.stop_signal = signal;
            }
            _ => self.on_build(rest)?,
        }
        Ok(())
    }

    fn expand(&self, text: &str) -> Result<String> {
        words::expand(text, &self.variables)
    }

    fn entrypoint(&mut self, rest: &str) {
        let words = self.command(rest);
        // Arguments for another program are none for this one. `ENTRYPOINT []` leaves the command alone.
        if !words.is_empty() && !self.command_is_set {
            self.config.cmd = None;
        }
        self.config.entrypoint = Some(words);
    }

    /// Here, and only here, a variable may stand for several words, or none.
    fn expose(&mut self, rest: &str) -> Result<()> {
        for text in rest.split_whitespace() {
            for word in self.expand(text)?.split_whitespace() {
                for port in crate::networks::parse_ports(word)? {
                    self.variables.spend(1)?;
                    self.config.exposed_ports.get_or_insert_default().insert(port, Default::default());
                }
            }
        }
        Ok(())
    }

    fn volumes(&mut self, rest: &str) -> Result<()> {
        for path in words_of(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect()) {
            let path = self.expand(&path)?;
            if path.trim().is_empty() {
                return Err(Error::invalid("VOLUME specified can not be an empty string"));
            }
            self.config.volumes.get_or_insert_default().insert(path, Default::default());
        }
        Ok(())
    }

    /// An instruction for whoever builds upon the image.
    fn on_build(&mut self, rest: &str) -> Result<()> {
        let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        match trigger.as_str() {
            "ONBUILD" => return Err(Error::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
            "FROM" | "MAINTAINER" => {
                return Err(Error::invalid(format!("{trigger} isn't allowed as an ONBUILD trigger")));
            }
            _ => self.config.on_build.get_or_insert_default().push(rest.to_owned()),
        }
        Ok(())
    }

    /// A list of words, or a line for the shell.
    fn command(&self, rest: &str) -> Vec<String> {
        words_of(rest).unwrap_or_else(|| {
            let shell = self.config.shell.clone().filter(|shell| !shell.is_empty());
            let mut words = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
            words.push(rest.to_owned());
            words
        })
    }

    /// `NAME=VALUE …`, or `NAME` and all the rest of the line.
    fn pairs(&self, instruction: &str, rest: &str) -> Result<Vec<(String, String)>> {
        let words = words::split(rest);
        let invalid = |what: &str| Error::invalid(format!("{instruction}: {what}"));
        if !words.first().is_some_and(|first| first.contains('=')) {
            let (name, value) = rest
                .split_once(char::is_whitespace)
                .ok_or_else(|| invalid(&format!("{rest:?} has no value: want NAME=VALUE or NAME VALUE")))?;
            return Ok(vec![(self.expand(name)?, self.expand(value.trim())?)]);
        }
        let mut pairs = Vec::new();
        for word in &words {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| invalid(&format!("can't find = in {word:?}. Must be of the form: name=value")))?;
            let name = self.expand(name)?;
            if name.is_empty() {
                return Err(invalid("names can not be blank"));
            }
            pairs.push((name, self.expand(value)?));
        }
        Ok(pairs)
    }
}

/// What is written as a list in JSON.
fn words_of(rest: &str) -> Option<Vec<String>> {
    serde_json::from_str(rest).ok()
}

/// A directory as seen from another one.
fn within(current: &str, path: &str) -> Result<String> {
    match path {
        "" => Err(Error::invalid("WORKDIR: the path is empty")),
        absolute if absolute.starts_with('/') => Ok(absolute.to_owned()),
        relative => {
            let mut parts: Vec<&str> = Vec::new();
            for part in current.split('/').chain(relative.split('/')) {
                match part {
                    "" | "." => {}
                    ".." => drop(parts.pop()),
                    name => parts.push(name),
                }
            }
            Ok(format!("/{}", parts.join("/")))
        }
    }
}

/// Fills what a configuration leaves open from the container's, as Docker's `commit` does.
pub(crate) fn fill(config: &mut Config, container: &Config) {
    fn if_empty(value: &mut String, other: &str) {
        if value.is_empty() {
            other.clone_into(value);
        }
    }
    fn union<V: Clone>(
        own: &mut Option<std::collections::BTreeMap<String, V>>,
        others: Option<&std::collections::BTreeMap<String, V>>,
    ) {
        for (key, value) in others.into_iter().flatten() {
            own.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let is_empty = |words: &Option<Vec<String>>| words.as_ref().is_none_or(Vec::is_empty);
    if_empty(&mut config.user, &container.user);
    if_empty(&mut config.working_dir, &container.working_dir);
    if_empty(&mut config.stop_signal, &container.stop_signal);
    union(&mut config.exposed_ports, container.exposed_ports.as_ref());
    union(&mut config.volumes, container.volumes.as_ref());
    union(&mut config.labels, container.labels.as_ref());
    let own = config.env.take().unwrap_or_default();
    let name = |pair: &str| pair.split_once('=').map_or(pair, |(name, _)| name).to_owned();
    let names: std::collections::HashSet<String> = own.iter().map(|pair| name(pair)).collect();
    let others = container.env.iter().flatten().filter(|pair| !names.contains(&name(pair))).cloned();
    let merged: Vec<String> = own.iter().cloned().chain(others).collect();
    config.env = Some(merged).filter(|env| !env.is_empty() || container.env.is_some());
    if is_empty(&config.entrypoint) {
        if is_empty(&config.cmd) {
            config.cmd.clone_from(&container.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&container.entrypoint);
        }
    }
    if let Some(theirs) = &container.healthcheck {
        fill_healthcheck(config.healthcheck.get_or_insert_default(), theirs);
    }
}

fn fill_healthcheck(own: &mut Healthcheck, theirs: &Healthcheck) {
    let if_zero = |value: &mut i64, other: i64| {
        if *value == 0 {
            *value = other;
        }
    };
    if own.test.as_ref().is_none_or(Vec::is_empty) {
        own.test.clone_from(&theirs.test);
    }
    if_zero(&mut own.interval, theirs.interval);
    if_zero(&mut own.timeout, theirs.timeout);
    if_zero(&mut own.retries, theirs.retries);
    if_zero(&mut own.start_period, theirs.start_period);
    if_zero(&mut own.start_interval, theirs.start_interval);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(config: Config, changes: &[&str]) -> Config {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        apply(config, &changes).unwrap()
    }

    fn list(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn changes_are_dockerfile_instructions() {
        let config = changed(
            Config::default(),
            &[
                "ENTRYPOINT x y",
                "CMD [\"a\", \"b\"]",
                "ENV A=1 B=\"two words\" C=it\\'s",
                "env OLD all of it\nENV D=$A:$NONE",
                "EXPOSE 80 53/udp 8000-8002",
                "VOLUME /data /$A",
                "USER me",
                "LABEL x=y \"z z\"='w'",
                "WORKDIR /srv/a",
                "WORKDIR ../b",
                "STOPSIGNAL SIGQUIT",
                "# nothing",
            ],
        );
        assert_eq!(config.cmd, list(&["a", "b"]));
        assert_eq!(config.env, list(&["A=1", "B=two words", "C=it's", "OLD=all of it", "D=1:"]));
        let ports: Vec<_> = config.exposed_ports.unwrap().into_keys().collect();
        assert_eq!(ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
        assert_eq!(config.entrypoint, list(&["/bin/sh", "-c", "x y"]));
        assert_eq!(config.volumes.unwrap().into_keys().collect::<Vec<_>>(), ["/1", "/data"]);
        let labels: Vec<_> = config.labels.unwrap().into_iter().collect();
        assert_eq!(labels, [("x".to_owned(), "y".to_owned()), ("z z".to_owned(), "w".to_owned())]);
        assert_eq!((config.working_dir.as_str(), config.stop_signal.as_str()), ("/srv/b", "SIGQUIT"));
        let all = "RUN x;FROM x;ENV;ENV A;ENV A=1 B;ENV A='x;EXPOSE x;STOPSIGNAL X;CMD;USER;\
                   ONBUILD from x;ONBUILD ONBUILD RUN x;ONBUILD MAINTAINER me";
        for bad in all.split(';') {
            assert!(apply(Config::default(), &[bad.to_owned()]).is_err(), "{bad}");
        }
        assert_eq!(changed(Config::default(), &["ONBUILD RUN x"]).on_build, list(&["RUN x"]));
    }

    #[test]
    fn a_variable_may_stand_for_several_ports_or_none() {
        let config = changed(Config::default(), &["ENV FOO=\"80 443\"", "EXPOSE $FOO 90 $NONE", "EXPOSE $NONE"]);
        let ports: Vec<_> = config.exposed_ports.unwrap().into_keys().collect();
        assert_eq!(ports, ["443/tcp", "80/tcp", "90/tcp"]);
    }

    #[test]
    fn instructions_that_double_what_is_there_take_no_memory() {
        let doubled = ["ENV A=xx"].into_iter().chain(["ENV A=$A$A"; 40]).map(str::to_owned);
        let long = "ENV A=".to_owned() + &"x".repeat(1 << 19);
        let labels = [long.clone(), "LABEL".to_owned() + &" a=$A".repeat(1000)];
        let word = [long, "USER ".to_owned() + &"$A".repeat(1000)];
        let ports = std::iter::repeat_n("EXPOSE 1-65535".to_owned(), 1000);
        for changes in [doubled.collect::<Vec<_>>(), labels.into(), word.into(), ports.collect()] {
            let error = apply(Config::default(), &changes).unwrap_err();
            assert!(error.message.contains("too large") && error.message.len() < 400, "{error}");
        }
    }

    #[test]
    fn many_instructions_cost_no_more_each_than_few() {
        let begun = std::time::Instant::now();
        let changes: Vec<String> = (0..20_000).map(|number| format!("ENV A{number}=1 B=$A{number}")).collect();
        assert_eq!(apply(Config::default(), &changes).unwrap().env.unwrap().len(), 20_001);
        // A copy of all for each of them takes minutes.
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn an_entrypoint_takes_the_command_that_was_there_before() {
        let before = || Config { cmd: list(&["old"]), ..Config::default() };
        assert_eq!(changed(before(), &["ENTRYPOINT [\"e\"]"]).cmd, None);
        assert_eq!(changed(before(), &["ENTRYPOINT []"]).cmd, list(&["old"]));
        assert_eq!(changed(before(), &["CMD [\"new\"]", "ENTRYPOINT [\"e\"]"]).cmd, list(&["new"]));
        let shell = Config { shell: list(&["/bin/ash", "-ec"]), ..Config::default() };
        assert_eq!(changed(shell, &["CMD x"]).cmd, list(&["/bin/ash", "-ec", "x"]));
    }

    #[test]
    fn what_the_caller_leaves_open_is_the_containers() {
        let labels = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        let container = Config {
            user: "me".into(),
            env: list(&["A=1", "B=2"]),
            cmd: list(&["c"]),
            labels: labels(&[("a", "1"), ("b", "2")]),
            working_dir: "/w".into(),
            ..Config::default()
        };
        let mut config = Config { env: list(&["B=3"]), labels: labels(&[("a", "9")]), ..Config::default() };
        fill(&mut config, &container);
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("me", "/w"));
        assert_eq!((config.env, config.cmd), (list(&["B=3", "A=1"]), list(&["c"])));
        assert_eq!(config.labels, labels(&[("a", "9"), ("b", "2")]));
        let mut config = Config { entrypoint: list(&["e"]), ..Config::default() };
        fill(&mut config, &container);
        assert_eq!(config.cmd, None, "a program of its own does not get another one's arguments");
    }
    #[test]
    fn a_health_check_is_filled_field_by_field() {
        let theirs = Healthcheck { test: list(&["CMD", "t"]), interval: 5, retries: 3, ..Healthcheck::default() };
        let container = Config { healthcheck: Some(theirs.clone()), ..Config::default() };
        let mut config =
            Config { healthcheck: Some(Healthcheck { interval: 9, ..Healthcheck::default() }), ..Config::default() };
        fill(&mut config, &container);
        assert_eq!(config.healthcheck, Some(Healthcheck { interval: 9, ..theirs.clone() }));
        let mut config = Config::default();
        fill(&mut config, &container);
        assert_eq!(config.healthcheck, Some(theirs));
        fill(&mut config, &Config::default());
        assert!(config.healthcheck.is_some());
    }
}
