//! Tokens that count, and the museum of those that once did somewhere.

use std::path::PathBuf;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gantry_transport::Peer;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::super::limits::LimitSettings;
use super::super::super::{Access as _, Ask, Name, Route};
use super::super::{AuthSettings, Gate, Policy};
use super::*;

struct Keys {
    directory: tempfile::TempDir,
    /// PKCS #8.
    private: Vec<u8>,
    /// The public key, DER.
    public: Vec<u8>,
}

impl Keys {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let private = pair.to_pkcs8v1().unwrap().as_ref().to_vec();
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let keys = Self { directory: tempfile::tempdir().unwrap(), private, public: public.as_ref().to_vec() };
        fs::write(keys.path(), pem("PUBLIC KEY", &keys.public)).unwrap();
        keys
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    fn issuer(&self) -> ForeignIssuer {
        ForeignIssuer {
            issuer: "https://ci.test".to_owned(),
            audience: "registry".to_owned(),
            key: self.path(),
            algorithm: "ES256".to_owned(),
            key_id: None,
            trust: Trust::Grants,
            user_prefix: String::new(),
        }
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_ec_der(&self.private)).unwrap()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    let access = json!([{ "type": "repository", "name": "team/app", "actions": ["pull"] }]);
    json!({ "iss": "https://ci.test", "aud": "registry", "sub": "bot", "exp": now() + 60, "nbf": now(), "access": access })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[test]
fn a_foreign_token_counts_with_its_issuer_audience_and_time_and_never_else() {
    let keys = Keys::new();
    let verifier = Verifier::open(&keys.issuer()).unwrap();
    let header = Header::new(Algorithm::ES256);
    let verify = |claims: &Value| verifier.verify(&keys.sign(&header, claims));
    let good = verify(&claims()).unwrap();
    assert_eq!(good.user.as_deref(), Some("bot"));
    assert!(good.grants("team/app", Action::Pull) && !good.grants("team/app", Action::Push));
    assert!(verify(&with("aud", json!(["other", "registry"]))).is_some());
    assert!(verify(&with("exp", json!(now() - LEEWAY + 5))).is_some(), "clocks differ a little");
    for bad in [
        with("iss", json!("https://evil.test")),
        with("iss", json!("")),
        without("iss"),
        with("aud", json!("other")),
        with("aud", json!([])),
        without("aud"),
        with("exp", json!(now() - LEEWAY - 5)),
        with("exp", json!("tomorrow")),
        with("exp", json!(-1)),
        without("exp"),
        with("nbf", json!(now() + LEEWAY + 60)),
        with("access", json!("everything")),
        with("access", json!([{ "type": "repository" }])),
    ] {
        assert_eq!(verify(&bad), None, "{bad}");
    }
}

#[test]
fn a_token_of_no_algorithm_or_another_one_is_no_token() {
    let keys = Keys::new();
    let verifier = Verifier::open(&keys.issuer()).unwrap();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = part(&claims());
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        for signature in ["", "AAAA"] {
            let token = format!("{}.{body}.{signature}", part(&json!({ "alg": alg, "typ": "JWT" })));
            assert_eq!(verifier.verify(&token), None, "{token}");
        }
    }
    // The public key is known to everybody: as the secret of an HMAC it would open everything.
    for secret in [pem("PUBLIC KEY", &keys.public).into_bytes(), keys.public.clone()] {
        let key = EncodingKey::from_secret(&secret).unwrap();
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &key).unwrap();
        assert_eq!(verifier.verify(&token), None);
    }
    // A good signature under a header that names another algorithm.
    let good = keys.sign(&Header::new(Algorithm::ES256), &claims());
    let mut parts = good.split('.');
    let (_, claims, signature) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
    for alg in ["ES384", "RS256", "EdDSA", "HS256"] {
        assert_eq!(verifier.verify(&format!("{}.{claims}.{signature}", part(&json!({ "alg": alg })))), None);
    }
}

