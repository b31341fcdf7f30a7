//! `image_delete`: takes a name from an image, and removes the image with its last name.

use std::collections::BTreeMap;

use gantry_api::image::ImageDeleted;
use gantry_graph::Removed;

use crate::engine::{Engine, blocking};
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::policy::Subject;

/// Untags or removes an image.
pub struct ImageDelete {
    /// Name, digest or id.
    pub image: String,
    /// Although stopped containers use it, or it has several names.
    pub force: bool,
    /// With the nameless images that it was made on top of.
    pub prune: bool,
}

impl Job for ImageDelete {
    const NAME: &'static str = "image_delete";
    const DOC: &'static str = "untags or removes an image";
    const CLASS: Class = Class::Change;
    type Output = Vec<ImageDeleted>;

    fn subject(&self) -> Subject<'_> {
        Subject::Image
    }

    fn arguments(&self) -> String {
        self.image.clone()
    }

    async fn run(self, context: Context) -> Result<Vec<ImageDeleted>> {
        let engine = context.engine;
        blocking(move || delete(&engine, &self.image, self.force, self.prune)).await
    }
}

/// Removes it, tells everybody, and says what went.
pub(super) fn delete(engine: &Engine, name: &str, force: bool, prune: bool) -> Result<Vec<ImageDeleted>> {
    let image = match engine.graph.images().resolve_damaged(name) {
        Some(damaged) => damaged.id.clone(),
        None => crate::images::find(engine, name)?.id.clone(),
    };
    let removed = engine.graph.remove_image(name, force, prune, &crate::images::users(engine))?;
    engine.sweep_soon();
    let mut answer = Vec::new();
    for step in removed {
        let (action, shown) = match step {
            Removed::Untagged(name) => {
                let untagged = gantry_api::reference::Reference::parse(&name).map_or(name, |n| n.familiar());
                ("untag", ImageDeleted { untagged, ..ImageDeleted::default() })
            }
            Removed::Deleted(digest) => {
                ("delete", ImageDeleted { deleted: digest.to_string(), ..ImageDeleted::default() })
            }
        };
        let subject = if shown.deleted.is_empty() { image.as_str() } else { &shown.deleted };
        let attributes = BTreeMap::from([("name".to_owned(), subject.to_owned())]);
        engine.events.publish("image", action, subject, attributes);
        answer.push(shown);
    }
    Ok(answer)
}
