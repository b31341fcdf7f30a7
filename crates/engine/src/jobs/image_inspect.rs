//! `image_inspect`: everything about one image.

use gantry_api::image::{self, ImageMetadata, RootFs};

use crate::engine::blocking;
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::policy::Subject;

/// Shows an image.
pub struct ImageInspect {
    /// Name, digest or id.
    pub image: String,
    /// `os/architecture`, which the image must be for; any where empty.
    pub platform: String,
}

impl Job for ImageInspect {
    const NAME: &'static str = "image_inspect";
    const DOC: &'static str = "shows everything about an image";
    const CLASS: Class = Class::Read;
    type Output = serde_json::Value;

    fn subject(&self) -> Subject<'_> {
        Subject::Image
    }

    fn arguments(&self) -> String {
        self.image.clone()
    }

    async fn run(self, context: Context) -> Result<serde_json::Value> {
        let version = context.environment.version();
        let engine = context.engine;
        let image = crate::images::find(&engine, &self.image)?;
        crate::images::check_platform(&image, &self.image, &self.platform)?;
        let (repo_tags, repo_digests) = super::images::names(&engine, &image);
        let (worker, found) = (std::sync::Arc::clone(&engine), std::sync::Arc::clone(&image));
        let graph_driver =
            blocking(move || Ok(crate::images::graph_driver(&worker, worker.graph.image_places(&found)))).await?;
        let config = &image.config;
        let size = i64::try_from(image.size()).unwrap_or(i64::MAX);
        // Go's first moment is that of what never happened.
        let last = match image.last_tagged {
            0 => "0001-01-01T00:00:00Z".to_owned(),
            seconds => jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string(),
        };
        let author = config.author.clone();
        let inspect = image::ImageInspect {
            id: image.id.to_string(),
            repo_tags,
            repo_digests,
            parent: image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
            comment: config.comment.clone(),
            created: config.created.clone(),
            docker_version: config.docker_version.clone(),
            author,
            config: config.config.clone().unwrap_or_default(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            os: config.os.clone(),
            os_version: config.os_version.clone(),
            size,
            virtual_size: size,
            graph_driver,
            root_fs: RootFs {
                kind: "layers".into(),
                layers: config.rootfs.diff_ids.iter().map(ToString::to_string).collect(),
            },
            metadata: ImageMetadata { last_tag_time: last },
        };
        Ok(inspect.in_version(version))
    }
}
