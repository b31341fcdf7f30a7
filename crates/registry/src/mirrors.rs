//! Mirrors: where else the images of a registry, or of some repositories of it, may be had.

use std::fmt;

use gantry_api::reference::Reference;
use gantry_api::system::AuthConfig;
use reqwest::Url;
use serde::Deserialize;

use crate::OptionsError;

/// What `registries` of `daemon.json` says of one registry.
///
/// `prefix` is a registry, or a registry and the beginning of repositories' names there; of several that fit a name the
/// longest one counts. Its mirrors are asked in their order before the registry itself. A mirror's `location` takes the
/// place of the prefix: with the prefix `docker.io/library` and the location `https://cache.lan/hub`,
/// `docker.io/library/debian` is `hub/debian` at `cache.lan`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Written")]
pub struct Mirrored {
    /// `host[:port][/repository…]`.
    prefix: String,
    mirrors: Vec<Mirror>,
}

/// One mirror.
#[derive(Clone)]
pub struct Mirror {
    /// Its address, without a path.
    pub url: Url,
    /// What its repositories' names begin with.
    pub repository: String,
    /// Who we are there. What a client has for the registry never goes to a mirror.
    pub auth: Option<AuthConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    prefix: String,
    mirrors: Vec<WrittenMirror>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenMirror {
    Location(String),
    Full(FullMirror),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FullMirror {
    location: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identity_token: String,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.url, self.repository)
    }
}

impl Mirror {
    /// A mirror of the whole of a registry.
    pub const fn whole(url: Url) -> Self {
        Self { url, repository: String::new(), auth: None }
    }

    fn parse(text: &str) -> Result<Self, OptionsError> {
        let fail = || OptionsError::Location(text.to_owned());
        let mut url = Url::parse(text).map_err(|_| fail())?;
        let bare = url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !bare || !anonymous {
            return Err(fail());
        }
        let repository = url.path().trim_matches('/').to_owned();
        url.set_path("/");
        if !repository.is_empty() && Reference::parse(&format!("host.test/{repository}/x")).is_err() {
            return Err(fail());
        }
        Ok(Self { url, repository, auth: None })
    }
}

impl TryFrom<Written> for Mirrored {
    type Error = OptionsError;

    fn try_from(written: Written) -> Result<Self, OptionsError> {
        let prefix = written.prefix.trim_end_matches('/').to_owned();
        let is_name = !prefix.contains("://")
            && Reference::parse(&format!("{prefix}/x")).is_ok_and(|name| {
                format!("{}/{}", name.domain(), name.path()) == format!("{prefix}/x")
                // Docker Hub's names are one word deeper than they are written.
                || format!("{}/{}", name.domain(), name.path()) == format!("{prefix}/library/x")
            });
        if !is_name {
            return Err(OptionsError::Prefix(written.prefix));
        }
        let mirror = |mirror: WrittenMirror| match mirror {
            WrittenMirror::Location(location) => Mirror::parse(&location),
            WrittenMirror::Full(FullMirror { location, username, password, identity_token }) => {
                let auth = AuthConfig { username, password, identitytoken: identity_token, ..AuthConfig::default() };
                let is_known = !auth.username.is_empty() || !auth.identitytoken.is_empty();
                Ok(Mirror { auth: Some(auth).filter(|_| is_known), ..Mirror::parse(&location)? })
            }
        };
        Ok(Self { prefix, mirrors: written.mirrors.into_iter().map(mirror).collect::<Result<_, _>>()? })
    }
}

impl Mirrored {
    /// What is left of a name after the prefix; none where it has another one.
    fn rest<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_prefix(&self.prefix)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }
}

/// The mirrors that may have an image, best first, each with the repository's name there.
pub fn of(rules: &[Mirrored], reference: &Reference) -> Vec<(Mirror, String)> {
    let name = format!("{}/{}", reference.domain(), reference.path());
    let fitting = rules.iter().filter_map(|rule| Some((rule, rule.rest(&name)?)));
    let Some((rule, rest)) = fitting.max_by_key(|(rule, _)| rule.prefix.len()) else { return Vec::new() };
    let mirrored = rule.mirrors.iter().map(|mirror| {
        let parts = [mirror.repository.as_str(), rest];
        let repository: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        (mirror.clone(), repository.join("/"))
    });
    // The prefix may be the whole name, and the mirror have none: then there is nothing to ask for.
    mirrored.filter(|(_, repository)| !repository.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Vec<Mirrored>, serde_json::Error> {
        serde_json::from_str(text)
    }

    fn asked(rules: &[Mirrored], name: &str) -> Vec<String> {
        let found = of(rules, &name.parse().unwrap());
        found.into_iter().map(|(mirror, repository)| format!("{}{repository}", mirror.url)).collect()
    }

    #[test]
    fn the_longest_prefix_counts_and_its_place_is_taken_by_the_location() {
        let rules = rules(
            r#"[{"prefix": "docker.io", "mirrors": ["https://cache.lan", {"location": "http://10.0.0.1:5000/hub"}]},
                {"prefix": "docker.io/library", "mirrors": ["https://own.lan/base/"]},
                {"prefix": "ghcr.io/team/app", "mirrors": ["https://own.lan", "https://own.lan/apps/app"]}]"#,
        )
        .unwrap();
        assert_eq!(asked(&rules, "debian"), ["https://own.lan/base/debian"]);
        assert_eq!(asked(&rules, "team/app"), ["https://cache.lan/team/app", "http://10.0.0.1:5000/hub/team/app"]);
        assert_eq!(asked(&rules, "ghcr.io/team/app"), ["https://own.lan/apps/app"]);
        assert_eq!(asked(&rules, "ghcr.io/team/app/x"), ["https://own.lan/x", "https://own.lan/apps/app/x"]);
        for other in ["ghcr.io/team/apple", "quay.io/team/app", "docker.io.evil.test/library/debian"] {
            assert!(asked(&rules, other).is_empty(), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_text() {
        for (text, why) in [
            (r#"[{"prefix": "https://docker.io", "mirrors": []}]"#, "https://docker.io"),
            (r#"[{"prefix": "team/app", "mirrors": []}]"#, "team/app"),
            (r#"[{"prefix": "", "mirrors": []}]"#, "prefix"),
            (r#"[{"prefix": "docker.io", "mirrors": ["cache.lan"]}]"#, "cache.lan"),
            (r#"[{"prefix": "docker.io", "mirrors": ["https://u:p@cache.lan"]}]"#, "cache.lan"),
            (r#"[{"prefix": "docker.io", "mirrors": ["https://cache.lan/UPPER"]}]"#, "UPPER"),
            (r#"[{"prefix": "docker.io", "mirror": []}]"#, "mirror"),
        ] {
            let error = rules(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let text = r#"[{"prefix": "docker.io", "mirrors": [{"location": "https://c.lan", "username": "u", "password": "secret"}]}]"#;
        let rules = rules(text).unwrap();
        assert!(rules[0].mirrors[0].auth.is_some() && !format!("{rules:?}").contains("secret"));
    }
}
