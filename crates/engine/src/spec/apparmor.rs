//! AppArmor: which profile confines a container, and that it is loaded when one needs it.

use std::sync::{Mutex, PoisonError};

use libcontainer::lsm::apparmor;
use libcontainer::seccomp::REFUSED_FAMILIES;

use crate::error::{Error, Result};

/// The profile of containers that name none. Not Docker's name: a Docker beside us has a profile of its own under that,
/// and neither of two engines must replace the other's.
const DEFAULT: &str = "gantry-default";
/// What people call it who come from Docker.
const DOCKERS: &str = "docker-default";
/// The name of no confinement.
const UNCONFINED: &str = "unconfined";

/// The default profile as it is loaded.
#[derive(Clone, Copy)]
struct Loaded {
    /// It refuses sockets that the default seccomp profile cannot refuse in every entry.
    refuses_sockets: bool,
}

/// AppArmor on this host.
pub struct AppArmor {
    visible: bool,
    /// What this daemon knows of the default profile since it has loaded it: the one that was there may be an older
    /// daemon's.
    default: Mutex<Option<Loaded>>,
}

impl AppArmor {
    /// Looks.
    pub fn discover() -> Self {
        Self { visible: apparmor::visible(), default: Mutex::new(None) }
    }

    /// Whether the kernel has it, and lets it be seen.
    pub const fn visible(&self) -> bool {
        self.visible
    }

    /// Why containers run without the default profile, although the kernel has AppArmor.
    pub fn lacking(&self) -> Option<String> {
        (self.visible && !can_be_had()).then(|| {
            format!(
                "AppArmor is on, but containers run without its profile {DEFAULT}: apparmor_parser, which loads it, is \
                 not installed; install the package apparmor"
            )
        })
    }

    /// The name that is shown for such a container; none without AppArmor.
    pub fn shown<'a>(&self, asked: Option<&'a str>, privileged: bool) -> &'a str {
        match asked {
            _ if !self.visible => "",
            None if privileged || !can_be_had() => UNCONFINED,
            None | Some(DOCKERS) => DEFAULT,
            Some(profile) => profile,
        }
    }

    /// The profile of such a container, loaded; `None` leaves its processes the daemon's own confinement.
    ///
    /// # Errors
    /// The container names a profile and there is no AppArmor, or no such profile; the default one cannot be loaded.
    pub fn profile(&self, asked: Option<&str>, privileged: bool) -> Result<Option<String>> {
        let refuse =
            |name: &str, reason: &str| Error::invalid(format!("invalid --security-opt apparmor={name}: {reason}"));
        match asked {
            Some(UNCONFINED) => Ok(self.visible.then(|| UNCONFINED.to_owned())),
            None if !self.visible => Ok(None),
            None if privileged => Ok(Some(UNCONFINED.to_owned())),
            None if !can_be_had() => Ok(None),
            Some(name) if !self.visible => {
                // The library's words, whatever else stands in the way.
                let refusal = apparmor::check(name).err().map(|error| error.to_string());
                Err(refuse(name, refusal.as_deref().unwrap_or("securityfs is not mounted on /sys/kernel/security")))
            }
            None | Some(DOCKERS | DEFAULT) => {
                self.refresh()?;
                Ok(Some(DEFAULT.to_owned()))
            }
            Some(name) => {
                apparmor::check(name).map_err(|error| refuse(name, &error.to_string()))?;
                Ok(Some(name.to_owned()))
            }
        }
    }

    /// Whether this profile, of [`AppArmor::profile`], refuses sockets of [`REFUSED_FAMILIES`], whatever call makes them.
    pub fn refuses_sockets(&self, profile: Option<&str>) -> bool {
        profile == Some(DEFAULT) && self.lock().is_some_and(|default| default.refuses_sockets)
    }

    /// Loads the default profile: once per daemon, for it may have changed, and again when somebody has unloaded it.
    ///
    /// # Errors
    /// The parser is missing, or refuses it.
    pub fn refresh(&self) -> Result<()> {
        let failed = |error: libcontainer::Error| {
            Error::system(format!("AppArmor is on, but its profile {DEFAULT} cannot be loaded: {error}"))
        };
        let mut default = self.lock();
        let loaded = apparmor::profile_loaded(DEFAULT).map_err(failed)?;
        if default.is_some() && loaded {
            return Ok(());
        }
        if !loaded || apparmor::can_load() {
            apparmor::default_profile(DEFAULT).and_then(|text| apparmor::load(&text)).map_err(failed)?;
        }
        let refuses_sockets = apparmor::refuses_sockets(DEFAULT, &REFUSED_FAMILIES).map_err(failed)?;
        *default = Some(Loaded { refuses_sockets });
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Loaded>> {
        self.default.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the default profile can be loaded, or is.
fn can_be_had() -> bool {
    apparmor::can_load() || apparmor::profile_loaded(DEFAULT).unwrap_or(false)
}
