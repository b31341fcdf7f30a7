//! `events`: what happens, as it happens.

use gantry_api::event::Event;
use gantry_api::filters::Filters;
use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;

use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::stream::{Opening, Outlet};

/// Filters that are understood.
const KNOWN: [&str; 13] = [
    "container",
    "image",
    "volume",
    "network",
    "daemon",
    "event",
    "type",
    "label",
    "scope",
    "plugin",
    "service",
    "node",
    "config",
];

/// Streams events.
pub struct Events {
    /// From this moment on, including past ones.
    pub since: Option<Timestamp>,
    /// Up to this moment.
    pub until: Option<Timestamp>,
    /// As the query says them.
    pub filters: Option<String>,
    /// Gets one JSON document each.
    pub outlet: Outlet,
}

impl Job for Events {
    const NAME: &'static str = "events";
    const DOC: &'static str = "streams what happens";
    const CLASS: Class = Class::Stream;
    const READS: bool = true;
    type Output = ();

    async fn run(mut self, context: Context) -> Result<()> {
        let filters = Filters::parse(self.filters.as_deref(), &KNOWN)?;
        let environment = context.environment;
        let door = environment.door.as_deref();
        // Of what has no labels in its events nothing is told where labels decide.
        let shown = |event: &Event| {
            door.is_none_or(|door| !door.selects() || event.kind == "container" && door.shows(&event.actor.attributes))
        };
        let (past, mut live) = context.engine.events.subscribe();
        self.outlet.open(Opening::default());
        let nanos = |at: Timestamp| i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX);
        let until = self.until.map(nanos);
        if let Some(since) = self.since.map(nanos) {
            let wanted =
                past.iter().filter(|event| event.time_nano >= since && until.is_none_or(|u| event.time_nano <= u));
            for event in wanted.filter(|event| shown(event) && matches(event, &filters)) {
                if !self.outlet.send_json(&**event).await {
                    return Ok(());
                }
            }
        }
        let left = self.until.map(|until| until.duration_since(Timestamp::now()).try_into().unwrap_or_default());
        let deadline = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        loop {
            let event = tokio::select! {
                event = live.recv() => event,
                () = &mut deadline => return Ok(()),
                () = self.outlet.closed() => return Ok(()),
                () = context.cancelled.cancelled() => return Ok(()),
            };
            match event {
                Ok(event) if shown(&event) && matches(&event, &filters) => {
                    if !self.outlet.send_json(&*event).await {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!("a listener was too slow and missed {missed} events");
                }
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }
}

fn matches(event: &Event, filters: &Filters) -> bool {
    let named = |kind: &str| {
        filters.any(kind, |wanted| {
            event.kind == kind
                && (event.actor.id.starts_with(wanted)
                    || event.actor.attributes.get("name").is_some_and(|name| name == wanted)
                    || (kind == "image" && event.actor.id.split(':').next() == Some(wanted)))
        })
    };
    let image = filters.any("image", |wanted| {
        let of_container = event.actor.attributes.get("image").map(String::as_str);
        event.actor.id == wanted || event.actor.id.split(':').next() == Some(wanted) || of_container == Some(wanted)
    });
    filters.any("type", |wanted| event.kind == wanted)
        && filters.any("event", |wanted| event.action == wanted || event.action.split(':').next() == Some(wanted))
        && filters.labels(&event.actor.attributes)
        && filters.any("scope", |wanted| event.scope == wanted)
        && ["container", "volume", "network", "daemon", "plugin", "service", "node", "config"]
            .iter()
            .all(|kind| named(kind))
        && image
}
