//! `-e`, `--env-file`, `--label`, `--label-file`, and other `name=value` flags.

use std::collections::BTreeMap;

use crate::failure::reason;

/// The environment: files first, then flags; a name alone takes our own value.
///
/// # Errors
/// In Docker's words.
pub fn environment(files: &[String], flags: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for path in files {
        let text = read(path)?;
        all.extend(env_lines(&text, own).map_err(|error| format!("invalid env file ({path}): {error}"))?);
    }
    for flag in flags {
        if flag.contains('=') {
            all.push(flag.clone());
        } else {
            all.extend(own(flag));
        }
    }
    Ok(all)
}

/// Labels: files first, then flags; the last of a name counts.
///
/// # Errors
/// In Docker's words.
pub fn labels(files: &[String], flags: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut all = Vec::new();
    for path in files {
        let text = read(path)?;
        // A name alone is a label without a value.
        let lines = env_lines(&text, |name| Some(format!("{name}=")));
        all.extend(lines.map_err(|error| format!("invalid label file ({path}): {error}"))?);
    }
    all.extend(flags.iter().cloned());
    Ok(pairs(&all))
}

/// `name=value` flags as a map; a name alone has an empty value.
pub fn pairs(flags: &[String]) -> BTreeMap<String, String> {
    let split = |flag: &String| {
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        (name.to_owned(), value.to_owned())
    };
    flags.iter().map(split).collect()
}

fn own(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| format!("{name}={value}"))
}

fn read(path: &str) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("open {path}: {}", reason(&error)))?;
    String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("invalid env file ({path}): env file {path} contains invalid utf8 bytes at line {line}")
    })
}

fn env_lines(text: &str, alone: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for line in text.strip_prefix('\u{feff}').unwrap_or(text).lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, None),
        };
        if name.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if name.contains(char::is_whitespace) {
            return Err(format!("variable '{name}' contains whitespaces"));
        }
        match value {
            Some(value) => all.push(format!("{name}={value}")),
            None => all.extend(alone(name)),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_env_file_is_read_line_by_line() {
        let text = "\u{feff}# comment\n\n  A=1 2 \nB\nC==x\n";
        let lines = env_lines(text, |name| Some(format!("{name}=own"))).unwrap();
        assert_eq!(lines, ["A=1 2 ", "B=own", "C==x"]);
        assert_eq!(env_lines("a b=1", |_| None).unwrap_err(), "variable 'a b' contains whitespaces");
        assert_eq!(env_lines("=1", |_| None).unwrap_err(), "no variable name on line '=1'");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = environment(&["/nosuch".to_owned()], &[]).unwrap_err();
        assert_eq!(error, "open /nosuch: no such file or directory");
    }

    #[test]
    fn a_name_alone_takes_our_value_or_nothing() {
        let flags = ["A=1".to_owned(), "PATH".to_owned(), "SURELY_NOT_SET_HERE".to_owned()];
        let env = environment(&[], &flags).unwrap();
        assert_eq!(env.len(), 2);
        assert!(env[1].starts_with("PATH="));
    }
}
