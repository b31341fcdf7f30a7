//! Tokens: those that this registry issues, and those of foreign issuers whose keys it was given.

mod refresh;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use gantry_linux::fs;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::super::Action;
use super::scope::Grant;

pub use refresh::Refresh;

/// The longest token that is looked at.
const TOKEN_LIMIT: usize = 16 << 10;
/// What two machines' clocks may differ by.
const LEEWAY: u64 = 30;
const KEY_LIMIT: usize = 64 << 10;

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It could not be read or made.
    #[error(transparent)]
    File(#[from] gantry_linux::Error),
    /// It is there, and not what is wanted.
    #[error("key {path}: {reason}")]
    Unfit {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// What a token that was verified says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is; `None` for a token that was issued to nobody.
    pub user: Option<String>,
    /// What it opens.
    pub grants: Vec<Grant>,
    /// Who decides: the token's grants alone, or the rules of this registry as well.
    pub source: Source,
}

/// Where a token is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Issued here: it opens what it grants and the rules still allow.
    Own,
    /// A foreign issuer's, trusted with what it grants.
    Grants,
    /// A foreign issuer's, trusted only with who somebody is: the rules decide.
    Rules,
}

/// Issues tokens and knows them again.
pub struct Issuer {
    /// Who issues.
    name: String,
    /// For whom: the registry's own name.
    service: String,
    lifetime: Duration,
    /// How long refresh tokens count.
    refresh: Duration,
    signs: EncodingKey,
    verifies: Verifier,
}

/// Verifies the tokens of one issuer by one key.
pub struct Verifier {
    key: DecodingKey,
    /// As the header of a token may name the key.
    id: Option<String>,
    validation: Validation,
    audience: String,
    source: Source,
    user_prefix: String,
}

#[derive(Serialize)]
struct Issued<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: u64,
    nbf: u64,
    iat: u64,
    jti: String,
    access: &'a [Grant],
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    #[serde(default)]
    access: Vec<Grant>,
}

/// A foreign issuer, in the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ForeignIssuer {
    /// What `iss` must be.
    pub issuer: String,
    /// What must be in `aud`.
    pub audience: String,
    /// The public key, PEM.
    pub key: std::path::PathBuf,
    /// The one algorithm that is believed with this key: RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA.
    pub algorithm: String,
    /// What the header's `kid` must be, if the token has one and this is set.
    #[serde(default)]
    pub key_id: Option<String>,
    /// What is believed: `grants` (its `access` claim says what its bearer may do) or `user` (its `sub` claim says who
    /// it is, and the rules say what they may do).
    #[serde(default)]
    pub trust: Trust,
    /// Put before `sub`, so that its users are not taken for those of the file.
    #[serde(default)]
    pub user_prefix: String,
}

/// What is believed of a foreign token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// Who it is.
    #[default]
    User,
    /// What they may do.
    Grants,
}

impl Issuer {
    /// With the key in `file`, which is made when it is not there.
    ///
    /// # Errors
    /// When the key cannot be read or made, or others could have read it.
    pub fn open(file: &Path, name: String, service: String, lifetime: Duration) -> Result<Self, KeyError> {
        let unfit = |reason: &str| KeyError::Unfit { path: file.display().to_string(), reason: reason.to_owned() };
        let pkcs8 = own_key(file)?;
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8)
            .map_err(|_| unfit("it is not an Ed25519 key: remove the file, and a new key is made"))?;
        let key = DecodingKey::from_ed_der(pair.public_key().as_ref());
        let verifies = Verifier {
            key,
            id: None,
            validation: validation(Algorithm::EdDSA, &name, &service),
            audience: service.clone(),
            source: Source::Own,
            user_prefix: String::new(),
        };
        let (signs, refresh) = (EncodingKey::from_ed_der(&pkcs8), Duration::ZERO);
        Ok(Self { name, service, lifetime, refresh, signs, verifies })
    }

    /// For whom the tokens are.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// How long a token lives.
    #[must_use]
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A token for `user` (`None`: for nobody) that opens `grants`, and when it was made.
    #[must_use]
    pub fn issue(&self, user: Option<&str>, grants: &[Grant]) -> (String, SystemTime) {
        let now = SystemTime::now();
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Issued {
            iss: &self.name,
            sub: user.unwrap_or_default(),
            aud: &self.service,
            exp: seconds + self.lifetime.as_secs(),
            nbf: seconds,
            iat: seconds,
            jti: random_id(),
            access: grants,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.signs);
        (token.expect("a key that was read signs what is plain JSON"), now)
    }

    /// What a token of ours says; `None` when it is not ours, or is no more.
    #[must_use]
    pub fn verify(&self, token: &str) -> Option<Verified> {
        self.verifies.verify(token)
    }

    /// Whether it was one of ours, and is no more.
    #[must_use]
    pub fn has_ended(&self, token: &str) -> bool {
        let Verifier { key, validation, .. } = &self.verifies;
        let whenever = Validation { validate_exp: false, ..validation.clone() };
        token.len() <= TOKEN_LIMIT && jsonwebtoken::decode::<Claims>(token, key, &whenever).is_ok()
    }
}

