//! Arguments as runc's users write them, in the one form that clap reads.
//!
//! runc's parser is Go's: `-flag`, `--flag`, `-b` and `--b` are flags, a value follows after `=` or as the next argument
//! whatever it looks like, and a switch takes `=true` and `=false`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Arg, Command};

/// Where flags end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positionals {
    /// Flags may follow positional arguments.
    Mixed,
    /// What follows the first positional argument is no business of ours.
    EndFlags,
}

/// Rewrites `args` for `command`; fails on a switch with a value that is no truth value. Unknown flags stay as they are,
/// for clap to refuse. What follows the first positional of [`Positionals::EndFlags`] is preceded by `--`.
pub fn normalise(command: &Command, args: &[OsString], positionals: Positionals) -> Result<Vec<OsString>, String> {
    let mut out = vec![OsString::from(command.get_name())];
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            out.push(arg.clone());
            out.extend(rest.cloned());
            break;
        }
        let Some((name, value)) = split(arg) else {
            if positionals == Positionals::EndFlags {
                out.push("--".into());
                out.push(arg.clone());
                out.extend(rest.cloned());
                break;
            }
            out.push(arg.clone());
            continue;
        };
        let Some((flag, long)) = find(command, name) else {
            out.push(arg.clone());
            continue;
        };
        if !flag.get_action().takes_values() {
            if value.is_none_or(|value| truth(name, value).unwrap_or(true)) {
                out.push(format!("--{long}").into());
            }
            if let Some(value) = value {
                truth(name, value)?;
            }
            continue;
        }
        let value = match value {
            Some(value) => value,
            None => rest.next().map(OsString::as_os_str).ok_or_else(|| format!("flag needs an argument: --{long}"))?,
        };
        out.push(joined(&long, value));
    }
    Ok(out)
}

fn joined(long: &str, value: &OsStr) -> OsString {
    let mut bytes = format!("--{long}=").into_bytes();
    bytes.extend_from_slice(value.as_bytes());
    OsString::from_vec(bytes)
}

/// The name of a flag and what follows its `=`; `None` for what is no flag, as `-` and negative numbers.
fn split(arg: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    let bytes = arg.as_bytes();
    let body = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-")).filter(|body| !body.is_empty())?;
    if body[0].is_ascii_digit() {
        return None;
    }
    let end = body.iter().position(|byte| *byte == b'=');
    let name = std::str::from_utf8(&body[..end.unwrap_or(body.len())]).ok()?;
    Some((name, end.map(|end| OsStr::from_bytes(&body[end + 1..]))))
}

/// The flag of this long or short name, and its long name.
fn find<'a>(command: &'a Command, name: &str) -> Option<(&'a Arg, String)> {
    let is = |arg: &&Arg| {
        arg.get_long() == Some(name)
            || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
            || arg.get_short().is_some_and(|short| name.len() == 1 && name.starts_with(short))
    };
    let arg = command.get_arguments().find(is)?;
    arg.get_long().map(|long| (arg, long.to_owned()))
}

/// What Go's ParseBool takes.
fn truth(name: &str, value: &OsStr) -> Result<bool, String> {
    match value.to_str() {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        _ => Err(format!("invalid boolean value {value:?} for --{name}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    fn command() -> Command {
        Command::new("x")
            .arg(Arg::new("bundle").long("bundle").short('b'))
            .arg(Arg::new("detach").long("detach").short('d').action(ArgAction::SetTrue))
            .arg(Arg::new("pids-limit").long("pids-limit"))
    }

    fn normal(args: &[&str], positionals: Positionals) -> Vec<String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let out = normalise(&command(), &args, positionals).unwrap();
        out.into_iter().skip(1).map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn every_spelling_of_a_flag_becomes_the_one_that_clap_reads() {
        for spelling in
            [&["--bundle", "/x"][..], &["--bundle=/x"], &["-bundle", "/x"], &["-bundle=/x"], &["-b", "/x"], &["--b=/x"]]
        {
            assert_eq!(normal(spelling, Positionals::Mixed), ["--bundle=/x"], "{spelling:?}");
        }
        assert_eq!(normal(&["-detach", "id", "-d=false", "-d=1"], Positionals::Mixed), ["--detach", "id", "--detach"]);
        assert_eq!(normal(&["--pids-limit", "-1", "id"], Positionals::Mixed), ["--pids-limit=-1", "id"]);
    }

    #[test]
    fn what_follows_the_container_of_an_exec_is_left_alone() {
        assert_eq!(
            normal(&["-d", "id", "ls", "-d", "--"], Positionals::EndFlags),
            ["--detach", "--", "id", "ls", "-d", "--"]
        );
        assert_eq!(normal(&["id", "-9"], Positionals::Mixed), ["id", "-9"]);
    }

    #[test]
    fn a_switch_that_is_neither_true_nor_false_is_refused() {
        assert!(normalise(&command(), &["--detach=maybe".into()], Positionals::Mixed).is_err());
        assert!(normalise(&command(), &["--bundle".into()], Positionals::Mixed).is_err());
    }
}
