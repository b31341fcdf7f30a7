//! Images at rest: the GraphDB, the content store, layers, images, and the writable layers of containers.

mod content;
mod db;
mod error;
mod graph;
mod image;

pub use content::{Content, Ingest};
pub use db::{Entity, GraphDb, ROOT, Transaction, View, join};
pub use error::{Error, Result};
pub use gantry_linux::fs::Durability;
pub use graph::*;
pub use image::{
    DOCUMENT_LIMIT, Descriptor, History, Image, ImageConfig, LAYER_LIMIT, Layer, RootFs, chain_id, digest_of,
};
