//! Paths: `/v2/<name with slashes>/blobs/<digest>` and its like become a [`Route`].

use super::failure::{Code, Failure, Result};
use super::names::{Digest, Name, Target};
use super::upload_id::UploadId;

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are what their types say")]
pub enum Route {
    /// `/v2/`: is this a registry, and are these credentials good?
    Base,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/<name>/blobs/<digest>`.
    Blob { name: Name, digest: Digest },
    /// `/v2/<name>/blobs/uploads/`.
    Uploads { name: Name },
    /// `/v2/<name>/blobs/uploads/<id>`.
    Upload { name: Name, id: UploadId },
    /// `/v2/<name>/manifests/<tag or digest>`.
    Manifest { name: Name, target: Target },
    /// `/v2/<name>/tags/list`.
    Tags { name: Name },
    /// `/v2/<name>/referrers/<digest>`.
    Referrers { name: Name, digest: Digest },
    /// `/v1/search`, as Docker Hub has it.
    Search,
    /// `/health`.
    Health,
    /// Nothing of the protocol: perhaps a [`Door`](super::Door) has it.
    Other,
}

impl Route {
    /// Reads a path, percent-encoded as it came.
    ///
    /// # Errors
    /// When a name, tag or digest in it follows no grammar.
    pub fn parse(path: &str) -> Result<Self> {
        let path = percent_decode(path, false)?;
        let Some(rest) = path.strip_prefix("/v2") else {
            return Ok(match path.as_str() {
                "/v1/search" => Self::Search,
                "/health" => Self::Health,
                _ => Self::Other,
            });
        };
        match rest {
            "" | "/" => return Ok(Self::Base),
            "/_catalog" => return Ok(Self::Catalog),
            _ => {}
        }
        // From the end: a repository may be called blobs/manifests.
        let mut parts = rest.split('/').skip(1).collect::<Vec<_>>();
        let last = parts.pop().unwrap_or_default();
        let kind = parts.pop().unwrap_or_default();
        match (kind, last) {
            ("blobs", "uploads") => Ok(Self::Uploads { name: name(&parts)? }),
            ("uploads", id) if parts.last() == Some(&"blobs") => {
                parts.pop();
                let name = name(&parts)?;
                Ok(if id.is_empty() { Self::Uploads { name } } else { Self::Upload { name, id: id.parse()? } })
            }
            ("blobs", digest) => Ok(Self::Blob { name: name(&parts)?, digest: digest.parse()? }),
            ("manifests", target) => Ok(Self::Manifest { name: name(&parts)?, target: target.parse()? }),
            ("tags", "list") => Ok(Self::Tags { name: name(&parts)? }),
            ("referrers", digest) => Ok(Self::Referrers { name: name(&parts)?, digest: digest.parse()? }),
            _ => Ok(Self::Other),
        }
    }

    /// The repository that it is about.
    #[must_use]
    pub const fn repository(&self) -> Option<&Name> {
        match self {
            Self::Blob { name, .. }
            | Self::Uploads { name }
            | Self::Upload { name, .. }
            | Self::Manifest { name, .. }
            | Self::Tags { name }
            | Self::Referrers { name, .. } => Some(name),
            Self::Base | Self::Catalog | Self::Search | Self::Health | Self::Other => None,
        }
    }

    /// The same of another repository.
    #[must_use]
    pub fn renamed(mut self, to: Name) -> Self {
        match &mut self {
            Self::Blob { name, .. }
            | Self::Uploads { name }
            | Self::Upload { name, .. }
            | Self::Manifest { name, .. }
            | Self::Tags { name }
            | Self::Referrers { name, .. } => *name = to,
            Self::Base | Self::Catalog | Self::Search | Self::Health | Self::Other => {}
        }
        self
    }

    /// One word, for metrics and logs.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Blob { .. } => "blob",
            Self::Uploads { .. } | Self::Upload { .. } => "upload",
            Self::Manifest { .. } => "manifest",
            Self::Tags { .. } => "tags",
            Self::Referrers { .. } => "referrers",
            Self::Search => "search",
            Self::Health => "health",
            Self::Other => "other",
        }
    }
}

fn name(parts: &[&str]) -> Result<Name> {
    Ok(parts.join("/").parse()?)
}

/// What follows the question mark.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads it.
    ///
    /// # Errors
    /// When an escape in it is broken.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((percent_decode(name, true)?, percent_decode(value, true)?))
        };
        pairs.map(pair).collect::<Result<_>>().map(Self)
    }

    /// The first value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every value of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Undoes percent-encoding; in queries `+` is a blank.
fn percent_decode(text: &str, query: bool) -> Result<String> {
    gantry_transport::percent_decode(text, query).ok_or_else(|| {
        Failure::new(Code::Unsupported, format!("the URL has a broken escape: {text:.200?}"))
            .status(http::StatusCode::BAD_REQUEST)
    })
}

/// Encodes a value for a query.
pub fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b':') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes everything");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_repository_may_be_called_as_the_protocols_words() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let route = |path: &str| Route::parse(path).unwrap();
        let name = |text: &str| text.parse::<Name>().unwrap();
        assert_eq!(route(&format!("/v2/blobs/blobs/{digest}")).repository(), Some(&name("blobs")));
        assert_eq!(route("/v2/a/manifests/tags/list"), Route::Tags { name: name("a/manifests") });
        assert_eq!(route("/v2/a/blobs/uploads/"), Route::Uploads { name: name("a") });
        assert_eq!(route("/v2/a/blobs/uploads"), Route::Uploads { name: name("a") });
        let id = UploadId::random().unwrap();
        assert_eq!(route(&format!("/v2/uploads/blobs/uploads/{id}")), Route::Upload { name: name("uploads"), id });
        assert_eq!(route(&format!("/v2/a/b/blobs/{}", digest.replace(':', "%3A"))).label(), "blob");
        assert_eq!(route("/v2"), Route::Base);
        assert_eq!(route("/v2/_catalog"), Route::Catalog);
        assert_eq!(route("/v2/a"), Route::Other);
        assert_eq!(route("/metrics"), Route::Other);
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_code() {
        for (path, code) in [
            ("/v2/A/tags/list", Code::NameInvalid),
            ("/v2/a/../b/tags/list", Code::NameInvalid),
            ("/v2/a/%2e%2e/b/tags/list", Code::NameInvalid),
            ("/v2/a%00/tags/list", Code::NameInvalid),
            ("/v2/a/manifests/.x", Code::TagInvalid),
            ("/v2/a/blobs/sha256:1", Code::DigestInvalid),
            ("/v2/a/blobs/uploads/1", Code::BlobUploadUnknown),
            ("/v2/tags/list", Code::NameInvalid),
        ] {
            assert_eq!(Route::parse(path).unwrap_err().code, code, "{path}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_never_panics(path in "(/v2)?(/(blobs|uploads|tags|[a-zA-Z0-9:%._-]{0,9})){0,7}") {
            if let Ok(route) = Route::parse(&path)
                && let Some(name) = route.repository()
            {
                prop_assert!(name.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
            }
        }

        #[test]
        fn what_is_encoded_is_decoded(text in ".{0,40}") {
            prop_assert_eq!(percent_decode(&percent_encode(&text), true).unwrap(), text);
        }
    }
}
