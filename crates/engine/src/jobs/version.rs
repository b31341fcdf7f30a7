//! `version`: what the daemon is.

use std::collections::BTreeMap;

use gantry_api::ApiVersion;
use gantry_api::system::{self, Component, Platform};

use crate::error::Result;
use crate::job::{Class, Context, Job};

/// The daemon's version.
pub struct Version;

/// Of the whole product.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Job for Version {
    const NAME: &'static str = "version";
    const DOC: &'static str = "tells the daemon's version";
    const CLASS: Class = Class::Read;
    type Output = system::Version;

    async fn run(self, context: Context) -> Result<system::Version> {
        let kernel = context.engine.host.kernel.clone();
        let details = BTreeMap::from([
            ("ApiVersion".to_owned(), ApiVersion::NEWEST.to_string()),
            ("Arch".into(), architecture().into()),
            ("KernelVersion".into(), kernel.clone()),
            ("MinAPIVersion".into(), ApiVersion::OLDEST.to_string()),
            ("Os".into(), "linux".into()),
        ]);
        Ok(system::Version {
            platform: Platform { name: "Gantry".into() },
            components: vec![Component { name: "Engine".into(), version: VERSION.into(), details }],
            version: VERSION.into(),
            api_version: ApiVersion::NEWEST.to_string(),
            min_api_version: ApiVersion::OLDEST.to_string(),
            os: "linux".into(),
            arch: architecture().into(),
            kernel_version: kernel,
            ..system::Version::default()
        })
    }
}

/// Go's name of this machine's architecture.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
