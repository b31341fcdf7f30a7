//! The words of a path: repositories, tags, digests. They are parsed once, and only what was parsed becomes a key.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use gantry_api::reference::{path_is_valid, tag_is_valid};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// Longest name of a repository.
const NAME_LIMIT: usize = 255;

/// Why a word was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Of a repository.
    #[error(
        "repository name {0:?}: want lower-case letters and digits, joined by . _ __ or -, in parts between slashes, \
         at most {NAME_LIMIT} characters"
    )]
    Repository(String),
    /// Of a tag.
    #[error("tag {0:?}: want up to 128 letters, digits, _ . and -, beginning with a letter, a digit or _")]
    Tag(String),
    /// Of a digest.
    #[error("digest {0:?}: want sha256: with 64 or sha512: with 128 lower-case hexadecimal digits")]
    Digest(String),
}

/// What can be shown of a hostile word.
fn shown(text: &str) -> String {
    text.chars().take(150).collect()
}

/// The name of a repository: `library/debian`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// A tag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// An algorithm that content is named by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// 256 bits; everybody's.
    Sha256,
    /// 512 bits.
    Sha512,
}

/// A digest of content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// What the tag leads to now.
    Tag(Tag),
    /// Exactly this.
    Digest(Digest),
}

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_LIMIT || !path_is_valid(text) {
            return Err(NameError::Repository(shown(text)));
        }
        Ok(Self(text.into()))
    }
}

impl Tag {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if tag_is_valid(text) { Ok(Self(text.to_owned())) } else { Err(NameError::Tag(shown(text))) }
    }
}

impl Algorithm {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// As it is written before the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl Digest {
    /// The digest of bytes.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hash = Hash::new(algorithm);
        hash.update(bytes);
        hash.finish()
    }

    /// What made it.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        if self.0.starts_with("sha256:") { Algorithm::Sha256 } else { Algorithm::Sha512 }
    }

    /// The hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let hex = |algorithm: Algorithm, hex: &str| {
            hex.len() == algorithm.digits() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let known = text.split_once(':').is_some_and(|(name, rest)| {
            Algorithm::ALL.iter().any(|algorithm| algorithm.as_str() == name && hex(*algorithm, rest))
        });
        if known { Ok(Self(text.to_owned())) } else { Err(NameError::Digest(shown(text))) }
    }
}

impl FromStr for Target {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') { text.parse().map(Self::Digest) } else { text.parse().map(Self::Tag) }
    }
}

/// Content on its way through a hash.
#[derive(Clone)]
pub struct Hash(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hash {
    /// Of nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::default()),
        })
    }

    /// Which one it is.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// More content.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of all of it.
    #[must_use]
    pub fn finish(self) -> Digest {
        use std::fmt::Write as _;
        let algorithm = self.algorithm();
        let mut text = format!("{}:", algorithm.as_str());
        let bytes = match self.0 {
            State::Sha256(hash) => hash.finalize().to_vec(),
            State::Sha512(hash) => hash.finalize().to_vec(),
        };
        for byte in bytes {
            write!(text, "{byte:02x}").expect("a string takes everything");
        }
        Digest(text)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().as_str())
    }
}

macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Name, Tag, Digest);

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_its_directory_is_no_name() {
        let long = "a".repeat(256);
        for bad in ["", "..", "a/../b", "/a", "a/", "A", "a//b", "_a", "a\0b", ".a", "a/_blobs", "%2e", &long] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        for bad in ["", "..", ".a", "-a", "a/b", "a:b", &long] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
        let digits = "a".repeat(64);
        for bad in [
            digits.clone(),
            format!("sha256:{}", digits.to_uppercase()),
            format!("sha512:{digits}"),
            format!("md5:{digits}"),
            format!("sha256:{digits}/"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
        assert!("library/a__b-c.d".parse::<Name>().is_ok());
    }

    #[test]
    fn both_algorithms_are_the_known_ones() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(Algorithm::Sha256, b"").hex(), empty);
        let digest = Digest::of(Algorithm::Sha512, b"");
        assert!(digest.hex().starts_with("cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"));
        assert_eq!(digest.as_str().parse(), Ok(digest));
    }
}
