//! `jobs`: the jobs that run, how the last ones ended, and an end to those that may be ended.

use gantry_api::jobs::{JobHandler, JobSummary};

use crate::error::{Error, Result};
use crate::handlers::HANDLERS;
use crate::job::{Class, Context, Handler, Job};

/// Lists jobs.
pub struct Jobs {
    /// With the last ended ones.
    pub all: bool,
}

impl Job for Jobs {
    const NAME: &'static str = "jobs";
    const DOC: &'static str = "lists jobs";
    const CLASS: Class = Class::Read;
    type Output = Vec<JobSummary>;

    async fn run(self, context: Context) -> Result<Vec<JobSummary>> {
        let mut jobs = context.engine.jobs.list(self.all);
        jobs.retain(|job| job.id != context.id);
        Ok(jobs)
    }
}

/// Lists what jobs there are.
pub struct JobHandlers;

impl Job for JobHandlers {
    const NAME: &'static str = "job_handlers";
    const DOC: &'static str = "lists every kind of job";
    const CLASS: Class = Class::Read;
    type Output = Vec<JobHandler>;

    async fn run(self, _: Context) -> Result<Vec<JobHandler>> {
        Ok(HANDLERS.iter().map(Handler::describe).collect())
    }
}

/// Ends a job.
pub struct CancelJob {
    /// Its number.
    pub id: u64,
}

impl Job for CancelJob {
    const NAME: &'static str = "job_cancel";
    const DOC: &'static str = "cancels a job";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn arguments(&self) -> String {
        self.id.to_string()
    }

    async fn run(self, context: Context) -> Result<()> {
        match context.engine.jobs.cancel(self.id) {
            Some(true) => Ok(()),
            Some(false) => Err(Error::conflict(format!("job {} changes state and cannot be cancelled", self.id))),
            None => Err(Error::not_found(format!("no such job: {}: it has ended, or never was", self.id))),
        }
    }
}
