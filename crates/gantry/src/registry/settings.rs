//! What `gantry registry serve` is told: flags over the configuration file, each thing in one of them only.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use gantry_registry::server::config::{Config, Size, TlsSettings};
use gantry_registry::server::proxy::ProxySettings;

const ADDR: &str = "127.0.0.1:5000";
const ROOT: &str = "/var/lib/gantry-registry";

/// What can be in the file, too.
#[derive(Debug, Args)]
pub struct SettingFlags {
    /// Address and port to serve [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDRESS")]
    addr: Option<String>,
    /// Directory of what is served [default: /var/lib/gantry-registry]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Configuration, TOML or JSON: users, rules, limits and all that has no flag
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Refuse whatever would change something
    #[arg(long)]
    read_only: bool,
    /// Listen beyond loopback though there is no authentication or no TLS
    #[arg(long)]
    insecure: bool,
    /// Users and their passwords, as htpasswd -B writes them
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Cache what is pulled of this registry; may be given several times
    #[arg(long, value_name = "NAME[=URL]")]
    proxy: Vec<ProxySettings>,
    /// How much of other registries is kept, like 20GiB
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<Size>,
    /// File of the access log; - is the standard output
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
}

impl SettingFlags {
    /// Reads the file, if one is named, and puts the flags beside what it says.
    ///
    /// # Errors
    /// A file that cannot be used; a setting that is in both.
    pub fn config(&self) -> Result<Config> {
        let file = self.config.as_deref().map(Config::read).transpose()?;
        let mut config = file.unwrap_or_default();
        let flags = self.tls_cert.clone().zip(self.tls_key.clone());
        let tls = flags.map(|(cert, key)| TlsSettings { cert, key, client_ca: None });
        put("addr", &mut config.addr, self.addr.clone())?;
        put("root", &mut config.root, self.root.clone())?;
        put("auth.htpasswd", &mut config.auth.htpasswd, self.htpasswd.clone())?;
        put("tls", &mut config.tls, tls)?;
        put("access-log.file", &mut config.access_log.file, self.access_log.clone())?;
        if let Some(size) = self.cache_size {
            let mut set = Some(config.cache.size).filter(|size| size.0 > 0);
            put("cache.size", &mut set, Some(size))?;
            config.cache.size = size;
        }
        if !self.proxy.is_empty() && !config.proxy.is_empty() {
            bail!("the setting proxy is in the configuration and given as a flag as well: keep one of them");
        }
        config.proxy.extend(self.proxy.iter().cloned());
        config.read_only |= self.read_only;
        config.insecure |= self.insecure;
        Ok(config)
    }

    /// Whether it was said for as long as the server runs that nothing may be changed.
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }
}

/// Where to listen.
///
/// # Errors
/// When it is no address.
pub fn addr(config: &Config) -> Result<SocketAddr> {
    let text = config.addr.as_deref().unwrap_or(ADDR);
    let text = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    text.parse().with_context(|| format!("addr {text:?}: want an IP address and a port, like {ADDR}"))
}

/// Where everything is kept.
pub fn root(config: &Config) -> PathBuf {
    config.root.clone().unwrap_or_else(|| ROOT.into())
}

fn put<T>(name: &str, setting: &mut Option<T>, flag: Option<T>) -> Result<()> {
    if setting.is_some() && flag.is_some() {
        bail!("the setting {name} is in the configuration and given as a flag as well: keep one of them");
    }
    if flag.is_some() {
        *setting = flag;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: SettingFlags,
    }

    fn config(arguments: &[&str]) -> Result<Config> {
        let line = Line::try_parse_from(std::iter::once("serve").chain(arguments.iter().copied()))?;
        line.flags.config()
    }

    #[test]
    fn flags_and_file_are_one_configuration_and_no_setting_is_in_both() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("registry.toml");
        gantry_linux::fs::write(&file, "addr = \"127.0.0.1:1\"\n[cache]\nsize = 5\n[[proxy]]\nname = \"a.b\"\n")
            .unwrap();
        let file = file.to_str().unwrap();
        let both = config(&["--config", file, "--htpasswd", "/x", "--read-only"]).unwrap();
        assert_eq!((addr(&both).unwrap().port(), both.read_only), (1, true));
        assert_eq!(both.auth.htpasswd.as_deref(), Some("/x".as_ref()));
        for flags in [["--addr", "127.0.0.1:2"], ["--proxy", "c.d"], ["--cache-size", "1GiB"]] {
            let error = config(&["--config", file, flags[0], flags[1]]).unwrap_err().to_string();
            assert!(error.contains("keep one of them"), "{error}");
        }
        let alone = config(&["--proxy", "docker.io", "--proxy", "hub.test=http://127.0.0.1:1", "--cache-size", "1GiB"])
            .unwrap();
        assert_eq!((alone.proxy.len(), alone.cache.size), (2, Size(1 << 30)));
        assert_eq!((addr(&alone).unwrap().to_string().as_str(), root(&alone)), (ADDR, ROOT.into()));
        assert!(config(&["--tls-cert", "/x"]).is_err() && config(&["--proxy", "localhost"]).is_err());
        assert!(addr(&config(&["--addr", "registry:5000"]).unwrap()).is_err());
        assert_eq!(addr(&config(&["--addr", "localhost:5000"]).unwrap()).unwrap().to_string(), ADDR);
    }
}
