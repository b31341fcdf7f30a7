//! `distribution`: what a name means at its registry.

use gantry_api::reference::Reference;
use gantry_api::registry::{DistributionDescriptor, DistributionInspect};
use gantry_api::system::AuthConfig;

use crate::error::Result;
use crate::job::{Class, Context, Job};

/// Asks a registry about a name.
pub struct Distribution {
    /// The name.
    pub reference: Reference,
    /// The caller's credentials.
    pub auth: Option<AuthConfig>,
}

impl Job for Distribution {
    const NAME: &'static str = "distribution";
    const DOC: &'static str = "asks a registry what a name means and for which platforms it is";
    const CLASS: Class = Class::Read;
    type Output = DistributionInspect;

    fn arguments(&self) -> String {
        self.reference.familiar()
    }

    async fn run(self, context: Context) -> Result<DistributionInspect> {
        let (found, platforms) = context.engine.registry.describe(&self.reference, self.auth.as_ref()).await?;
        let descriptor =
            DistributionDescriptor { media_type: found.media_type, digest: found.digest, size: found.size };
        Ok(DistributionInspect { descriptor, platforms })
    }
}
