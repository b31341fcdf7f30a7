//! Proxies: those that the daemon was told, else those of its environment; never for this machine itself.

use reqwest::{ClientBuilder, NoProxy, Proxy};

use crate::{Error, Result};

/// What the daemon was told. Where it was told nothing, `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` are followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For http.
    pub http: String,
    /// For https.
    pub https: String,
    /// Hosts, domains and networks that are reached without, with commas between.
    pub no_proxy: String,
}

impl Proxies {
    /// That they are addresses.
    ///
    /// # Errors
    /// Says which one is none.
    pub fn check(&self) -> Result<()> {
        self.all().map(drop)
    }

    fn all(&self) -> Result<Vec<Proxy>> {
        let make = |url: &String, make: fn(String) -> reqwest::Result<Proxy>| {
            // The address may have a password in it.
            let proxy =
                make(url.clone()).map_err(|_| Error::invalid("proxy", "it is not a URL of http, https or socks5"));
            Ok(proxy?.no_proxy(NoProxy::from_string(&self.no_proxy)))
        };
        let (http, https) = (Some(&self.http), Some(&self.https));
        let http = http.filter(|url| !url.is_empty()).map(|url| make(url, Proxy::http));
        let https = https.filter(|url| !url.is_empty()).map(|url| make(url, Proxy::https));
        http.into_iter().chain(https).collect()
    }

    pub(crate) fn add_to(&self, mut builder: ClientBuilder) -> Result<ClientBuilder> {
        for proxy in self.all()? {
            builder = builder.proxy(proxy);
        }
        Ok(builder)
    }
}
