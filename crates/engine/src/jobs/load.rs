//! `load`: takes the images of an archive in.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use gantry_api::platform::Platform;
use gantry_api::progress::Progress as Message;
use gantry_graph::{Loaded, Progress};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::Subject;
use crate::stream::{Inlet, Opening, Outlet, json_line};

/// Archives that are loaded at once. Each has a thread of those that may block, and may wait there for a layer that a pull unpacks, which
/// needs two such threads: fewer than there are (tokio: 512). It is three times what one door lets in, so that who fills one door with
/// loads that drip does not keep the others' waiting.
const LOADS: usize = 192;
static LOADING: Semaphore = Semaphore::const_new(LOADS);
/// How long one more waits for its place.
const PATIENCE: Duration = Duration::from_secs(30);

/// Loads an archive of images.
pub struct Load {
    /// Without progress messages.
    pub quiet: bool,
    /// `os/architecture[/variant]`: only images for it are taken; where empty, of an index the one for this machine.
    pub platform: String,
    /// The archive: gzip, zstd or plain.
    pub body: Inlet,
    /// Gets progress messages, and one line for each image.
    pub outlet: Outlet,
}

impl Job for Load {
    const NAME: &'static str = "load";
    const DOC: &'static str = "takes the images of an archive in";
    const CLASS: Class = Class::Long;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Image
    }

    async fn run(mut self, context: Context) -> Result<()> {
        let engine = context.engine;
        let _place = tokio::select! {
            place = place(&LOADING, PATIENCE) => place?,
            () = self.outlet.closed() => return Err(left()),
            () = context.cancelled.cancelled() => return Err(Error::unavailable("the load was cancelled")),
        };
        self.outlet.open(Opening::default());
        let mut body = self.body;
        body.cancel_with(context.cancelled.clone());
        let platform = match self.platform.as_str() {
            "" => Ok(None),
            text => text.parse::<Platform>().map(Some),
        };
        let (graph, sender, quiet) = (engine.graph.leavable(), self.outlet.sender(), self.quiet);
        let leaving = graph.clone();
        let loading = blocking(move || {
            let platform = match platform {
                Ok(platform) => platform,
                Err(refusal) => {
                    // A client listens only when all of it was taken.
                    std::io::copy(&mut body, &mut std::io::sink())
                        .map_err(|error| Error::system(format!("read the archive: {error}")))?;
                    return Err(Error::invalid(refusal));
                }
            };
            let report = |progress: Progress<'_>| {
                if !quiet {
                    say(&sender, &shown(&progress));
                }
            };
            Ok(graph.load(&mut body, platform.as_ref(), &report)?)
        });
        tokio::pin!(loading);
        let loaded = tokio::select! {
            loaded = &mut loading => loaded,
            // A client that is gone sends nothing more; what is left to end is the wait for a layer that somebody else makes.
            () = self.outlet.closed() => {
                leaving.leave();
                loading.await
            }
            () = context.cancelled.cancelled() => {
                leaving.leave();
                loading.await
            }
        };
        // What unpacking leaves behind it, of a failure or none.
        engine.sweep_soon();
        match loaded {
            Ok(loaded) => {
                for one in &loaded {
                    tell(&engine, one, &mut self.outlet).await;
                }
                Ok(())
            }
            Err(error) => {
                self.outlet.send_json(&Message::failure(error.to_string())).await;
                Err(error)
            }
        }
    }
}

/// One of the places that there are, as soon as one is free.
async fn place(places: &Semaphore, patience: Duration) -> Result<SemaphorePermit<'_>> {
    let busy = || {
        let seconds = patience.as_secs();
        Error::unavailable(format!("too many archives are loaded, and none ended in {seconds} s: try again later"))
    };
    tokio::time::timeout(patience, places.acquire()).await.ok().and_then(std::result::Result::ok).ok_or_else(busy)
}

fn left() -> Error {
    Error::unavailable("the client has left before its load began")
}

/// A client that does not listen misses progress and nothing else.
fn say(sender: &mpsc::Sender<Bytes>, message: &Message) {
    if let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(json_line(message)) {
        tracing::trace!("a slow client missed a progress message");
    }
}

fn shown(progress: &Progress<'_>) -> Message {
    match progress {
        Progress::Unpacking(layer, size) => Message::transfer(layer.short(), "Loading layer", 0, Some(*size)),
        Progress::Unpacked(layer, size) => Message::transfer(layer.short(), "Loading layer", *size, Some(*size)),
    }
}

/// Docker's sentences.
async fn tell(engine: &Engine, loaded: &Loaded, outlet: &mut Outlet) {
    let id = &loaded.image.id;
    let mut lines = Vec::new();
    for (name, before) in &loaded.taken {
        let name = name.familiar();
        lines.push(format!("The image {name} already exists, renaming the old one with ID {before} to empty string\n"));
    }
    if loaded.names.is_empty() {
        lines.push(format!("Loaded image ID: {id}\n"));
    }
    for name in &loaded.names {
        lines.push(format!("Loaded image: {}\n", name.clone().with_default_tag().familiar()));
        let attributes = BTreeMap::from([("name".to_owned(), name.familiar())]);
        engine.events.publish("image", "tag", id.as_str(), attributes);
    }
    for line in lines {
        outlet.send_json(&Message { stream: Some(line), ..Message::default() }).await;
    }
    let attributes = BTreeMap::from([("name".to_owned(), id.to_string())]);
    engine.events.publish("image", "load", id.as_str(), attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_load_that_finds_no_place_is_told_so_and_does_not_wait_for_ever() {
        let places = Semaphore::new(1);
        let first = place(&places, PATIENCE).await.unwrap();
        let error = place(&places, Duration::from_millis(1)).await.unwrap_err();
        assert!(error.to_string().contains("too many archives are loaded"), "{error}");
        drop(first);
        drop(place(&places, PATIENCE).await.unwrap());
    }
}
