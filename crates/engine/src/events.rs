//! Events: what happened, kept for a while for those who ask later, sent to those who listen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use gantry_api::event::{Actor, Event};
use jiff::Timestamp;
use tokio::sync::broadcast;

/// How many past events are kept for `since`.
const KEPT: usize = 1024;

/// The log of events.
pub struct Events {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { past: Mutex::default(), live: broadcast::channel(KEPT).0 }
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
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Sent under the lock, so that a listener sees each event once: either as past or as live.
        let _nobody_listens = self.live.send(event);
    }

    /// The past events, and a receiver of all later ones.
    pub fn subscribe(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.iter().cloned().collect(), self.live.subscribe())
    }

    /// How many listen.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }
}