#[test]
fn a_key_that_the_token_brings_along_is_not_used() {
    let (keys, stranger) = (Keys::new(), Keys::new());
    let verifier = Verifier::open(&keys.issuer()).unwrap();
    let mut header = Header::new(Algorithm::ES256);
    header.jku = Some("https://evil.test/keys".to_owned());
    header.x5u = Some("https://evil.test/cert".to_owned());
    header.kid = Some("../../../../dev/null".to_owned());
    header.x5c = Some(vec![STANDARD.encode(&stranger.public)]);
    assert_eq!(verifier.verify(&stranger.sign(&header, &claims())), None);
    // The right key's token may say such things; nobody follows them.
    assert!(verifier.verify(&keys.sign(&header, &claims())).is_some());
    header.crit = Some(vec!["exp".to_owned()]);
    assert_eq!(verifier.verify(&keys.sign(&header, &claims())), None, "what is critical must be understood");
}

#[test]
fn a_named_key_is_only_for_tokens_that_name_it_or_none() {
    let keys = Keys::new();
    let verifier = Verifier::open(&ForeignIssuer { key_id: Some("k1".to_owned()), ..keys.issuer() }).unwrap();
    let header = |kid: Option<&str>| {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = kid.map(str::to_owned);
        header
    };
    assert!(verifier.verify(&keys.sign(&header(Some("k1")), &claims())).is_some());
    assert!(verifier.verify(&keys.sign(&header(None), &claims())).is_some());
    assert_eq!(verifier.verify(&keys.sign(&header(Some("k2")), &claims())), None);
}

#[test]
fn an_issuer_trusted_with_names_only_must_name_somebody_and_gets_its_prefix() {
    let keys = Keys::new();
    let settings = ForeignIssuer { trust: Trust::User, user_prefix: "ci-".to_owned(), ..keys.issuer() };
    let verifier = Verifier::open(&settings).unwrap();
    let header = Header::new(Algorithm::ES256);
    let found = verifier.verify(&keys.sign(&header, &with("sub", json!("alice")))).unwrap();
    assert_eq!((found.user.as_deref(), found.source), (Some("ci-alice"), Source::Rules));
    assert_eq!(verifier.verify(&keys.sign(&header, &without("sub"))), None);
    assert_eq!(verifier.verify(&keys.sign(&header, &with("sub", json!("")))), None);
}

#[tokio::test]
async fn at_the_gate_a_foreign_token_opens_what_its_issuer_is_trusted_with_and_an_own_one_is_none_of_theirs() {
    let keys = Keys::new();
    let gate = |trust: &str| {
        let text = format!(
            "[[issuers]]\nissuer = \"https://ci.test\"\naudience = \"registry\"\nkey = {:?}\nalgorithm = \"ES256\"\n\
             trust = \"{trust}\"\nuser-prefix = \"ci-\"\n\
             [[rules]]\nusers = [\"ci-bot\"]\nrepositories = [\"built/*\"]\nactions = [\"push\"]\n",
            keys.path()
        );
        let settings: AuthSettings = toml::from_str(&text).unwrap();
        let policy = Policy::open(&settings, Path::new("/nonexistent"), None, true).unwrap();
        Gate::new(policy, &LimitSettings::default(), false)
    };
    let token = keys.sign(&Header::new(Algorithm::ES256), &claims());
    let own = Keys::new().sign(&Header::new(Algorithm::ES256), &claims());
    let peer = Peer::Remote { address: "192.0.2.1:7".parse().unwrap(), subject: None };
    for (trust, method, path, token, expected) in [
        ("grants", Method::GET, "team/app", &token, 200),
        ("grants", Method::PUT, "team/app", &token, 401),
        ("grants", Method::GET, "built/x", &token, 401),
        ("user", Method::PUT, "built/x", &token, 200),
        ("user", Method::GET, "team/app", &token, 403),
        ("grants", Method::GET, "team/app", &own, 401),
        ("user", Method::PUT, "built/x", &own, 401),
    ] {
        let gate = gate(trust);
        let bearer = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
        let name: Name = path.parse().unwrap();
        let action = if method == Method::PUT { Action::Push } else { Action::Pull };
        let route = Route::parse(&format!("/v2/{path}/manifests/1")).unwrap();
        let needs = Some((Some(&name), action));
        let ask = Ask { peer: &peer, certificate: None, method: &method, route: &route, headers: &headers, needs };
        let status = gate.admit(ask).await.map_or_else(|failure| failure.status.as_u16(), |_| 200);
        assert_eq!(status, expected, "{trust} {method} {path}");
    }
}

