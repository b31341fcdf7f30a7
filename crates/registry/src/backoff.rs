//! Pauses between attempts: each twice the one before, and not for ever.

use std::time::Duration;

use crate::{Error, Result};

const LONGEST: Duration = Duration::from_secs(10);

/// The attempts at one thing.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    attempts: u32,
    limit: u32,
}

impl Backoff {
    /// `limit` attempts, the first pause being `first`.
    pub const fn new(first: Duration, limit: u32) -> Self {
        Self { first, attempts: 1, limit }
    }

    /// There was progress: the count starts again.
    pub const fn reset(&mut self) {
        self.attempts = 1;
    }

    /// How long to wait after `error`; gives it back when waiting is no use or there were enough attempts.
    pub fn pause(&mut self, error: Error) -> Result<Duration> {
        let usual = self.first.saturating_mul(1 << (self.attempts - 1).min(16)).min(LONGEST);
        match error.pause(usual) {
            Some(pause) if self.attempts < self.limit => {
                self.attempts += 1;
                tracing::debug!(%error, ?pause, "trying again");
                Ok(pause)
            }
            _ => Err(error),
        }
    }
}
