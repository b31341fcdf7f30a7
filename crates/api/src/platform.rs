//! Platforms: which entry of a list runs here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `linux/arm64/v8`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, Go's name of it.
    pub architecture: String,
    /// `v8`, or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn host() -> Self {
        Self::normal("linux", std::env::consts::ARCH, "")
    }

    fn normal(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, implied) = match architecture {
            "x86_64" | "x86-64" => ("amd64", ""),
            "aarch64" => ("arm64", ""),
            "i386" | "i686" | "x86" => ("386", ""),
            "armhf" => ("arm", "v7"),
            "armel" => ("arm", "v6"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        let variant = if variant.is_empty() { implied } else { variant };
        let variant = match (architecture, variant) {
            ("arm64", "8" | "v8") | ("amd64", "v1") => "",
            ("arm", "") => "v7",
            (_, variant) => variant,
        };
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    fn normalized(&self) -> Self {
        Self::normal(&self.os, &self.architecture, &self.variant)
    }

    /// The variant's number; what has none counts as the base of its architecture.
    fn level(&self) -> Option<u32> {
        match (self.architecture.as_str(), self.variant.strip_prefix('v')) {
            ("arm64", None) if self.variant.is_empty() => Some(8),
            ("amd64", None) if self.variant.is_empty() => Some(1),
            (_, None) => self.variant.is_empty().then_some(0),
            // `v8.1`: the minor number does not decide here.
            (_, Some(number)) => number.split('.').next()?.parse().ok(),
        }
    }

    /// How well `offered` runs where this is wanted: smaller is better, `None` is not at all.
    #[must_use]
    pub fn distance(&self, offered: &Self) -> Option<u32> {
        let (wanted, offered) = (self.normalized(), offered.normalized());
        if wanted.os != offered.os {
            return None;
        }
        let (have, want) = (offered.level()?, wanted.level()?);
        match (wanted.architecture.as_str(), offered.architecture.as_str()) {
            (a, b) if a == b => want.checked_sub(have),
            // What these processors run as well.
            ("amd64", "386") => Some(100),
            ("arm64", "arm") if have <= 8 => Some(100 + 8 - have),
            _ => None,
        }
    }
}

impl FromStr for Platform {
    type Err = String;

    /// `os/architecture[/variant]`, `architecture`, or `os`.
    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("{text:?} is not a platform: want os/architecture[/variant], as linux/amd64");
        let lower = text.to_ascii_lowercase();
        let word =
            |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        let words: Vec<&str> = lower.split('/').collect();
        if !words.iter().all(word) {
            return Err(fail());
        }
        match words[..] {
            ["linux"] => Ok(Self::host()),
            [architecture] => Ok(Self::normal("linux", architecture, "")),
            [os, architecture] => Ok(Self::normal(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::normal(os, architecture, variant)),
            _ => Err(fail()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(wanted: &str, offered: &str) -> Option<u32> {
        wanted.parse::<Platform>().unwrap().distance(&offered.parse().unwrap())
    }

    #[test]
    fn the_nearest_variant_wins_and_what_does_not_run_never_does() {
        assert_eq!(distance("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(distance("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(distance("x86_64", "linux/amd64/v1"), Some(0));
        assert!(distance("linux/arm/v7", "linux/arm/v6") > distance("linux/arm/v7", "linux/arm/v7"));
        assert!(distance("linux/arm64", "linux/arm/v7").is_some());
        for (wanted, offered) in [
            ("linux/arm/v6", "linux/arm/v7"),
            ("linux/amd64", "linux/amd64/v3"),
            ("linux/amd64", "windows/amd64"),
            ("linux/amd64", "linux/arm64"),
            ("linux/amd64", "unknown/unknown"),
            ("linux/386", "linux/amd64"),
        ] {
            assert_eq!(distance(wanted, offered), None, "{wanted} {offered}");
        }
    }

    #[test]
    fn platforms_are_read_as_people_write_them() {
        assert_eq!("linux/aarch64".parse::<Platform>().unwrap().to_string(), "linux/arm64");
        assert_eq!("armhf".parse::<Platform>().unwrap().to_string(), "linux/arm/v7");
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
