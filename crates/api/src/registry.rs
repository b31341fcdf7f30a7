//! `auth`, `search`, `distribution`: what is asked of registries.

use serde::{Deserialize, Serialize};

use crate::platform::Platform;
use crate::reference::Digest;

/// The answer to `POST /auth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AuthResponse {
    /// `Login Succeeded`.
    pub status: String,
    /// What is kept instead of the password, where the registry gives such a thing.
    pub identity_token: String,
}

/// A line of `GET /images/search`, as registries send it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    /// The repository.
    pub name: String,
    /// What its owner says about it.
    pub description: String,
    /// How many like it.
    pub star_count: u64,
    /// Docker's own.
    pub is_official: bool,
    /// Built automatically; of the past.
    pub is_automated: bool,
}

/// The answer to `GET /distribution/{name}/json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DistributionInspect {
    /// What the name means at its registry.
    pub descriptor: DistributionDescriptor,
    /// What it is for.
    pub platforms: Vec<Platform>,
}

/// Content by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DistributionDescriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}
