//! Images at rest: the GraphDB, the content store, layers, images, and the writable layers of containers.

mod ahead;
mod archive;
mod blobs;
mod commit;
mod content;
mod damage;
mod db;
mod decompress;
mod error;
mod export;
mod finding;
mod fsck;
mod graph;
mod image;
mod images;
mod import;
mod layers;
mod litter;
mod opening;
mod origin;
mod pushing;
mod records;
mod registration;
mod reindex;
mod removal;
mod repair;
mod shelf;
mod writable;

pub use archive::{Loaded, Progress};
pub use blobs::Blob;
pub use commit::Commit;
pub use content::{Content, Ingest};
pub use db::{DIRECTORY, Entity, GraphDb, ROOT, Transaction, View, join};
pub use decompress::decompress;
pub use error::{Error, Result};
pub use finding::{Finding, Outcome, Place, Problem, Repair};
pub use gantry_linux::fs::Durability;
pub use graph::Graph;
pub use image::{
    DOCUMENT_LIMIT, Descriptor, History, Image, ImageConfig, LAYER_LIMIT, Layer, RootFs, chain_id, digest_of,
};
pub use images::{DamagedImage, Images};
pub use import::Import;
pub use origin::{Document, Origin};
pub use pushing::{Came, Held};
pub use registration::{Manifest, Registration, Unpacked};
pub use removal::{Removed, Use};
