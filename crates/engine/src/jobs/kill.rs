//! `kill`: sends a signal to a container's first process.

use std::sync::Arc;

use crate::container::{Record, State};
use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::lifecycle;
use crate::policy::{Known, Subject};

/// Sends a signal.
pub struct Kill {
    /// Name or id.
    pub container: String,
    /// Name or number; empty is `SIGKILL`.
    pub signal: String,
}

impl Job for Kill {
    const NAME: &'static str = "kill";
    const DOC: &'static str = "sends a signal to a container";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        format!("{} {}", self.container, self.signal).trim_end().to_owned()
    }

    async fn run(self, context: Context) -> Result<()> {
        let engine = &context.engine;
        let container = engine.containers.get(&self.container)?;
        let signal = parse_signal(if self.signal.is_empty() { "SIGKILL" } else { &self.signal })?;
        let running = container.running_or_starting().await;
        let record = container.record();
        let (Some(running), true) = (running, record.state.has_processes()) else {
            return Err(Error::conflict(format!(
                "cannot kill container: {}: container {} is not running",
                self.container, record.id
            )));
        };
        if matches!(signal, SIGKILL | SIGTERM) {
            // A person ends it: a policy must not bring it back.
            let _guard = container.operation.lock().await;
            let record = container.record();
            if !record.state.has_processes() {
                return Err(Error::conflict(format!(
                    "cannot kill container: {}: container {} is not running",
                    self.container, record.id
                )));
            }
            let changed = Record { stopped_by_user: true, ..Record::clone(&record) };
            let (worker, subject) = (Arc::clone(engine), Arc::clone(&container));
            blocking(move || worker.containers.save(&subject, changed)).await?;
        }
        if signal == SIGKILL {
            lifecycle::stop::kill(engine, &container).await?;
        } else {
            let paused = matches!(record.state, State::Paused(_));
            if paused {
                return Err(Error::conflict(format!("container {} is paused: unpause it first", record.id)));
            }
            lifecycle::stop::tell(engine, &container, signal);
            blocking(move || Ok(running.signal(signal)?)).await?;
        }
        Ok(())
    }
}

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// `TERM`, `SIGTERM`, `15`, `RTMIN+3`.
pub(crate) fn parse_signal(text: &str) -> Result<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    let invalid = || Error::invalid(format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(position) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(position + 1).map_err(|_| invalid());
    }
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => RTMIN,
        (_, Some("")) => RTMAX,
        (Some(rest), _) => RTMIN + rest.strip_prefix('+').and_then(|n| n.parse::<i32>().ok()).ok_or_else(invalid)?,
        (_, Some(rest)) => RTMAX - rest.strip_prefix('-').and_then(|n| n.parse::<i32>().ok()).ok_or_else(invalid)?,
        _ => return Err(invalid()),
    };
    if (RTMIN..=RTMAX).contains(&number) { Ok(number) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number() {
        for (text, number) in
            [("KILL", 9), ("SIGTERM", 15), ("sigusr1", 10), ("28", 28), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(parse_signal(text).unwrap(), number);
        }
        for bad in ["", "0", "65", "-1", "SIGFOO", "RTMIN+99"] {
            assert!(parse_signal(bad).is_err(), "{bad:?}");
        }
    }
}
