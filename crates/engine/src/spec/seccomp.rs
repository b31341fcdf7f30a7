//! seccomp programs: compiled once per profile and set of capabilities, handed over as bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use libcontainer::seccomp::{self, Profile, Target};

use super::confinement::SeccompChoice;
use crate::error::{Error, Result};

/// How many programs are kept; callers' own profiles would otherwise grow without bound.
const KEPT: usize = 64;

/// Compiled programs by profile and capabilities.
#[derive(Default)]
pub struct Programs(Mutex<Compiled>);

/// By the profile and the sorted capabilities.
type Compiled = HashMap<(Source, Vec<String>), Program>;

/// Which profile.
#[derive(PartialEq, Eq, Hash)]
enum Source {
    Builtin,
    BesideModule,
    Given(Arc<str>),
}

/// A compiled profile.
#[derive(Clone)]
pub struct Program {
    /// An array of `struct sock_filter`.
    pub bytes: Arc<[u8]>,
    /// How it is installed: `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

impl Programs {
    /// The program of a choice; `None` is unconfined. A security module may refuse the sockets that ours refuses, too.
    ///
    /// # Errors
    /// When the caller's profile cannot be read or compiled.
    pub fn get(&self, choice: &SeccompChoice, capabilities: &[String], module: bool) -> Result<Option<Program>> {
        let source = match choice {
            SeccompChoice::Unconfined => return Ok(None),
            SeccompChoice::Builtin if module => Source::BesideModule,
            SeccompChoice::Builtin => Source::Builtin,
            SeccompChoice::Profile(text) => Source::Given(Arc::clone(text)),
        };
        let mut sorted = capabilities.to_vec();
        sorted.sort_unstable();
        let key = (source, sorted);
        if let Some(program) = self.lock().get(&key) {
            return Ok(Some(program.clone()));
        }
        let profile = match &key.0 {
            Source::Builtin => seccomp::default_profile(),
            Source::BesideModule => seccomp::beside_module(),
            Source::Given(text) => parse(text)?,
        };
        let bytes = seccomp::compile(&profile, &Target::host(&profile, capabilities)).map_err(|e| bad(&e))?.into();
        let program = Program { bytes, flags: profile.flags };
        let mut programs = self.lock();
        if programs.len() >= KEPT {
            programs.clear();
        }
        programs.insert(key, program.clone());
        Ok(Some(program))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Compiled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a profile that a daemon's or a container's owner wrote.
///
/// # Errors
/// It is none, or asks for an agent that a container of this engine does not have.
pub fn parse(text: &str) -> Result<Profile> {
    let profile = Profile::parse(text.as_bytes()).map_err(|e| bad(&e))?;
    if profile.listener.is_some() {
        return Err(bad(&"SCMP_ACT_NOTIFY is for containers of gantry-runtime; use another action"));
    }
    Ok(profile)
}

fn bad(error: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("decoding seccomp profile failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_with_the_program_and_an_agent_is_refused() {
        let get = |text: &str| Programs::default().get(&SeccompChoice::Profile(text.into()), &[], false);
        let flags = |text: &str| get(text).unwrap().unwrap().flags;
        assert_eq!(
            flags(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}"#),
            seccomp::flags::LOG
        );
        assert_eq!(flags(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":[]}"#), 0);
        let notify = r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x",
            "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#;
        assert!(get(notify).err().unwrap().message.contains("gantry-runtime"));
    }

    #[test]
    fn programs_are_kept_apart_by_who_refuses_sockets() {
        let programs = Programs::default();
        let get = |module| programs.get(&SeccompChoice::Builtin, &[], module).unwrap().unwrap().bytes;
        assert_ne!(get(false), get(true));
        assert!(Arc::ptr_eq(&get(true), &get(true)), "compiled once");
    }
}
