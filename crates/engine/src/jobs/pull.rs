//! `pull`: brings an image from a registry.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use gantry_api::ErrorKind;
use gantry_api::progress::Progress;
use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use gantry_registry::{Platform, Pull as Request};
use sha2::{Digest, Sha256};

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
        let key = format!("{reference} {} {}", self.platform, shown_as(self.auth.as_ref()));
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

/// Who pulls: others with the same credentials may share the pull. Not the credentials themselves: the key is kept.
fn shown_as(auth: Option<&AuthConfig>) -> String {
    let text = serde_json::to_vec(&auth).expect("words are JSON");
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
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
    if result.is_ok() {
        let familiar = reference.familiar();
        let attributes = BTreeMap::from([("name".to_owned(), reference.familiar_repository())]);
        engine.events.publish("image", "pull", &familiar, attributes);
    }
    broadcast.end(result.map_err(|error| told(error.into())));
}

/// As callers get it. That there is no way to it is for Docker the same as that it is not there; 401 has its CLI ask for a
/// password, where perhaps nobody is to answer.
fn told(error: Error) -> Error {
    match error.kind {
        ErrorKind::Unauthorized | ErrorKind::Forbidden => Error { kind: ErrorKind::NotFound, ..error },
        _ => error,
    }
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
            outlet.open(Opening::default());
            if !outlet.send_json(&message).await {
                return Ok(());
            }
        }
        if over && sent >= length {
            let Some(failure) = broadcast.failure() else { return Ok(()) };
            if sent > 0 {
                outlet.send_json(&Progress::failure(failure.to_string())).await;
            }
            return Err(failure.clone());
        }
        tokio::select! {
            changed = followed.changed() => if changed.is_err() { return Ok(()) },
            () = outlet.closed() => return Ok(()),
            () = context.cancelled.cancelled() => return Err(Error::unavailable("the pull was cancelled")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_shared_by_those_with_the_same_credentials_only_and_its_key_does_not_tell_them() {
        let auth = |username: &str, password: &str, registrytoken: &str| AuthConfig {
            username: username.to_owned(),
            password: password.to_owned(),
            registrytoken: registrytoken.to_owned(),
            ..AuthConfig::default()
        };
        let all = [auth("me", "right", ""), auth("me", "wrong", ""), auth("", "", "T1"), auth("", "", "T2")];
        let mut keys: Vec<_> = all.iter().map(|auth| shown_as(Some(auth))).chain([shown_as(None)]).collect();
        assert!(keys.iter().all(|key| !key.contains("right")));
        assert_eq!(shown_as(Some(&all[0])), keys[0]);
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 5);
    }
}
