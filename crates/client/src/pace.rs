//! How long a transfer will still take, judged by its last seconds: what was there before it began is not taken for speed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So long back is looked.
const WINDOW: Duration = Duration::from_secs(10);
/// Nothing is said before so much was seen.
const LEAST: Duration = Duration::from_secs(1);

/// The last positions of one transfer.
#[derive(Debug, Default)]
pub struct Pace {
    stage: String,
    samples: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// Notes a position. Another stage (`Extracting` after `Downloading`), or one that goes back, begins anew.
    pub fn note(&mut self, stage: &str, now: Instant, current: u64) {
        if self.stage != stage || self.samples.back().is_some_and(|(_, last)| *last > current) {
            stage.clone_into(&mut self.stage);
            self.samples.clear();
        }
        self.samples.push_back((now, current));
        // The oldest that is kept is at least a window old, so that one message in ten seconds has a pace, too.
        while self.samples.get(1).is_some_and(|(then, _)| now.duration_since(*then) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// The time that the rest will take if it goes on like that.
    pub fn left(&self, total: u64) -> Option<Duration> {
        let ((start, first), (now, last)) = (self.samples.front()?, self.samples.back()?);
        let (took, came) = (now.duration_since(*start), last - first);
        if took < LEAST || came == 0 {
            return None;
        }
        let rest = u128::from(total.saturating_sub(*last));
        let milliseconds = rest * took.as_millis() / u128::from(came);
        u64::try_from(milliseconds).ok().map(Duration::from_millis)
    }
}

/// A time in two units at most: `5s`, `2m05s`, `3h10m`; rounded up, for `0s` is no time to wait.
pub fn short(left: Duration) -> String {
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours @ ..100, minutes, _) => format!("{hours}h{minutes:02}m"),
        _ => "days".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_there_before_is_no_speed() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.note("Downloading", start, 500);
        assert_eq!(pace.left(1000), None);
        pace.note("Downloading", at(start, 2), 520);
        assert_eq!(pace.left(1000), Some(Duration::from_secs(48)));
    }

    #[test]
    fn only_the_last_seconds_count_and_a_stage_begins_anew() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for second in 0..30 {
            pace.note("Downloading", at(start, second), second * 100);
        }
        for second in 30..50 {
            pace.note("Downloading", at(start, second), 2900 + (second - 29));
        }
        assert_eq!(pace.left(2930), Some(Duration::from_secs(10)));
        pace.note("Extracting", at(start, 50), 10);
        assert_eq!(pace.left(1000), None);
        pace.note("Extracting", at(start, 60), 10);
        assert_eq!(pace.left(1000), None, "it stands still");
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [(0.0, "0s"), (0.2, "1s"), (59.0, "59s"), (125.0, "2m05s"), (11_400.0, "3h10m")] {
            assert_eq!(short(Duration::from_secs_f64(seconds)), text);
        }
        assert_eq!(short(Duration::from_secs(1_000_000)), "days");
    }
}
