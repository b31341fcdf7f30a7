//! An image of one archive of a root file system.

use std::io::Read;
use std::sync::Arc;

use gantry_api::container::Config;
use gantry_api::reference::Reference;
use gantry_linux::fs;

use crate::layers::Plan;
use crate::{Error, Graph, History, Image, ImageConfig, Result, RootFs};

/// What `import` makes beside the layer.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// The name to give, if any.
    pub name: Option<Reference>,
    /// The configuration, with the changes (`-c`) applied.
    pub config: Config,
    /// Go's word for the machine; empty means this one.
    pub architecture: String,
    /// `v7`, or nothing.
    pub variant: String,
    /// Now, as RFC 3339.
    pub created: String,
    /// The comment of the history.
    pub message: String,
}

impl Graph {
    /// Makes an image of one archive, compressed or not.
    ///
    /// # Errors
    /// As [`crate::Registration::unpack`] and [`crate::Registration::commit`]; then nothing is left.
    pub fn import(&self, archive: &mut dyn Read, import: Import) -> Result<Arc<Image>> {
        let layers = &self.inner.layers;
        let draft = format!("import-{}-{}", crate::graph::now(), fs::unique());
        let filled = layers.fill(&draft, None, None, archive, &self.left);
        let (extent, diff_id) = match filled {
            Ok(filled) => filled,
            Err(error) => {
                layers.discard(&draft);
                return Err(error);
            }
        };
        let config = ImageConfig {
            created: import.created.clone(),
            architecture: if import.architecture.is_empty() { machine().to_owned() } else { import.architecture },
            variant: import.variant,
            os: "linux".to_owned(),
            comment: import.message.clone(),
            config: Some(import.config),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![diff_id] },
            history: vec![History { created: import.created, comment: import.message, ..History::default() }],
            ..ImageConfig::default()
        };
        let raw = serde_json::to_vec(&config).map_err(|error| Error::invalid("image configuration", error))?;
        // The registration pins the layer before the draft becomes it.
        let registration = match self.register(raw, None) {
            Ok(registration) => registration,
            Err(error) => {
                layers.discard(&draft);
                return Err(error);
            }
        };
        for plan in Plan::of(&config.rootfs.diff_ids) {
            let settled = layers.settle(&plan, &draft, extent, &self.left);
            if !matches!(settled, Ok(true)) {
                layers.discard(&draft);
            }
            settled?;
        }
        registration.commit(import.name.as_slice())
    }
}

/// Go's word for this machine.
pub(crate) fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