#[test]
fn own_tokens_are_known_again_until_they_end_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("auth/token.key");
    let open = |service: &str, life| {
        Issuer::open(&file, "gantry".to_owned(), service.to_owned(), Duration::from_secs(life)).unwrap()
    };
    let grants = [Grant::repository("a/b", &[Action::Pull, Action::Push])];
    let (token, _) = open("here", 60).issue(Some("alice"), &grants);
    let again = open("here", 60).verify(&token).unwrap();
    assert_eq!((again.user.as_deref(), &again.grants[..], again.source), (Some("alice"), &grants[..], Source::Own));
    assert_eq!(open("elsewhere", 60).verify(&token), None, "another service's");
    let (nobodys, _) = open("here", 60).issue(None, &[]);
    assert_eq!(open("here", 60).verify(&nobodys).unwrap().user, None);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // One bit of each part changed.
    for part in 0..3 {
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let other = if &parts[part][4..5] == "A" { "B" } else { "A" };
        parts[part].replace_range(4..5, other);
        assert_eq!(open("here", 60).verify(&parts.join(".")), None);
    }
}

#[test]
fn a_key_that_others_could_read_or_that_is_none_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token.key");
    let open = || match Issuer::open(&file, "i".to_owned(), "s".to_owned(), Duration::from_secs(60)) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    assert_eq!(open(), "");
    fs::set_mode(&file, 0o640).unwrap();
    assert!(open().contains("others may read it"), "{}", open());
    fs::write(&file, "nonsense").unwrap();
    fs::set_mode(&file, 0o600).unwrap();
    assert!(open().contains("not an Ed25519 key"), "{}", open());
}

#[test]
fn keys_that_do_not_fit_their_algorithm_are_refused() {
    let keys = Keys::new();
    let refused = |change: &dyn Fn(&mut ForeignIssuer)| {
        let mut issuer = keys.issuer();
        change(&mut issuer);
        match Verifier::open(&issuer) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    let algorithm = |name: &'static str| refused(&|issuer| issuer.algorithm = name.to_owned());
    assert_eq!(algorithm("ES256"), "");
    assert!(algorithm("none").contains("is not known"), "{}", algorithm("none"));
    assert!(algorithm("HS256").contains("key pair"));
    assert!(algorithm("RS256").contains("not a public key"));
    assert!(algorithm("ES384").contains("another curve"));
    assert!(refused(&|issuer| issuer.issuer.clear()).contains("must be named"));
    assert!(refused(&|issuer| issuer.key = "/nonexistent".into()).contains("/nonexistent"));
    fs::write(keys.path(), pem("PRIVATE KEY", &keys.private)).unwrap();
    assert!(algorithm("ES256").contains("private key"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_shown_as_a_token_never_panics_and_never_counts(text in "[A-Za-z0-9_.=-]{0,200}|.{0,60}|eyJhbGciOiJFUzI1NiJ9\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,90}") {
        thread_local! { static VERIFIER: Verifier = Verifier::open(&Keys::new().issuer()).unwrap(); }
        prop_assert_eq!(VERIFIER.with(|verifier| verifier.verify(&text)), None);
    }
}
