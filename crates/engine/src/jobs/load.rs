//! `load`: takes the images of an archive in.

use std::collections::BTreeMap;

use bytes::Bytes;
use gantry_api::platform::Platform;
use gantry_api::progress::Progress as Message;
use gantry_graph::{Loaded, Progress};
use tokio::sync::mpsc;

use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::Subject;
use crate::stream::{Inlet, Opening, Outlet, json_line};

/// Loads an archive of images.
pub struct Load {
    /// Without progress messages.
    pub quiet: bool,
    /// `os/architecture[/variant]`: only images for it are taken; where empty, of an index the one for this machine.
    pub platform: String,
    /// The archive: gzip, zstd, xz, bzip2 or plain.
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
            // A client that is gone sends nothing more; what is left to end is the wait for a layer that somebody else makes, and
            // what few bytes inflate to.
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
