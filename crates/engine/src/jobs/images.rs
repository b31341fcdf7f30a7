//! `images`: the list that `docker images` shows.

use std::cmp::Reverse;
use std::sync::Arc;

use gantry_api::filters::Filters;
use gantry_api::image::ImageSummary;
use gantry_graph::Image;

use crate::engine::Engine;
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::policy::Subject;

/// Lists images.
pub struct Images {
    /// Only of this repository or name (before API 1.25: `filter=`).
    pub name: Option<String>,
    /// Those without a name that others were made on top of as well.
    pub all: bool,
    /// As the query says them.
    pub filters: Option<String>,
}

impl Job for Images {
    const NAME: &'static str = "images";
    const DOC: &'static str = "lists images";
    const CLASS: Class = Class::Read;
    type Output = Vec<ImageSummary>;

    fn subject(&self) -> Subject<'_> {
        Subject::Image
    }

    async fn run(self, context: Context) -> Result<Vec<ImageSummary>> {
        let known = ["before", "dangling", "label", "label!", "reference", "since", "until"];
        let mut filters = Filters::parse(self.filters.as_deref(), &known)?;
        if let Some(name) = self.name.filter(|name| !name.is_empty()) {
            filters.add("reference", name);
        }
        list(&context.engine, &filters, self.all)
    }
}

/// When an image was created; 1970 where it does not say.
pub(super) fn created(image: &Image) -> jiff::Timestamp {
    image.config.created.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

pub(super) fn list(engine: &Engine, filters: &Filters, all: bool) -> Result<Vec<ImageSummary>> {
    let images = engine.graph.images();
    let moment = |name: &str| crate::images::find(engine, name).map(|image| created(&image));
    let before = filters.get("before").map(moment).collect::<Result<Vec<_>>>()?;
    let since = filters.get("since").map(moment).collect::<Result<Vec<_>>>()?;
    let dangling = filters.boolean("dangling")?;
    let until = super::prune::until(filters)?;
    let mut sorted: Vec<Arc<Image>> = images.iter().cloned().collect();
    sorted.sort_by_key(|image| Reverse(created(image)));
    let mut list = Vec::new();
    for image in sorted {
        let (tags, digests) = names(engine, &image);
        let labels = image.config.config.as_ref().and_then(|config| config.labels.clone());
        let references: Vec<&str> = filters.get("reference").collect();
        let shown_tags: Vec<String> = if references.is_empty() {
            tags.clone()
        } else {
            tags.iter()
                .filter(|tag| references.iter().any(|pattern| reference_matches(tag, pattern)))
                .cloned()
                .collect()
        };
        let shown_digests = digests.into_iter().filter(|name| {
            let repository = name.split('@').next().unwrap_or_default();
            references.is_empty() || references.iter().any(|pattern| reference_matches(repository, pattern))
        });
        let shown_digests: Vec<String> = shown_digests.collect();
        let wanted = filters.labels(&labels.clone().unwrap_or_default())
            && before.iter().all(|moment| created(&image) < *moment)
            && since.iter().all(|moment| created(&image) > *moment)
            && until.is_none_or(|until| created(&image) < until)
            && (all || !tags.is_empty() || !images.has_children(&image.id))
            && dangling.is_none_or(|dangling| tags.is_empty() == dangling)
            && (references.is_empty() || !shown_tags.is_empty() || !shown_digests.is_empty());
        if wanted {
            list.push(ImageSummary {
                id: image.id.to_string(),
                parent_id: image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
                repo_tags: shown_tags,
                repo_digests: shown_digests,
                created: created(&image).as_second(),
                size: i64::try_from(image.size()).unwrap_or(i64::MAX),
                shared_size: -1,
                labels,
                containers: -1,
            });
        }
    }
    Ok(list)
}

/// Tags and repo digests as people write them.
pub(super) fn names(engine: &Engine, image: &Image) -> (Vec<String>, Vec<String>) {
    let names = engine.graph.images().names(&image.id);
    let (digests, tags): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.digest().is_some());
    let familiar = |list: Vec<&gantry_api::reference::Reference>| list.iter().map(|name| name.familiar()).collect();
    (familiar(tags), familiar(digests))
}

/// Whether `name:tag` matches a pattern with `*` and `?`; a pattern without a tag matches every tag.
fn reference_matches(name: &str, pattern: &str) -> bool {
    let repository = match name.rfind(':') {
        Some(colon) if !name[colon..].contains('/') => &name[..colon],
        _ => name,
    };
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), repository.as_bytes())
}

/// Linear in the worst case that matters: only the last star is ever tried again. `*` and `?` do not match a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == text[t] || (*wanted == b'?' && text[t] != b'/') => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) if text[from] != b'/' => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_patterns_match_with_and_without_a_tag() {
        for (pattern, yes) in
            [("debian", true), ("debian:1*", true), ("deb*", true), ("debian:11", false), ("*/debian", false)]
        {
            assert_eq!(reference_matches("debian:12", pattern), yes, "{pattern}");
        }
        assert!(reference_matches("localhost:5000/a", "localhost:5000/a"));
        assert!(reference_matches("a/b:t", "*/b") && !reference_matches("a/b:t", "*"));
    }

    #[test]
    fn a_pattern_of_stars_costs_no_time() {
        assert!(!glob(&[vec![b'*'; 4000], b"x".to_vec()].concat(), &[b'a'; 300]));
    }
}
