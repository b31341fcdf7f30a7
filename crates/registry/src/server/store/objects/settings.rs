//! Which bucket, and what opens it.

use std::fmt;
use std::path::PathBuf;

use gantry_linux::fs;
use serde::Deserialize;

use crate::options::is_loopback;
use crate::server::proxy::Address;

const KEY_LIMIT: usize = 4096;
const REGION: &str = "us-east-1";

/// The section `storage.s3`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct S3Settings {
    /// Its name.
    pub bucket: String,
    /// Before all names in it.
    #[serde(default)]
    pub prefix: String,
    /// What requests are signed for.
    #[serde(default = "region")]
    pub region: String,
    /// Where it is, unless it is AWS.
    #[serde(default)]
    pub endpoint: Option<Address>,
    /// The bucket's name is in the host's, as at AWS, and not in the path.
    #[serde(default)]
    pub virtual_hosts: bool,
    /// Lets the endpoint speak http beyond this machine.
    #[serde(default)]
    pub insecure: bool,
    /// Which key is used; `AWS_ACCESS_KEY_ID` of the environment unless said.
    #[serde(default)]
    pub access_key_id: Option<String>,
    /// The file with its secret; nothing secret need be in the configuration.
    #[serde(default)]
    pub secret_access_key_file: Option<PathBuf>,
}

fn region() -> String {
    REGION.to_owned()
}

/// What opens a bucket.
#[derive(Clone)]
pub struct Keys {
    /// Which key.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// What goes with keys that were given for some hours.
    pub session: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

impl S3Settings {
    /// That it can be a bucket, reached as it should be.
    ///
    /// # Errors
    /// Says which key is wrong.
    pub fn check(&self) -> Result<(), String> {
        let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if self.bucket.is_empty() || !is_plain(&self.bucket) {
            return Err(format!("storage.s3.bucket {:.100?}: want letters, digits, - and .", self.bucket));
        }
        let parts = || self.prefix.split('/');
        if !self.prefix.is_empty() && !parts().all(|part| is_plain(part) && !part.trim_matches('.').is_empty()) {
            return Err(format!(
                "storage.s3.prefix {:.100?}: want names with / between them, like team/registry",
                self.prefix
            ));
        }
        if self.access_key_id.is_some() != self.secret_access_key_file.is_some() {
            return Err("storage.s3: access-key-id and secret-access-key-file go together".to_owned());
        }
        let is_open = |endpoint: &Address| endpoint.0.scheme() == "http" && !is_loopback(&endpoint.0);
        if self.endpoint.as_ref().is_some_and(is_open) && !self.insecure {
            let message = "storage.s3.endpoint is http: images would go over the network for all to read and change; use https, \
                           or allow it with insecure = true";
            return Err(message.to_owned());
        }
        Ok(())
    }

    /// The endpoint as requests begin with it.
    pub(super) fn address(&self) -> Option<String> {
        let url = &self.endpoint.as_ref()?.0;
        let authority = if self.virtual_hosts {
            format!("{}.{}", self.bucket, url.authority())
        } else {
            url.authority().to_owned()
        };
        Some(format!("{}://{authority}", url.scheme()))
    }

    /// Those of the configuration, else those of the environment.
    ///
    /// # Errors
    /// When there are none, or the file cannot be read.
    pub fn keys(&self, environment: impl Fn(&str) -> Option<String>) -> Result<Keys, String> {
        if let (Some(id), Some(file)) = (&self.access_key_id, &self.secret_access_key_file) {
            let secret = fs::read_to_string_up_to(file, KEY_LIMIT).map_err(|error| error.to_string())?;
            return Ok(Keys { id: id.clone(), secret: secret.trim().to_owned(), session: None });
        }
        let said = |name: &str| environment(name).filter(|value| !value.is_empty());
        match (said("AWS_ACCESS_KEY_ID"), said("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => Ok(Keys { id, secret, session: said("AWS_SESSION_TOKEN") }),
            _ => Err(format!(
                "nothing opens the bucket {}: set storage.s3.access-key-id and secret-access-key-file, or AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY in the environment",
                self.bucket
            )),
        }
    }
}
