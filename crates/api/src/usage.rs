//! `GET /system/df`: what takes how much of the disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::ContainerSummary;
use crate::image::ImageSummary;
use crate::volume::Volume;

/// The answer: the objects up to API 1.51, sums by kind from 1.52 on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DiskUsage {
    /// Bytes of all layers, each counted once.
    #[serde(skip_serializing_if = "is_zero")]
    pub layers_size: u64,
    /// The images, sizes filled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<ImageSummary>>,
    /// The containers, sizes filled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<ContainerSummary>>,
    /// The volumes, sizes filled in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Volume>>,
    /// The build cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_cache: Option<Vec<serde_json::Value>>,
    /// `ImageUsage`, `ContainerUsage`, `VolumeUsage`, `BuildCacheUsage`.
    #[serde(flatten)]
    pub newer: BTreeMap<String, Usage>,
}

/// Sums of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the words of the API")]
pub struct Usage {
    pub active_count: u64,
    pub total_count: u64,
    pub reclaimable: i64,
    pub total_size: i64,
    /// The objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<serde_json::Value>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}
