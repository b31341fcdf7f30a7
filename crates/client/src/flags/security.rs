//! `--security-opt`: what the client does with it before it goes to the daemon.

use crate::failure::reason;

/// What `--security-opt` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// For the daemon; a seccomp profile's file has become its content.
    pub options: Vec<String>,
    /// `systempaths=unconfined`: nothing masked, nothing read-only.
    pub system_paths_unconfined: bool,
}

/// Reads all of it.
///
/// # Errors
/// In Docker's words.
pub fn security(flags: &[String]) -> Result<Security, String> {
    let mut security = Security::default();
    for flag in flags {
        let split = flag.split_once('=').or_else(|| flag.split_once(':'));
        let Some((name, value)) = split else {
            if flag != "no-new-privileges" {
                return Err(format!("Invalid --security-opt: {flag:?}"));
            }
            security.options.push(flag.clone());
            continue;
        };
        match (name, value) {
            (_, "") if name != "no-new-privileges" => return Err(format!("Invalid --security-opt: {flag:?}")),
            ("seccomp", profile) if profile != "unconfined" && profile != "builtin" => {
                security.options.push(format!("seccomp={}", profile_text(profile)?));
            }
            ("systempaths", "unconfined") => security.system_paths_unconfined = true,
            _ => security.options.push(flag.clone()),
        }
    }
    Ok(security)
}

fn profile_text(path: &str) -> Result<String, String> {
    let text = std::fs::read(path)
        .map_err(|error| format!("opening seccomp profile ({path}) failed: open {path}: {}", reason(&error)))?;
    let value: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| format!("compacting json for seccomp profile ({path}) failed: {error}"))?;
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seccomp_profile_is_sent_with_its_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\"\n}\n").unwrap();
        let flags = [format!("seccomp={}", file.path().display()), "no-new-privileges".into(), "apparmor:x".into()];
        let read = security(&flags).unwrap();
        assert_eq!(read.options, ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}", "no-new-privileges", "apparmor:x"]);
    }

    #[test]
    fn what_is_no_option_is_refused() {
        assert_eq!(security(&["label=".into()]).unwrap_err(), "Invalid --security-opt: \"label=\"");
        assert_eq!(security(&["foo".into()]).unwrap_err(), "Invalid --security-opt: \"foo\"");
        assert_eq!(
            security(&["seccomp=/nosuch".into()]).unwrap_err(),
            "opening seccomp profile (/nosuch) failed: open /nosuch: no such file or directory"
        );
        assert!(security(&["systempaths=unconfined".into()]).unwrap().system_paths_unconfined);
    }
}
