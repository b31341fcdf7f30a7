//! Limits put to work: in an order that the kernel takes, and back again when one is refused.

use gantry_linux::Result;

use super::files::read_optional;
use super::hierarchies::Version;
use super::leaf::Leaf;
use super::setting::{self, Setting};
use super::{settings_v1, settings_v2};
use crate::config::Resources;
use crate::protection::intact;

impl Leaf {
    /// Sets the limits and device rules of a leaf that nobody else relies on yet: stops at the first failure. Nothing is
    /// read back. The warnings say what this kernel or version of cgroups does not have and can be done without.
    pub fn apply(&self, resources: &Resources) -> Result<Vec<String>> {
        let mut warnings = self.set(resources, false)?;
        warnings.extend(self.apply_devices(&resources.device_rules)?);
        Ok(warnings)
    }

    /// Changes limits of a running container: where one is refused, those already changed get their old value back.
    /// Device rules are not part of it.
    pub fn update(&self, resources: &Resources) -> Result<Vec<String>> {
        self.set(resources, true)
    }

    fn set(&self, resources: &Resources, running: bool) -> Result<Vec<String>> {
        let (settings, mut warnings) = self.settings(resources, running)?;
        let mut done = Vec::new();
        let mut late: Vec<Setting> = Vec::new();
        let mut one = |setting: &Setting| -> Result<()> {
            let path = self.file(setting.controller, &setting.file)?;
            let written = setting::write(&path, setting, running)?;
            warnings.extend(written.warning);
            done.extend(written.undo);
            Ok(())
        };
        let all = || -> Result<()> {
            for setting in settings {
                match one(&setting) {
                    Err(error) if setting.again && error.errno() == libc::EINVAL => late.push(setting),
                    other => other?,
                }
            }
            late.iter().try_for_each(&mut one)
        };
        match all() {
            Ok(()) => Ok(warnings),
            Err(mut error) => {
                setting::take_back(done, &mut error);
                Err(error)
            }
        }
    }

    /// The files to be written, in order, and what is left out.
    fn settings(&self, resources: &Resources, running: bool) -> Result<(Vec<Setting>, Vec<String>)> {
        let (mut settings, warnings) = match self.hierarchies.version() {
            Version::V1 => settings_v1::settings(resources)?,
            Version::V2 => {
                if resources.memory_check_before_update
                    && let Some(limit) = resources.memory.and_then(|m| u64::try_from(m).ok()).filter(|m| *m > 0)
                {
                    setting::check_usage(&self.file("memory", "memory.current")?, limit)?;
                }
                settings_v2::settings(resources, || self.current_quota(running))?
            }
        };
        if !intact("pids-limit") {
            settings.retain(|setting| setting.controller != "pids");
        }
        if !intact("memory-limit") {
            settings.retain(|setting| setting.controller != "memory");
        }
        Ok((settings, warnings))
    }

    /// The quota that goes on when only the period changes: v2 has both in one file.
    fn current_quota(&self, running: bool) -> Result<String> {
        let max = || "max".to_owned();
        if !running {
            return Ok(max());
        }
        let text = read_optional(&self.file("cpu", "cpu.max")?)?;
        Ok(text.and_then(|text| text.split_whitespace().next().map(str::to_owned)).unwrap_or_else(max))
    }
}
