//! seccomp programs: compiled once per profile and set of capabilities, handed over as bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use libcontainer::seccomp::{self, Profile, Target};

use super::security::SeccompChoice;
use crate::error::{Error, Result};

/// How many programs are kept; callers' own profiles would otherwise grow without bound.
const KEPT: usize = 64;

/// Compiled programs by profile and capabilities.
#[derive(Default)]
pub struct Programs(Mutex<Compiled>);

/// By the caller's profile (`None` is ours) and the sorted capabilities.
type Compiled = HashMap<(Option<String>, Vec<String>), Arc<[u8]>>;

impl Programs {
    /// The program of a choice; `None` is unconfined.
    ///
    /// # Errors
    /// When the caller's profile cannot be read or compiled.
    pub fn get(&self, choice: &SeccompChoice, capabilities: &[String]) -> Result<Option<Arc<[u8]>>> {
        let text = match choice {
            SeccompChoice::Unconfined => return Ok(None),
            SeccompChoice::Default => None,
            SeccompChoice::Profile(text) => Some(text.clone()),
        };
        let mut sorted = capabilities.to_vec();
        sorted.sort_unstable();
        let key = (text, sorted);
        if let Some(program) = self.lock().get(&key) {
            return Ok(Some(Arc::clone(program)));
        }
        let bad = |error: &dyn std::fmt::Display| Error::invalid(format!("opening seccomp profile failed: {error}"));
        let profile = match &key.0 {
            None => seccomp::default_profile(),
            Some(text) => Profile::parse(text.as_bytes()).map_err(|e| bad(&e))?,
        };
        if profile.listener.is_some() {
            return Err(bad(&"SCMP_ACT_NOTIFY is for containers of gantry-runtime; use another action"));
        }
        let program: Arc<[u8]> =
            seccomp::compile(&profile, &Target::host(&profile, capabilities)).map_err(|e| bad(&e))?.into();
        let mut programs = self.lock();
        if programs.len() >= KEPT {
            programs.clear();
        }
        programs.insert(key, Arc::clone(&program));
        Ok(Some(program))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Compiled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
