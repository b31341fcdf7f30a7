//! Flags as pflag reads them, with its messages: `-it`, `-p8080:80`, `--name=x`, `--name x`, `--`.

use std::collections::HashMap;

use super::{Flag, Kind};

/// What was given.
#[derive(Debug, Default, Clone)]
pub struct Parsed {
    values: HashMap<&'static str, Vec<String>>,
    /// What is no flag.
    pub args: Vec<String>,
    /// `--help` was among them.
    pub help: bool,
    /// The command as it was called: `docker container ls`.
    pub path: String,
}

impl Parsed {
    /// Whether a switch is on.
    pub fn on(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| boolean(value) == Some(true))
    }

    /// Whether a switch that is on by default was not turned off.
    pub fn not_off(&self, name: &str) -> bool {
        self.text(name).is_none_or(|value| boolean(value) != Some(false))
    }

    /// The last value given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(String::as_str)
    }

    /// The last value given, or nothing.
    pub fn text_or_empty(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    /// All values given.
    pub fn list(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether it was given at all.
    pub fn given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A whole number; what is not one was refused when it was parsed.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }
}

/// Go's spellings of true and false.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads the arguments of a command.
///
/// # Errors
/// One line for a person, as pflag words it.
pub fn parse(
    program: &str,
    flags: impl Fn() -> Box<dyn Iterator<Item = &'static Flag>>,
    interspersed: bool,
    arguments: &[String],
) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            parsed.args.extend(rest.cloned());
            break;
        }
        if let Some(long) = argument.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            if name.is_empty() || name.starts_with('-') {
                return Err(format!("bad flag syntax: {argument}"));
            }
            let Some(flag) = flags().find(|flag| flag.long == name) else {
                if name == "help" {
                    parsed.help = true;
                    return Ok(parsed);
                }
                return Err(format!("unknown flag: --{name}"));
            };
            let value = match value {
                Some(value) => value,
                None if flag.is_switch() => "true".to_owned(),
                None => rest.next().cloned().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
            };
            parsed.store(program, flag, value)?;
        } else if argument.len() > 1 && argument.starts_with('-') {
            if shorts(program, &flags, &mut parsed, argument, &mut rest)? {
                return Ok(parsed);
            }
        } else {
            parsed.args.push(argument.clone());
            if !interspersed {
                parsed.args.extend(rest.cloned());
                break;
            }
        }
    }
    Ok(parsed)
}

/// One bundle of letters; true when help was asked for.
fn shorts(
    program: &str,
    flags: &impl Fn() -> Box<dyn Iterator<Item = &'static Flag>>,
    parsed: &mut Parsed,
    argument: &str,
    rest: &mut std::slice::Iter<'_, String>,
) -> Result<bool, String> {
    let mut letters = argument[1..].chars();
    while let Some(letter) = letters.next() {
        let Some(flag) = flags().find(|flag| flag.short == Some(letter)) else {
            if letter == 'h' {
                parsed.help = true;
                return Ok(true);
            }
            return Err(format!("unknown shorthand flag: '{letter}' in {argument}"));
        };
        let tail = letters.as_str();
        if let Some(value) = tail.strip_prefix('=') {
            parsed.store(program, flag, value.to_owned())?;
            return Ok(false);
        }
        if flag.is_switch() {
            parsed.store(program, flag, "true".to_owned())?;
            continue;
        }
        let value = if tail.is_empty() {
            rest.next().cloned().ok_or_else(|| format!("flag needs an argument: '{letter}' in {argument}"))?
        } else {
            tail.to_owned()
        };
        parsed.store(program, flag, value)?;
        return Ok(false);
    }
    Ok(false)
}

impl Flag {
    const fn is_switch(&self) -> bool {
        matches!(self.kind, Kind::Switch | Kind::SwitchOn)
    }
}

impl Parsed {
    fn store(&mut self, program: &str, flag: &'static Flag, value: String) -> Result<(), String> {
        if flag.later {
            return Err(format!("{program}: the flag --{} is not supported yet", flag.long));
        }
        let bad = |reason: String| format!("invalid argument {value:?} for {:?} flag: {reason}", flag.display());
        if flag.is_switch() && boolean(&value).is_none() {
            return Err(bad(format!("strconv.ParseBool: parsing {value:?}: invalid syntax")));
        }
        (flag.check)(&value).map_err(bad)?;
        let values = self.values.entry(flag.alias_of.unwrap_or(flag.long)).or_default();
        if flag.kind != Kind::Many {
            values.clear();
        }
        values.push(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: &[Flag] = &[
        Flag::switch("interactive", "").short('i'),
        Flag::switch("tty", "").short('t'),
        Flag::many("publish", "list", "").short('p'),
        Flag::one("name", "string", ""),
        Flag::switch_on("sig-proxy", ""),
        Flag::later("gpus", "gpu-request"),
        Flag::many("net", "network", "").alias_of("network"),
        Flag::many("network", "network", ""),
    ];

    fn read(words: &[&str], interspersed: bool) -> Result<Parsed, String> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        parse("gantry", || Box::new(FLAGS.iter()), interspersed, &words)
    }

    #[test]
    fn letters_combine_and_may_carry_their_value() {
        let parsed = read(&["-itp8080:80", "-p=1:2", "-p", "3", "--name=x", "img", "-i=false"], false).unwrap();
        assert!(parsed.on("interactive") && parsed.on("tty"));
        assert_eq!(parsed.list("publish"), ["8080:80", "1:2", "3"]);
        assert_eq!(parsed.text("name"), Some("x"));
        assert_eq!(parsed.args, ["img", "-i=false"]);
    }

    #[test]
    fn flags_may_follow_arguments_where_the_command_lets_them() {
        let parsed = read(&["a", "-t", "b", "--", "-i"], true).unwrap();
        assert!(parsed.on("tty") && !parsed.on("interactive"));
        assert_eq!(parsed.args, ["a", "b", "-i"]);
    }

    #[test]
    fn switches_can_be_set_to_false() {
        let parsed = read(&["--sig-proxy=false", "-t=0"], true).unwrap();
        assert!(!parsed.not_off("sig-proxy") && !parsed.on("tty"));
        assert!(read(&[], true).unwrap().not_off("sig-proxy"));
    }

    #[test]
    fn another_name_means_the_same_flag() {
        assert_eq!(read(&["--net", "a", "--network=b"], true).unwrap().list("network"), ["a", "b"]);
    }

    #[test]
    fn refusals_are_worded_as_pflag_words_them() {
        for (words, message) in [
            (vec!["--foo"], "unknown flag: --foo"),
            (vec!["-iZ"], "unknown shorthand flag: 'Z' in -iZ"),
            (vec!["--name"], "flag needs an argument: --name"),
            (vec!["-ip"], "flag needs an argument: 'p' in -ip"),
            (vec!["--=x"], "bad flag syntax: --=x"),
            (vec!["--gpus", "all"], "gantry: the flag --gpus is not supported yet"),
            (
                vec!["-i=foo"],
                "invalid argument \"foo\" for \"-i, --interactive\" flag: strconv.ParseBool: parsing \"foo\": invalid syntax",
            ),
        ] {
            assert_eq!(read(&words, true).unwrap_err(), message);
        }
    }
}
