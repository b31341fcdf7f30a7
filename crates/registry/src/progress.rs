//! What `docker pull` shows of each layer, at a pace that a terminal can follow.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_api::progress::Progress;

use crate::backoff::Backoff;
use crate::{Descriptor, Error, Result};

/// Takes the messages of a pull. Called from any thread; it must not block.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// How often it is said how far a layer is.
pub const TICK: Duration = Duration::from_millis(100);
/// The shortest pause that a person is told of.
pub const NOTICED: Duration = Duration::from_secs(1);
/// The width of a bar that is drawn here.
const BAR: u64 = 50;

/// One layer's messages.
pub struct LayerReport {
    id: String,
    size: u64,
    to: ProgressFn,
    last: Mutex<Option<Instant>>,
}

impl LayerReport {
    pub fn new(layer: &Descriptor, to: ProgressFn) -> Self {
        Self::named(layer.digest.short(), layer.size, to)
    }

    /// Of something of `size` bytes that is shown as `id`.
    pub fn named(id: &str, size: u64, to: ProgressFn) -> Self {
        Self { id: id.to_owned(), size, to, last: Mutex::new(None) }
    }

    /// A new state.
    pub fn state(&self, status: impl Into<String>) {
        (self.to)(Progress::object(&self.id, status));
    }

    /// How far it is; dropped when the last such message was a moment ago.
    pub fn so_far(&self, status: &str, current: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= TICK) {
            *last = Some(Instant::now());
            drop(last);
            self.exactly(status, current);
        }
    }

    /// Waits before another attempt, counting down; the error when no further one is made.
    pub async fn waits(&self, backoff: &mut Backoff, error: Error) -> Result<()> {
        let why = reason(&error);
        let mut pause = backoff.pause(error)?;
        while pause > Duration::ZERO {
            let step = pause.min(Duration::from_secs(1));
            if pause >= NOTICED {
                self.state(waiting(pause, why.as_deref()));
            }
            tokio::time::sleep(step).await;
            pause -= step;
        }
        Ok(())
    }

    /// How far it is, in any case.
    pub fn exactly(&self, status: &str, current: u64) {
        let progress = bar(current, self.size);
        (self.to)(Progress { progress, ..Progress::transfer(&self.id, status, current, Some(self.size)) });
    }
}

/// Why there is a pause, where that is not plain.
pub fn reason(error: &Error) -> Option<String> {
    matches!(error, Error::TooManyRequests { .. }).then(|| error.to_string())
}

/// How the line of a pause begins.
const RETRYING: &str = "Retrying in ";

/// That the next attempt is made later, and why where it is not plain.
pub fn waiting(pause: Duration, why: Option<&str>) -> String {
    let seconds = pause.as_secs_f32().ceil();
    let unit = if seconds > 1.0 { "seconds" } else { "second" };
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    format!("{RETRYING}{seconds} {unit}{why}")
}

/// How the first line of a pull begins.
const PULLING: &str = "Pulling from ";

/// The first line of a pull.
pub fn pulling(repository: &str, tag_or_digest: &str) -> Progress {
    Progress { id: Some(tag_or_digest.to_owned()), ..Progress::status(format!("{PULLING}{repository}")) }
}

/// Keeps what is told of mirrors until a pull has begun, or waits: what is nowhere is an answer of its own, with a status of
/// its own, and that is decided by the first message. A pause can be long, and is told when it begins.
pub fn from_beginning(to: ProgressFn) -> ProgressFn {
    let early = Mutex::new(Some(Vec::new()));
    let begins = |message: &Progress| [PULLING, RETRYING].iter().any(|first| message.status.starts_with(first));
    Arc::new(move |message: Progress| {
        let mut early = early.lock().unwrap_or_else(PoisonError::into_inner);
        match early.as_mut().filter(|_| !begins(&message)) {
            Some(early) => early.push(message),
            None => {
                early.take().into_iter().flatten().for_each(|early| to(early));
                to(message);
            }
        }
    })
}

/// The bar for clients that draw none: `[====>    ]  1.2MB/3MB`.
fn bar(current: u64, total: u64) -> String {
    let done = (current.min(total) * BAR).checked_div(total).unwrap_or(0);
    let (done, left) = (usize::try_from(done).unwrap_or(0), usize::try_from(BAR - done).unwrap_or(0));
    format!("[{}>{}] {:>8}/{}", "=".repeat(done), " ".repeat(left), human(current), human(total))
}

/// A size with four digits and a decimal unit, as Docker prints it.
#[allow(clippy::cast_precision_loss, reason = "four digits are shown")]
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    let decimals = if value >= 100.0 {
        1
    } else if value >= 10.0 {
        2
    } else {
        3
    };
    let text = format!("{value:.decimals$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if text.is_empty() { "0" } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_four_digits() {
        for (bytes, text) in [(0, "0B"), (999, "999B"), (1000, "1kB"), (1_234_567, "1.235MB"), (123_456_789, "123.5MB")]
        {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn the_first_line_is_dockers() {
        let line = serde_json::to_string(&pulling("library/debian", "12")).unwrap();
        assert_eq!(line, r#"{"status":"Pulling from library/debian","id":"12"}"#);
    }

    #[test]
    fn bars_end_where_they_should() {
        assert!(bar(0, 0).starts_with("[>"));
        assert!(bar(10, 10).starts_with(&format!("[{}>]", "=".repeat(50))));
    }

    #[test]
    fn what_is_told_of_mirrors_waits_for_the_beginning_or_a_pause() {
        let pause = waiting(Duration::from_secs(60), Some("toomanyrequests"));
        assert_eq!(pause, "Retrying in 60 seconds: toomanyrequests");
        for begins in [pulling("library/debian", "12"), Progress::status(pause)] {
            let told = Arc::new(Mutex::new(Vec::new()));
            let all = Arc::clone(&told);
            let tell = from_beginning(Arc::new(move |message: Progress| all.lock().unwrap().push(message.status)));
            tell(Progress::status("Mirror m failed"));
            assert!(told.lock().unwrap().is_empty(), "it is kept");
            let first = begins.status.clone();
            tell(begins);
            tell(Progress::status("more"));
            assert_eq!(*told.lock().unwrap(), ["Mirror m failed", &first, "more"]);
        }
    }
}
