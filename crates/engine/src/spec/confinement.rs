//! `--security-opt`: what confines a container's processes beside capabilities, over what the daemon was told.

use std::path::Path;
use std::sync::Arc;

use gantry_api::hostconfig::HostConfig;
use gantry_linux::fs;
use libcontainer::lsm::selinux;

use crate::error::{Error, Result};

/// Which seccomp profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeccompChoice {
    /// Ours.
    #[default]
    Builtin,
    /// None.
    Unconfined,
    /// Somebody's, as JSON.
    Profile(Arc<str>),
}

/// What confines containers that do not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Which seccomp profile.
    pub seccomp: SeccompChoice,
    /// How it was called: `builtin`, `unconfined` or a file.
    pub seccomp_name: String,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
}

impl Defaults {
    /// Of the daemon's flags; a profile in a file is read and checked.
    ///
    /// # Errors
    /// The file cannot be read, or is no profile.
    pub fn new(seccomp: &str, no_new_privileges: bool) -> Result<Self> {
        let (seccomp, name) = match seccomp {
            "" | "builtin" => (SeccompChoice::Builtin, "builtin"),
            "unconfined" => (SeccompChoice::Unconfined, "unconfined"),
            path => (read_profile(Path::new(path)).map_err(|e| e.context(format!("seccomp profile {path}")))?, path),
        };
        Ok(Self { seccomp, seccomp_name: name.to_owned(), no_new_privileges })
    }
}

fn read_profile(path: &Path) -> Result<SeccompChoice> {
    let text = fs::read_to_string(path)?;
    super::seccomp::parse(&text)?;
    Ok(SeccompChoice::Profile(text.into()))
}

/// What `--security-opt` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityOptions {
    /// Which seccomp profile.
    pub seccomp: SeccompChoice,
    /// Which AppArmor profile, as it was asked for.
    pub apparmor: Option<String>,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// The container's own control group may be written to.
    pub writable_cgroups: bool,
    /// Nothing of `/proc` and `/sys` is hidden or read-only.
    pub system_paths: bool,
}

impl SecurityOptions {
    /// Parses what was asked for; the last word on a thing counts.
    ///
    /// # Errors
    /// An option that does not exist, in Docker's words, or that this host cannot enforce.
    pub fn new(host_config: &HostConfig, defaults: &Defaults) -> Result<Self> {
        let mut options = Self { no_new_privileges: defaults.no_new_privileges, ..Self::default() };
        let mut seccomp = None;
        for option in host_config.security_opt.iter().flatten() {
            let (name, value) = match option.as_str() {
                bare @ ("no-new-privileges" | "writable-cgroups") => (bare, "true"),
                "disable" => ("label", "disable"),
                other => separate(other)?,
            };
            match name {
                "no-new-privileges" => options.no_new_privileges = truth(option, value)?,
                "writable-cgroups" => options.writable_cgroups = truth(option, value)?,
                "seccomp" => seccomp = Some(seccomp_choice(value)),
                "apparmor" => options.apparmor = Some(value.to_owned()).filter(|profile| !profile.is_empty()),
                "label" => label(option, value)?,
                "systempaths" if value == "unconfined" => options.system_paths = true,
                _ => return Err(unknown(option)),
            }
        }
        options.seccomp = match seccomp {
            Some(asked) => asked,
            None if host_config.privileged => SeccompChoice::Unconfined,
            None => defaults.seccomp.clone(),
        };
        Ok(options)
    }
}

/// At the first `=`, or where there is none at the first `:`, as Docker once wanted it.
fn separate(option: &str) -> Result<(&str, &str)> {
    let pair = option.split_once('=').or_else(|| option.split_once(':'));
    pair.ok_or_else(|| Error::invalid(format!("invalid --security-opt 1: {option:?}")))
}

fn unknown(option: &str) -> Error {
    Error::invalid(format!("invalid --security-opt 2: {option:?}"))
}

fn truth(option: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(unknown(option)),
    }
}

fn seccomp_choice(value: &str) -> SeccompChoice {
    match value {
        "" | "builtin" => SeccompChoice::Builtin,
        "unconfined" => SeccompChoice::Unconfined,
        profile => SeccompChoice::Profile(profile.into()),
    }
}

/// A label that nobody applies would leave a program unconfined that somebody wanted confined; none can always be had.
fn label(option: &str, value: &str) -> Result<()> {
    if value == "disable" {
        return Ok(());
    }
    let parts = ["user", "role", "type", "level", "filetype"];
    if !value.split_once(':').is_some_and(|(part, value)| parts.contains(&part) && !value.is_empty()) {
        return Err(Error::invalid(format!(
            "invalid --security-opt {option}: bad label option {value:?}, valid options 'disable' or \
             'user, role, level, type, filetype' followed by ':' and a value"
        )));
    }
    let why = if selinux::enabled() { "SELinux labels are not supported yet" } else { "this host has no SELinux" };
    Err(Error::invalid(format!("invalid --security-opt {option}: {why}; leave it out, or use label=disable")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str], privileged: bool) -> Result<SecurityOptions> {
        let security_opt = Some(options.iter().map(ToString::to_string).collect());
        let defaults = Defaults { no_new_privileges: true, ..Defaults::default() };
        SecurityOptions::new(&HostConfig { security_opt, privileged, ..HostConfig::default() }, &defaults)
    }

    #[test]
    fn options_are_read_with_either_separator_over_the_daemons_defaults() {
        assert!(parse(&[], false).unwrap().no_new_privileges);
        for (text, value) in [("=false", false), (":false", false), ("=0", false), ("", true), (":T", true)] {
            let option = format!("no-new-privileges{text}");
            assert_eq!(parse(&[&option], false).unwrap().no_new_privileges, value, "{option}");
        }
        assert_eq!(parse(&["seccomp:unconfined"], false).unwrap().seccomp, SeccompChoice::Unconfined);
        assert!(matches!(parse(&["seccomp={\"a\":1}"], false).unwrap().seccomp, SeccompChoice::Profile(_)));
        assert_eq!(parse(&["apparmor:a=b"], false).unwrap_err().message, "invalid --security-opt 2: \"apparmor:a=b\"");
        assert_eq!(parse(&["apparmor=a:b"], false).unwrap().apparmor.as_deref(), Some("a:b"));
        for disabled in ["label=disable", "label:disable", "disable"] {
            parse(&[disabled], false).unwrap();
        }
        assert!(parse(&["systempaths=unconfined"], false).unwrap().system_paths);
    }

    #[test]
    fn privileged_containers_are_free_unless_they_say_otherwise() {
        assert_eq!(parse(&[], true).unwrap().seccomp, SeccompChoice::Unconfined);
        assert_eq!(parse(&["seccomp=builtin"], true).unwrap().seccomp, SeccompChoice::Builtin);
    }

    #[test]
    fn what_does_not_exist_is_refused_in_dockers_words() {
        for (text, number) in [("label", 1), ("nonsense", 1), ("nonsense=x", 2), ("no-new-privileges=maybe", 2)] {
            let refused = parse(&[text], false).unwrap_err().message;
            assert_eq!(refused, format!("invalid --security-opt {number}: {text:?}"));
        }
        assert!(parse(&["label=colour:red"], false).unwrap_err().message.contains("bad label option"));
        assert!(parse(&["label=type:x_t"], false).unwrap_err().message.contains("label=disable"));
    }
}
