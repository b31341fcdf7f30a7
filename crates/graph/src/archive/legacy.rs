//! Archives of `docker save` before Docker 1.10: a directory for each layer, named by an id that means nothing, with the old
//! configuration (`json`) and the archive (`layer.tar`); `repositories` has the names. The configuration that is made of them
//! is the one that Docker's `load` makes, so that the image's id is the same.

use std::collections::{BTreeMap, BTreeSet};

use gantry_api::reference::{Digest, Reference};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::intake::Intake;
use super::load::reference;
use crate::{Error, LAYER_LIMIT, Result, RootFs};

const REPOSITORIES: &str = "repositories";
/// Bytes of all configurations that are held at once.
const CONFIGS_LIMIT: usize = 32 << 20;
/// What an old configuration says of its own place.
const DROPPED: [&str; 6] = ["id", "parent", "Size", "parent_id", "layer_id", "throwaway"];

/// An image of such an archive.
pub(super) struct OldImage {
    /// As today's Docker writes it.
    pub config: Vec<u8>,
    /// Paths of its layers, lowest first.
    pub layers: Vec<String>,
    pub names: Vec<Reference>,
}

/// What matters here of an old configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct OldConfig {
    parent: String,
    created: Option<String>,
    author: String,
    comment: String,
    container_config: OldCommand,
}

impl OldConfig {
    /// Bytes that it takes.
    fn weight(&self) -> usize {
        let words = self.container_config.cmd.iter().flatten().map(|word| size_of::<String>() + word.len());
        let texts = self.parent.len() + self.author.len() + self.comment.len();
        size_of::<Self>() + texts + self.created.as_ref().map_or(0, String::len) + words.sum::<usize>()
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct OldCommand {
    cmd: Option<Vec<String>>,
}

/// A step of the history, its words in Docker's order.
#[derive(Debug, Serialize)]
struct Step {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    author: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    created_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
}

/// The images of an old archive; none where it is not one. Those without a name are the layers that no other stands on.
pub(super) fn images(intake: &Intake<'_>) -> Result<Vec<OldImage>> {
    let ids: Vec<&str> = intake.paths().filter_map(|path| path.strip_suffix("/json")).filter(|id| is_id(id)).collect();
    let (mut configs, mut bytes) = (BTreeMap::new(), 0);
    for id in ids {
        let config = parse(intake, id)?;
        bytes += config.weight();
        if bytes > CONFIGS_LIMIT {
            let why = format!("the configurations of its layers are more than {CONFIGS_LIMIT} bytes");
            return Err(Error::invalid("image archive", why));
        }
        configs.insert(id, config);
    }
    let mut names = named(intake)?;
    let parents: BTreeSet<&str> = configs.values().map(|config| config.parent.as_str()).collect();
    for id in configs.keys().filter(|id| !parents.contains(*id)) {
        names.entry((*id).to_owned()).or_default();
    }
    names.into_iter().map(|(id, names)| image(intake, &configs, &id, names)).collect()
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn parse(intake: &Intake<'_>, id: &str) -> Result<OldConfig> {
    let path = format!("{id}/json");
    let invalid = |error| Error::invalid(format!("{path} of the image archive"), error);
    gantry_api::json::from_slice(&intake.document(&path)?).map_err(invalid)
}

/// The names of each id, sorted.
fn named(intake: &Intake<'_>) -> Result<BTreeMap<String, Vec<Reference>>> {
    let mut names: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
    if !intake.has(REPOSITORIES) {
        return Ok(names);
    }
    let invalid = |error: String| Error::invalid(format!("{REPOSITORIES} of the image archive"), error);
    let repositories: BTreeMap<String, BTreeMap<String, String>> =
        gantry_api::json::from_slice(&intake.document(REPOSITORIES)?).map_err(|error| invalid(error.to_string()))?;
    for (repository, tags) in repositories {
        for (tag, id) in tags {
            names.entry(id).or_default().push(reference(&format!("{repository}:{tag}"))?);
        }
    }
    Ok(names)
}

fn image(
    intake: &Intake<'_>,
    configs: &BTreeMap<&str, OldConfig>,
    id: &str,
    names: Vec<Reference>,
) -> Result<OldImage> {
    let mut chain = Vec::new();
    let mut at = id;
    while !at.is_empty() {
        let config = configs.get(at).ok_or_else(|| {
            Error::invalid("image archive", format!("the layer {at} that {id} stands on is not in it"))
        })?;
        if chain.len() == LAYER_LIMIT {
            return Err(Error::invalid("image archive", format!("{id} stands on more than {LAYER_LIMIT} layers")));
        }
        chain.push((at, config));
        at = &config.parent;
    }
    chain.reverse();
    let layers: Vec<String> = chain.iter().map(|(id, _)| format!("{id}/layer.tar")).collect();
    let diff_ids = layers.iter().map(|path| intake.diff_id(path)).collect::<Result<Vec<_>>>()?;
    let history = chain.into_iter().map(|(_, config)| step(config.clone())).collect();
    let config = modern(&intake.document(&format!("{id}/json"))?, diff_ids, history)
        .map_err(|error| Error::invalid(format!("{id}/json of the image archive"), error))?;
    Ok(OldImage { config, layers, names })
}

fn step(config: OldConfig) -> Step {
    Step {
        created: config.created,
        author: config.author,
        created_by: config.container_config.cmd.unwrap_or_default().join(" "),
        comment: config.comment,
    }
}

/// The old words as they are, those of its place replaced by layers and history.
fn modern(old: &[u8], diff_ids: Vec<Digest>, history: Vec<Step>) -> serde_json::Result<Vec<u8>> {
    let mut words: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(old)?;
    DROPPED.iter().for_each(|word| drop(words.remove(*word)));
    words.insert("rootfs".to_owned(), to_raw_value(&RootFs { kind: "layers".to_owned(), diff_ids })?);
    words.insert("history".to_owned(), to_raw_value(&history)?);
    serde_json::to_vec(&words)
}
