//! `viz`: what stands on what, of all images.

use std::collections::BTreeMap;

use gantry_api::image::GraphNode;
use gantry_api::reference::Digest;
use gantry_graph::Images;

use crate::error::Result;
use crate::job::{Class, Context, Job};

/// Tells the graph of layers and images, each layer after the one below it.
pub struct Viz;

impl Job for Viz {
    const NAME: &'static str = "viz";
    const DOC: &'static str = "tells which layers and images stand on which";
    const CLASS: Class = Class::Read;
    type Output = Vec<GraphNode>;

    async fn run(self, context: Context) -> Result<Vec<GraphNode>> {
        Ok(nodes(&context.engine.graph.images()))
    }
}

fn nodes(images: &Images) -> Vec<GraphNode> {
    // By height, so that a layer comes after the one below it.
    let mut nodes: BTreeMap<(usize, Digest), GraphNode> = BTreeMap::new();
    let bytes = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    for image in images.iter() {
        let mut whole = 0;
        for (height, layer) in image.layers.iter().enumerate() {
            whole += layer.size;
            nodes.entry((height, layer.chain_id.clone())).or_insert_with(|| GraphNode {
                id: layer.chain_id.to_string(),
                parent: layer.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
                size: bytes(layer.size),
                virtual_size: bytes(whole),
                ..GraphNode::default()
            });
        }
        let top = match image.top() {
            Some(top) => (image.layers.len() - 1, top.clone()),
            None => (0, image.id.clone()),
        };
        let node = nodes.entry(top).or_insert_with(|| GraphNode { id: image.id.to_string(), ..GraphNode::default() });
        node.images.push(image.id.to_string());
        node.tags
            .extend(images.names(&image.id).iter().filter(|name| name.tag().is_some()).map(|name| name.familiar()));
    }
    nodes.into_values().collect()
}
