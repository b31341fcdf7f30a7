//! `history`: how an image was made.

use gantry_api::image::HistoryItem;

use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::policy::Subject;

/// Shows an image's history, newest first.
pub struct History {
    /// Name, digest or id.
    pub image: String,
    /// `os/architecture`, which the image must be for; any where empty.
    pub platform: String,
}

impl Job for History {
    const NAME: &'static str = "history";
    const DOC: &'static str = "shows how an image was made";
    const CLASS: Class = Class::Read;
    type Output = Vec<HistoryItem>;

    fn subject(&self) -> Subject<'_> {
        Subject::Image
    }

    fn arguments(&self) -> String {
        self.image.clone()
    }

    async fn run(self, context: Context) -> Result<Vec<HistoryItem>> {
        let image = crate::images::find(&context.engine, &self.image)?;
        crate::images::check_platform(&image, &self.image, &self.platform)?;
        let mut items: Vec<HistoryItem> = image
            .history()
            .into_iter()
            .map(|(step, size)| HistoryItem {
                id: "<missing>".into(),
                created: step.created.parse::<jiff::Timestamp>().map_or(0, |moment| moment.as_second()),
                created_by: step.created_by,
                tags: None,
                size: i64::try_from(size).unwrap_or(i64::MAX),
                comment: step.comment,
            })
            .collect();
        // Each step on the way down is an image as long as it is known on which one it was made.
        let mut at = Some(image);
        for item in &mut items {
            let Some(image) = at else { break };
            let (tags, _) = super::images::names(&context.engine, &image);
            item.id = image.id.to_string();
            item.tags = Some(tags).filter(|tags| !tags.is_empty());
            at = image.parent.as_ref().and_then(|id| context.engine.graph.images().get(id).cloned());
        }
        Ok(items)
    }
}
