//! `import`: makes an image of one archive of a root file system.

use std::collections::BTreeMap;

use gantry_api::container::Config;
use gantry_api::platform::Platform;
use gantry_api::progress::Progress;
use gantry_api::reference::Reference;
use gantry_registry::Download;

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::Subject;
use crate::stream::{Inlet, Outlet};

/// Imports an archive.
pub struct Import {
    /// The repository of its name; none where empty.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// The comment.
    pub message: String,
    /// Dockerfile instructions for the configuration.
    pub changes: Vec<String>,
    /// `os/architecture`; this machine's where empty.
    pub platform: String,
    /// The archive, compressed or not.
    pub source: ImportSource,
    /// Gets the id as a progress message.
    pub outlet: Outlet,
}

/// Where the archive comes from.
pub enum ImportSource {
    /// The caller sends it.
    Body(Inlet),
    /// It is fetched from there; without a scheme it is `http`.
    Url(String),
}

impl Job for Import {
    const NAME: &'static str = "import";
    const DOC: &'static str = "makes an image of an archive of a root file system";
    const CLASS: Class = Class::Long;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Image
    }

    fn arguments(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }

    async fn run(mut self, context: Context) -> Result<()> {
        let engine = context.engine;
        let name = crate::images::new_name(&self.repository, &self.tag)?;
        let changes = std::mem::take(&mut self.changes);
        let config = blocking(move || crate::changes::apply(Config::default(), &changes)).await?;
        let platform = match self.platform.as_str() {
            "" => Platform::host(),
            text => text.parse::<Platform>().map_err(Error::invalid)?,
        };
        if platform.os != "linux" {
            return Err(Error::invalid(format!("operating system is not supported: {platform}, want linux")));
        }
        let shown = name.as_ref().map(Reference::familiar);
        let (mut body, from) = match self.source {
            ImportSource::Body(body) => (body, "-".to_owned()),
            ImportSource::Url(url) => {
                let url = if url.contains("://") { url } else { format!("http://{url}") };
                let download = engine.registry.open(&url).await?;
                self.outlet.send_json(&Progress::status(format!("Downloading from {url}"))).await;
                (fetched(download), url)
            }
        };
        body.cancel_with(context.cancelled.clone());
        let message = Some(self.message).filter(|m| !m.is_empty()).unwrap_or_else(|| format!("Imported from {from}"));
        let graph = engine.graph.leavable();
        let leaving = graph.clone();
        let importing = blocking(move || {
            let created = jiff::Timestamp::now().to_string();
            let Platform { architecture, variant, .. } = platform;
            let import = gantry_graph::Import { name, config, architecture, variant, created, message };
            Ok(graph.import(&mut body, import)?)
        });
        tokio::pin!(importing);
        let left = async {
            tokio::select! {
                () = self.outlet.closed() => {}
                () = context.cancelled.cancelled() => {}
            }
        };
        let image = tokio::select! {
            image = &mut importing => image,
            () = left => {
                leaving.leave();
                importing.await
            }
        };
        // What unpacking leaves behind it, of a failure or none.
        engine.sweep_soon();
        let image = match image {
            Ok(image) => image,
            Err(error) => {
                // The caller may have been told already that the download has begun.
                if from != "-" {
                    self.outlet.send_json(&Progress::failure(error.to_string())).await;
                }
                return Err(error);
            }
        };
        let attributes = BTreeMap::from([("name".to_owned(), shown.unwrap_or_else(|| image.id.to_string()))]);
        engine.events.publish("image", "import", image.id.as_str(), attributes);
        self.outlet.send_json(&Progress::status(image.id.to_string())).await;
        Ok(())
    }
}

/// What is downloaded, as if the caller sent it; the download ends with its reader.
fn fetched(mut download: Download) -> Inlet {
    let (sender, inlet) = Inlet::new();
    tokio::spawn(async move {
        loop {
            let piece = match download.piece().await {
                Ok(Some(piece)) => Ok(piece),
                Ok(None) => return,
                Err(error) => Err(std::io::Error::other(error.to_string())),
            };
            let over = piece.is_err();
            if sender.send(piece).await.is_err() || over {
                return;
            }
        }
    });
    inlet
}
