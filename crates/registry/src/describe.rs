//! What a name means at its registry, and for which platforms, without pulling it.

use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;

use crate::manifest::{Config, Parsed};
use crate::{Descriptor, Error, Platform, Registry, Result};

impl Registry {
    /// The descriptor of a name at its registry, and the platforms that it has.
    ///
    /// # Errors
    /// As for [`Registry::pull`].
    pub async fn describe(
        &self,
        reference: &Reference,
        auth: Option<&AuthConfig>,
    ) -> Result<(Descriptor, Vec<Platform>)> {
        let reference = reference.clone().with_default_tag();
        let sources = self.sources(&reference)?;
        let own = sources.last().ok_or_else(|| Error::invalid(reference.to_string(), "it has no registry"))?;
        let session = self.session(own, &reference, auth).await?;
        let (document, parsed) = session.manifest(None).await?;
        let platforms = match parsed {
            Parsed::Index(entries) => entries.into_iter().filter_map(|entry| entry.platform).collect(),
            Parsed::Image { config, layers } => {
                let raw = session.blob(&config, "image configuration").await?;
                vec![Config::read(&raw, layers.len())?.platform]
            }
        };
        Ok((document.descriptor, platforms))
    }
}