impl Verifier {
    /// For the issuer of the configuration.
    ///
    /// # Errors
    /// When the key cannot be read or does not fit the algorithm.
    pub fn open(issuer: &ForeignIssuer) -> Result<Self, KeyError> {
        let unfit = |reason: String| KeyError::Unfit { path: issuer.key.display().to_string(), reason };
        let algorithm: Algorithm = issuer.algorithm.parse().map_err(|_| {
            unfit(format!(
                "algorithm {:?} is not known: want RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA",
                issuer.algorithm
            ))
        })?;
        let pem = fs::read_up_to(&issuer.key, KEY_LIMIT)?;
        if pem.windows(11).any(|words| words == b"PRIVATE KEY") {
            return Err(unfit("it is a private key: give the public one".to_owned()));
        }
        let key = match algorithm.family() {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(&pem),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(&pem),
            AlgorithmFamily::Ed => DecodingKey::from_ed_pem(&pem),
            AlgorithmFamily::Hmac => {
                return Err(unfit(
                    "a secret that is shared would let this registry's reader issue tokens: use a key pair".to_owned(),
                ));
            }
        }
        .map_err(|_| unfit(format!("it is not a public key in PEM for {}", issuer.algorithm)))?;
        let point = match algorithm {
            Algorithm::ES256 => Some(65),
            Algorithm::ES384 => Some(97),
            _ => None,
        };
        if point.is_some_and(|length| key.try_get_as_bytes().map(<[u8]>::len).ok() != Some(length)) {
            return Err(unfit(format!("it is on another curve than {} needs", issuer.algorithm)));
        }
        if issuer.issuer.is_empty() || issuer.audience.is_empty() {
            return Err(unfit("its issuer and audience must be named".to_owned()));
        }
        let source = if issuer.trust == Trust::Grants { Source::Grants } else { Source::Rules };
        let validation = validation(algorithm, &issuer.issuer, &issuer.audience);
        Ok(Self {
            key,
            id: issuer.key_id.clone(),
            validation,
            audience: issuer.audience.clone(),
            source,
            user_prefix: issuer.user_prefix.clone(),
        })
    }

    /// For whom its tokens must be.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// What a token says that this key signed, for this registry, and that counts now.
    #[must_use]
    pub fn verify(&self, token: &str) -> Option<Verified> {
        if token.len() > TOKEN_LIMIT {
            return None;
        }
        // All that is wrong with a token is answered alike.
        let data = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).ok()?;
        if let (Some(expected), Some(named)) = (&self.id, &data.header.kid)
            && expected != named
        {
            return None;
        }
        let Claims { sub, access } = data.claims;
        let user = Some(sub).filter(|sub| !sub.is_empty()).map(|sub| self.user_prefix.clone() + &sub);
        if self.source == Source::Rules && user.is_none() {
            return None;
        }
        let is_known = |grant: &Grant| !grant.is_for_repository() || grant.known_actions().next().is_some();
        let grants = access.into_iter().filter(is_known).collect();
        Some(Verified { user, grants, source: self.source })
    }
}

impl Verified {
    /// Whether the token itself names this.
    #[must_use]
    pub fn grants(&self, repository: &str, action: Action) -> bool {
        self.grants.iter().any(|grant| grant.allows(repository, action))
    }
}

/// Tells one token from the next.
fn random_id() -> String {
    let mut id = [0; 16];
    rand::fill(&mut id).expect("the kernel has random bytes");
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One algorithm, one issuer, one audience; all of them and an end must be there.
fn validation(algorithm: Algorithm, issuer: &str, audience: &str) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation.validate_nbf = true;
    validation.leeway = LEEWAY;
    validation
}

/// The registry's own key, PKCS #8. Nobody but its user may read it.
fn own_key(file: &Path) -> Result<Vec<u8>, KeyError> {
    use std::os::unix::fs::PermissionsExt as _;
    match fs::metadata(file) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => Err(KeyError::Unfit {
            path: file.display().to_string(),
            reason: "others may read it: remove it, for it may be known, and a new key is made".to_owned(),
        }),
        Ok(_) => Ok(fs::read_up_to(file, KEY_LIMIT)?),
        Err(error) if error.is_not_found() => {
            let key = Ed25519KeyPair::generate_pkcs8(&rand::SystemRandom::new()).expect("the kernel has random bytes");
            if let Some(directory) = file.parent() {
                fs::create_dir_all(directory)?;
            }
            fs::write_atomic(file, key.as_ref(), 0o600, fs::Durability::Disk)?;
            Ok(key.as_ref().to_vec())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
