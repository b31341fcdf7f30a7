//! Names to addresses without getaddrinfo, which a static binary must not call: what this machine knows, then DNS.

use std::net::SocketAddr;
use std::sync::Arc;

use gantry_transport::addresses_of;
use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

/// The resolver that reqwest is given. `/etc/resolv.conf` is read when the first name needs it.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    dns: Arc<OnceCell<TokioResolver>>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Resolver {
    async fn addresses(&self, host: &str) -> Result<Vec<SocketAddr>, Failure> {
        let known = addresses_of(host);
        if !known.is_empty() {
            return Ok(known.into_iter().map(|address| SocketAddr::new(address, 0)).collect());
        }
        let dns = self.dns.get_or_try_init(|| async { TokioResolver::builder_tokio()?.build() }).await?;
        let found = dns.lookup_ip(host).await.map_err(|error| format!("lookup {host}: {error}"))?;
        Ok(found.iter().map(|address| SocketAddr::new(address, 0)).collect())
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.addresses(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
