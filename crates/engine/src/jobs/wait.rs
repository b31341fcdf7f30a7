//! `wait`: tells when a container ends, and how.

use gantry_api::container::{WaitError, WaitResponse};

use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};
use crate::stream::{Opening, Outlet};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run; true at once for one that does not.
    NotRunning,
    /// It ends the next time.
    NextExit,
    /// It is gone.
    Removed,
}

impl std::str::FromStr for WaitCondition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" | "not-running" => Ok(Self::NotRunning),
            "next-exit" => Ok(Self::NextExit),
            "removed" => Ok(Self::Removed),
            _ => Err(Error::invalid(format!("invalid condition: {text:?}"))),
        }
    }
}

/// Waits for a container.
pub struct Wait {
    /// Name or id.
    pub container: String,
    /// What for.
    pub condition: WaitCondition,
    /// Gets the answer; it is opened at once, so that the caller knows that the wait has begun.
    pub outlet: Outlet,
}

impl Job for Wait {
    const NAME: &'static str = "wait";
    const DOC: &'static str = "tells when a container ends, and how";
    const CLASS: Class = Class::Stream;
    const READS: bool = true;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(mut self, context: Context) -> Result<()> {
        let container = context.engine.containers.get(&self.container)?;
        let mut phases = container.phases();
        drop(container);
        let ends = phases.borrow_and_update().ends;
        self.outlet.open(Opening::default());
        let condition = self.condition;
        let met = phases.wait_for(|phase| match condition {
            WaitCondition::NotRunning => !phase.active || phase.ends > ends || phase.removed,
            WaitCondition::NextExit => phase.ends > ends || phase.removed,
            WaitCondition::Removed => phase.removed || phase.removal_error.is_some(),
        });
        let phase = tokio::select! {
            () = self.outlet.closed() => return Ok(()),
            () = context.cancelled.cancelled() => {
                return Err(Error::unavailable("the wait was cancelled"));
            }
            phase = met => phase.map(|phase| phase.clone()).map_err(|_| Error::system("the container is gone"))?,
        };
        let error = phase.removal_error.filter(|_| condition == WaitCondition::Removed);
        let error = error.map(|message| WaitError { message });
        let answer = WaitResponse { status_code: i64::from(phase.code), error };
        self.outlet.send_json(&answer).await;
        Ok(())
    }
}
