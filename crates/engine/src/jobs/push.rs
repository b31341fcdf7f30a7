//! `push`: sends an image, or all tags of a repository, to a registry.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::progress::Progress;
use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use gantry_graph::Image;
use gantry_registry::{ImageSource, ProgressFn, Push as Request};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::Subject;
use crate::pushing::GraphSource;
use crate::stream::Outlet;

/// Pushes an image.
pub struct Push {
    /// The repository.
    pub repository: Reference,
    /// Which tag; all of them where it is empty.
    pub tag: String,
    /// `os/architecture[/variant]`: only what is for that is pushed; everything where it is empty.
    pub platform: String,
    /// The caller's credentials for that registry.
    pub auth: Option<AuthConfig>,
    /// Those for the registries that layers may have to be fetched from.
    pub others: Vec<AuthConfig>,
    /// Gets progress messages, one JSON document each; a failure is one too.
    pub outlet: Outlet,
}

impl Job for Push {
    const NAME: &'static str = "push";
    const DOC: &'static str = "sends an image to a registry";
    const CLASS: Class = Class::Long;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Image
    }

    fn arguments(&self) -> String {
        let tag = if self.tag.is_empty() { "all tags" } else { &self.tag };
        format!("{} {tag}", self.repository.familiar_repository())
    }

    async fn run(mut self, context: Context) -> Result<()> {
        if self.repository.digest().is_some() || self.tag.contains(':') {
            return Err(Error::invalid("cannot push a digest reference"));
        }
        let (sender, mut messages) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        let mut outlet = std::mem::replace(&mut self.outlet, Outlet::new().0);
        // Beside this, which may wait for a slow client.
        let mut pushing = tokio::spawn(self.push_all(Arc::clone(&context.engine), sender, cancel.clone()));
        let outcome = loop {
            tokio::select! {
                biased;
                Some(message) = messages.recv() => {
                    outlet.send_json(&message).await;
                }
                outcome = &mut pushing => {
                    break outcome.unwrap_or_else(|panic| Err(Error::system(format!("the push crashed: {panic}"))));
                }
                () = outlet.closed(), if !cancel.is_cancelled() => cancel.cancel(),
                () = context.cancelled.cancelled(), if !cancel.is_cancelled() => cancel.cancel(),
            }
        };
        while let Ok(message) = messages.try_recv() {
            outlet.send_json(&message).await;
        }
        if let Err(error) = &outcome {
            outlet.send_json(&Progress::failure(error.to_string())).await;
        }
        outcome
    }
}

impl Push {
    async fn push_all(
        self,
        engine: Arc<Engine>,
        to: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<()> {
        let progress: ProgressFn = Arc::new(move |message| {
            // Nobody takes them when the caller is gone, and then the push ends.
            let _ = to.send(message);
        });
        progress(gantry_registry::pushing(&self.repository));
        for (reference, image) in self.targets(&engine)? {
            let target = reference.familiar();
            crate::images::check_platform(&image, &target, &self.platform)?;
            let (graph, single) = (engine.graph.clone(), !self.platform.is_empty());
            let (source, image) = blocking(move || {
                let source = GraphSource::new(&graph, &image)?;
                let image = source.pushable(single);
                Ok((source, image))
            })
            .await?;
            let source: Arc<dyn ImageSource> = Arc::new(source);
            let request = Request { reference, auth: self.auth.clone(), others: self.others.clone(), image };
            engine.registry.push(request, source, progress.clone(), cancel.clone()).await?;
            let attributes = BTreeMap::from([("name".to_owned(), self.repository.familiar_repository())]);
            engine.events.publish("image", "push", &target, attributes);
        }
        Ok(())
    }

    /// The names to push, with their images.
    fn targets(&self, engine: &Engine) -> Result<Vec<(Reference, Arc<Image>)>> {
        let (images, name) = (engine.graph.images(), self.repository.repository());
        let of_repository = images.all_names().filter(|(known, _)| known.repository() == name && known.tag().is_some());
        let all: Vec<_> =
            of_repository.filter_map(|(known, id)| Some((known.clone(), Arc::clone(images.get(id)?)))).collect();
        if all.is_empty() {
            let familiar = self.repository.familiar_repository();
            return Err(Error::not_found(format!("An image does not exist locally with the tag: {familiar}")));
        }
        if self.tag.is_empty() {
            return Ok(all);
        }
        let wanted = self.repository.with_tag(&self.tag)?;
        let found: Vec<_> = all.into_iter().filter(|(known, _)| *known == wanted).collect();
        if found.is_empty() {
            return Err(Error::not_found(format!("tag does not exist: {}", wanted.familiar())));
        }
        Ok(found)
    }
}
