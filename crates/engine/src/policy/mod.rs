//! Doors: each socket that is served has a name and may have a policy, which says what may be done through it.
//!
//! A policy is asked once for each job, by [`crate::Engine::run`], and sees what the job will do: the very struct that is
//! run, never a request's bytes. What no policy knows of is forbidden: a new job is, until somebody allows it.

mod create;
mod known;
mod rules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use gantry_api::container::CreateRequest;
use gantry_api::exec::ExecConfig;
use gantry_api::network::NetworkCreate;
use gantry_api::volume::VolumeCreate;

use crate::Engine;
use crate::error::{Error, Result};

pub use known::Known;
pub use rules::Rules;
pub(crate) use rules::follows_paths;

/// What a job is about, for a policy to judge.
pub enum Subject<'a> {
    /// The daemon as a whole.
    Daemon,
    /// Images, which belong to everybody.
    Image,
    /// A container by name or id.
    Container(&'a str),
    /// An exec by id.
    Exec(&'a str),
    /// A volume by name.
    Volume(&'a str),
    /// A network by name or id.
    Network(&'a str),
    /// A container's place on a network.
    Place {
        /// The network.
        network: &'a str,
        /// The container.
        container: &'a str,
        /// Containers that it wants to call by other names there, as `container:alias`.
        links: &'a [String],
    },
    /// A container that is to be made.
    NewContainer(&'a CreateRequest),
    /// A process in a container that is to be made.
    NewExec {
        /// The container.
        container: &'a str,
        /// The process.
        config: &'a ExecConfig,
    },
    /// A volume that is to be made.
    NewVolume(&'a VolumeCreate),
    /// A network that is to be made.
    NewNetwork(&'a NetworkCreate),
}

/// What a policy is told of a job.
pub struct Deed<'a> {
    /// The job's name.
    pub job: &'static str,
    /// It changes nothing.
    pub reads: bool,
    /// What it is about.
    pub subject: Subject<'a>,
}

/// A socket that is served.
#[derive(Debug)]
pub struct Door {
    name: String,
    policy: Option<(Source, RwLock<Arc<Rules>>)>,
}

/// Where a policy is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Everything may be seen, and nothing changed.
    ReadOnly,
    /// A file of rules.
    File(PathBuf),
}

impl Source {
    /// `read-only`, or a file's path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text == "read-only" { Self::ReadOnly } else { Self::File(text.into()) }
    }

    fn rules(&self) -> Result<Rules> {
        match self {
            Self::ReadOnly => Ok(Rules::read_only()),
            Self::File(path) => Rules::read(path),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ReadOnly => f.write_str("read-only"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Door {
    /// A door through which everything may be done.
    #[must_use]
    pub fn open(name: impl Into<String>) -> Self {
        Self { name: name.into(), policy: None }
    }

    /// A door with a policy.
    ///
    /// # Errors
    /// When its file cannot be read or says what no policy can.
    pub fn guarded(name: impl Into<String>, source: Source) -> Result<Self> {
        let rules = RwLock::new(Arc::new(source.rules()?));
        Ok(Self { name: name.into(), policy: Some((source, rules)) })
    }

    /// Its address.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has a policy.
    #[must_use]
    pub const fn is_guarded(&self) -> bool {
        self.policy.is_some()
    }

    /// Reads its policy anew; one that cannot be used leaves the old one in force.
    ///
    /// # Errors
    /// As [`Door::guarded`].
    pub fn reload(&self) -> Result<()> {
        if let Some((source, rules)) = &self.policy {
            let new = Arc::new(source.rules()?);
            *rules.write().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(())
    }

    fn rules(&self) -> Option<Arc<Rules>> {
        let (_, rules) = self.policy.as_ref()?;
        Some(Arc::clone(&rules.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// What names mean to its policy; none where everything may be done.
    pub(crate) fn known<'a>(&self, engine: &'a Engine) -> Option<Known<'a>> {
        self.rules().map(|rules| Known::new(engine, rules))
    }

    /// Refuses what its policy does not allow.
    pub(crate) fn judge(&self, engine: &Engine, deed: &Deed<'_>) -> Result<()> {
        let (Some(rules), Some((source, _))) = (self.rules(), &self.policy) else { return Ok(()) };
        rules.judge(engine, deed).map_err(|refusal| match refusal {
            Refusal::Forbidden(reason) => Error::forbidden(format!(
                "{}: not allowed through {} (policy {source}): {reason}: ask for another socket",
                deed.job, self.name
            )),
            // What may not be seen is not there.
            Refusal::Hidden(error) => error,
        })
    }

    /// Whether something with these labels may be seen.
    pub(crate) fn shows(&self, labels: &BTreeMap<String, String>) -> bool {
        self.rules().is_none_or(|rules| rules.selects(labels))
    }

    /// Whether only what has certain labels may be seen.
    pub(crate) fn selects(&self) -> bool {
        self.rules().is_some_and(|rules| rules.has_selector())
    }
}

/// Why a job is not run.
enum Refusal {
    Forbidden(String),
    Hidden(Error),
}

impl Refusal {
    fn new(reason: impl Into<String>) -> Self {
        Self::Forbidden(reason.into())
    }
}

/// A path without `.` and doubled slashes; none with `..`, which leads where a symlink wants.
fn plain(path: &Path) -> Option<PathBuf> {
    use std::path::Component;
    path.components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        .then(|| path.components().collect())
}
