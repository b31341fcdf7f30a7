//! `pull`: brings an image from a registry.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use gantry_api::progress::Progress;
use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use gantry_registry::{Platform, Pull as Request};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::images::{Broadcast, GraphSink};
use crate::job::{Class, Context, Job};
use crate::policy::Subject;
use crate::stream::{Opening, Outlet};

/// Pulls an image.
pub struct Pull {
    /// With tag or digest; every tag where neither is given.
    pub reference: Reference,
    /// `os/architecture[/variant]`; this machine's where empty.
    pub platform: String,
    /// The caller's credentials.
    pub auth: Option<AuthConfig>,
    /// Gets progress messages, one JSON document each; a failure after the first message is one too.
    pub outlet: Outlet,
}

impl Job for Pull {
    const NAME: &'static str = "pull";
    const DOC: &'static str = "brings an image from a registry";
    const CLASS: Class = Class::Long;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Image
    }

    fn arguments(&self) -> String {
        format!("{} {}", self.reference.familiar(), self.platform).trim_end().to_owned()
    }

    async fn run(mut self, context: Context) -> Result<()> {
        let reference = self.reference.clone();
        let platform = match self.platform.as_str() {
            "" => None,
            text => Some(text.parse::<Platform>().map_err(|error| Error::invalid(error.to_string()))?),
        };
        let key = format!("{reference} {} {}", self.platform, self.auth.as_ref().map_or("", |auth| &auth.username));
        let (broadcast, first) = join(&context.engine, &key);
        let followed = broadcast.follow();
        if first {
            let request = Request { reference: reference.clone(), platform, auth: self.auth.take() };
            // A shutdown waits for it: it ends with its followers.
            let pull = bring(Arc::clone(&context.engine), key, request, Arc::clone(&broadcast));
            context.engine.background.spawn(pull);
        }
        relay(&mut self.outlet, &broadcast, followed, &context).await
    }
}

fn join(engine: &Engine, key: &str) -> (Arc<Broadcast>, bool) {
    let mut pulls = engine.pulls.0.lock().unwrap_or_else(PoisonError::into_inner);
    match pulls.get(key).filter(|broadcast| broadcast.is_followed()) {
        Some(broadcast) => (Arc::clone(broadcast), false),
        None => {
            let broadcast = Arc::new(Broadcast::new());
            pulls.insert(key.to_owned(), Arc::clone(&broadcast));
            (broadcast, true)
        }
    }
}

/// The pull itself; it is cancelled when nobody follows it any more.
async fn bring(engine: Arc<Engine>, key: String, request: Request, broadcast: Arc<Broadcast>) {
    let reference = request.reference.clone();
    let to = Arc::clone(&broadcast);
    let progress: gantry_registry::ProgressFn = Arc::new(move |message| to.push(message));
    let sink = Arc::new(GraphSink::of(&engine));
    let cancel = tokio_util::sync::CancellationToken::new();
    let every_tag = reference.tag().is_none() && reference.digest().is_none();
    let pull = async {
        match every_tag {
            true => engine.registry.pull_all(request, sink, progress, cancel.clone()).await,
            false => engine.registry.pull(request, sink, progress, cancel.clone()).await.map(drop),
        }
    };
    tokio::pin!(pull);
    let result = tokio::select! {
        result = &mut pull => result,
        () = broadcast.unfollowed() => {
            cancel.cancel();
            pull.await
        }
    };
    engine
        .pulls
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|name, held| *name != key || !Arc::ptr_eq(held, &broadcast));
    // What unpacking leaves behind it, of a failure or none.
    engine.sweep_soon();
    match result {
        Ok(()) => {
            let familiar = reference.familiar();
            let attributes = BTreeMap::from([("name".to_owned(), reference.familiar_repository())]);
            engine.events.publish("image", "pull", &familiar, attributes);
        }
        Err(error) => broadcast.push(Progress::failure(error.to_string())),
    }
    broadcast.end();
}

/// Sends the messages on. A failure before anything was sent is the job's own, with its status.
async fn relay(
    outlet: &mut Outlet,
    broadcast: &Broadcast,
    mut followed: tokio::sync::watch::Receiver<(usize, bool)>,
    context: &Context,
) -> Result<()> {
    let mut sent = 0;
    loop {
        let (length, over) = *followed.borrow_and_update();
        for message in broadcast.since(sent) {
            sent += 1;
            let failure = message.error.clone();
            outlet.open(Opening::default());
            if !outlet.send_json(&message).await {
                return Ok(());
            }
            if let Some(failure) = failure {
                return Err(Error::system(failure));
            }
        }
        if over && sent >= length {
            return Ok(());
        }
        tokio::select! {
            changed = followed.changed() => if changed.is_err() { return Ok(()) },
            () = outlet.closed() => return Ok(()),
            () = context.cancelled.cancelled() => return Err(Error::unavailable("the pull was cancelled")),
        }
    }
}
