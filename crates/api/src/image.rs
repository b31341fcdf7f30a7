//! Images: lists, inspect, history, removal.

mod inspect;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::Config;
use crate::inspect::GraphDriverData;
use crate::reference::Digest;

/// One line of `docker images`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct ImageSummary {
    pub id: String,
    pub parent_id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub created: i64,
    pub size: i64,
    /// -1 where it was not computed.
    pub shared_size: i64,
    pub labels: Option<BTreeMap<String, String>>,
    /// -1 where it was not computed.
    pub containers: i64,
}

/// `GET /images/{name}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct ImageInspect {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub parent: String,
    pub comment: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created: String,
    pub docker_version: String,
    pub author: String,
    pub config: Config,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    pub size: i64,
    pub virtual_size: i64,
    pub graph_driver: GraphDriverData,
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    pub metadata: ImageMetadata,
}

/// The layers of an image, lowest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct RootFs {
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

/// What is known of an image here and nowhere else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct ImageMetadata {
    pub last_tag_time: String,
}

/// One line of `GET /images/{name}/history`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct HistoryItem {
    pub id: String,
    pub created: i64,
    pub created_by: String,
    pub tags: Option<Vec<String>>,
    pub size: i64,
    pub comment: String,
}

/// A layer in the graph of all images: what stands on what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct GraphNode {
    /// The layer's chain id; of an image without layers its own id.
    pub id: String,
    /// The layer below; empty where there is none.
    pub parent: String,
    /// Bytes of content in it.
    pub size: i64,
    /// Bytes of content with everything below.
    pub virtual_size: i64,
    /// The images that it is the uppermost layer of.
    pub images: Vec<String>,
    /// Their tags.
    pub tags: Vec<String>,
}

impl GraphNode {
    /// The graph in the language of graphviz.
    #[must_use]
    pub fn dot(nodes: &[Self]) -> String {
        let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let mut text = String::from("digraph docker {\n");
        for node in nodes {
            let id = short(&node.id);
            let edge = match node.parent.as_str() {
                "" => format!(" base -> \"{id}\" [style=invis]\n"),
                parent => format!(" \"{}\" -> \"{id}\"\n", short(parent)),
            };
            text.push_str(&edge);
        }
        for node in nodes.iter().filter(|node| !node.tags.is_empty()) {
            let (id, tags) = (short(&node.id), node.tags.join("\\n"));
            let look = "shape=box,fillcolor=\"paleturquoise\",style=\"filled,rounded\"";
            text.push_str(&format!(" \"{id}\" [label=\"{id}\\n{tags}\",{look}];\n"));
        }
        text.push_str(" base [style=invisible]\n}\n");
        text
    }
}

/// Answer to `POST /commit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct Committed {
    pub id: String,
}

/// One step of a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct ImageDeleted {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub untagged: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deleted: String,
}

/// Whether the entry of an index that has these annotations is an attestation of the manifest: what BuildKit writes beside an
/// image about how it was made.
#[must_use]
pub fn attests(annotations: &BTreeMap<String, String>, manifest: &Digest) -> bool {
    let says = |key: &str, word: &str| annotations.get(key).is_some_and(|value| value == word);
    says("vnd.docker.reference.type", "attestation-manifest") && says("vnd.docker.reference.digest", manifest.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_drawn_with_its_edges_and_names() {
        let node = |id: &str, parent: &str, tags: &[&str]| GraphNode {
            id: id.into(),
            parent: parent.into(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..GraphNode::default()
        };
        let drawn = GraphNode::dot(&[node("sha256:aa", "", &[]), node("sha256:bb", "sha256:aa", &["a:1", "b:2"])]);
        let look = "shape=box,fillcolor=\"paleturquoise\",style=\"filled,rounded\"";
        let wanted = [
            "digraph docker {".to_owned(),
            " base -> \"aa\" [style=invis]".to_owned(),
            " \"aa\" -> \"bb\"".to_owned(),
            format!(" \"bb\" [label=\"bb\\na:1\\nb:2\",{look}];"),
            " base [style=invisible]".to_owned(),
            "}".to_owned(),
        ];
        assert_eq!(drawn.lines().collect::<Vec<_>>(), wanted);
    }
}
