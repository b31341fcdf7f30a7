//! `image_tag`: gives an image a further name.

use std::collections::BTreeMap;

use gantry_api::reference::ReferenceError;

use crate::engine::blocking;
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::policy::Subject;

/// Names an image.
pub struct ImageTag {
    /// Name, digest or id.
    pub image: String,
    /// The repository of the new name.
    pub repository: String,
    /// Its tag; `latest` where empty.
    pub tag: String,
}

impl Job for ImageTag {
    const NAME: &'static str = "image_tag";
    const DOC: &'static str = "gives an image a further name";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Image
    }

    fn arguments(&self) -> String {
        format!("{} {}:{}", self.image, self.repository, self.tag)
    }

    async fn run(self, context: Context) -> Result<()> {
        let engine = context.engine;
        let name = crate::images::new_name(&self.repository, &self.tag)?.ok_or(ReferenceError::Format)?;
        blocking(move || {
            let image = crate::images::find(&engine, &self.image)?;
            engine.graph.tag(&name, &image.id)?;
            let attributes = BTreeMap::from([("name".to_owned(), name.familiar())]);
            engine.events.publish("image", "tag", image.id.as_str(), attributes);
            Ok(())
        })
        .await
    }
}
