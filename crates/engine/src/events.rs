//! Events: what happened, kept for a while for those who ask later, sent to those who listen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_api::event::{Actor, Event};
use jiff::Timestamp;
use tokio::sync::broadcast;

/// How many past events are kept for `since`.
const KEPT: usize = 1024;

/// How far a listener may lag before it misses events.
const LIVE: usize = 256;
/// And how many bytes of their attributes.
const KEPT_BYTES: usize = 4 << 20;

#[derive(Default)]
struct Past {
    events: VecDeque<(Arc<Event>, usize)>,
    bytes: usize,
}

/// The log of events.
pub struct Events {
    past: Mutex<Past>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { past: Mutex::default(), live: broadcast::channel(LIVE).0 }
    }
}

impl Events {
    /// Records an event and sends it to every listener.
    pub fn publish(&self, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        let now = Timestamp::now();
        let legacy = kind == "container" || kind == "image";
        let event = Event {
            status: legacy.then(|| action.to_owned()),
            id: legacy.then(|| id.to_owned()),
            from: attributes.get("image").filter(|_| kind == "container").cloned(),
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor: Actor { id: id.to_owned(), attributes },
            scope: "local".into(),
            time: now.as_second(),
            time_nano: i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX),
        };
        let event = Arc::new(event);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let size: usize = event.actor.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        past.bytes += size;
        past.events.push_back((Arc::clone(&event), size));
        // Labels can be large: what is kept is bounded by both.
        while past.events.len() > KEPT || (past.bytes > KEPT_BYTES && past.events.len() > 1) {
            let Some((_, size)) = past.events.pop_front() else { break };
            past.bytes -= size;
        }
        // Sent under the lock, so that a listener sees each event once: either as past or as live.
        let _nobody_listens = self.live.send(event);
    }

    /// The past events, and a receiver of all later ones.
    pub fn subscribe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.events.iter().map(|(event, _)| Arc::clone(event)).collect(), self.live.subscribe())
    }

    /// How many listen.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }
}
