//! The file as people write it, and as nobody should.

use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"
addr = "0.0.0.0:5000"
root = "/srv/registry"
read-only = true
public-url = "https://registry.example.org"
metrics = "all"

[tls]
cert = "/etc/registry/cert.pem"
key = "/etc/registry/key.pem"

[auth]
htpasswd = "/etc/registry/htpasswd"
anonymous-pull = true

[auth.token]
service = "registry.example.org"
lifetime = "10m"

[[auth.rules]]
users = ["alice", "*"]
repositories = ["team/**", "{user}/*"]
actions = ["pull", "push"]

[[auth.issuers]]
issuer = "https://ci.example.org"
audience = "registry"
key = "/etc/registry/ci.pem"
algorithm = "RS256"
trust = "user"
user-prefix = "ci-"

[limits]
requests-per-second = 50
burst = 100
request-bytes = "100MiB"

[[proxy]]
name = "docker.io"
username = "me"
password-file = "/etc/registry/hub"

[cache]
size = "20GiB"
age = "5m"

[access-log]
file = "/var/log/registry.log"
size = "50MiB"
keep = 3
"#;

#[test]
fn toml_and_json_say_the_same() {
    let from_toml: Config = WHOLE.parse().unwrap();
    assert_eq!(from_toml.addr.as_deref(), Some("0.0.0.0:5000"));
    assert_eq!(from_toml.limits.request_bytes, Size(100 << 20));
    assert_eq!(from_toml.cache.size, Size(20 << 30));
    assert_eq!(from_toml.auth.rules.len(), 1);
    let value: toml::Value = toml::from_str(WHOLE).unwrap();
    let json = serde_json::to_string(&value).unwrap();
    let from_json: Config = json.parse().unwrap();
    assert_eq!(format!("{from_json:?}"), format!("{from_toml:?}"));
    assert!("".parse::<Config>().unwrap().addr.is_none());
}

#[test]
fn an_unknown_key_is_an_error_that_names_it_in_every_section() {
    let sections = [
        "",
        "[tls]\ncert=\"a\"\nkey=\"b\"",
        "[auth]",
        "[auth.token]",
        "[limits]",
        "[cache]",
        "[access-log]",
        "[[proxy]]\nname=\"a.b\"",
    ];
    for section in sections {
        let error = format!("{section}\nfrobnicate = 1\n").parse::<Config>().unwrap_err();
        assert!(error.contains("frobnicate") && error.contains(" at line "), "{section}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    for json in
        [r#"{"frobnicate": 1}"#, r#"{"auth": {"frobnicate": 1}}"#, r#"{"proxy": [{"name":"a.b","frobnicate":1}]}"#]
    {
        let error = json.parse::<Config>().unwrap_err();
        assert!(error.contains("frobnicate"), "{json}: {error}");
    }
}

#[test]
fn a_value_that_is_none_is_refused_with_what_is_wanted() {
    for (text, says) in [
        ("metrics = \"some\"", "loopback"),
        ("public-url = \"registry\"", "https://host"),
        ("public-url = \"https://a\\\"b\"", "https://host"),
        ("[cache]\nage = \"soon\"", "like 5m"),
        ("[cache]\nage = \"999999999999999999d\"", "like 5m"),
        ("[cache]\nsize = \"big\"", "GiB"),
        ("[cache]\nsize = \"99999999999TiB\"", "GiB"),
        ("[limits]\nburst = -1", "invalid value"),
        ("[[auth.rules]]\nusers=[\"a\"]\nrepositories=[\"A\"]\nactions=[\"pull\"]", "\"A\""),
        ("[[auth.rules]]\nusers=[\"a\"]\nrepositories=[\"a\"]\nactions=[\"fly\"]", "want pull, push or delete"),
        ("[[auth.rules]]\nusers=[\"a\"]\nrepositories=[\"a\"]\nactions=[\"list\"]", "want pull, push or delete"),
        ("[[proxy]]\nname=\"a.b\"\n[[proxy]]\nname=\"a.b\"", "twice"),
        ("[[proxy]]\nname=\"A b\"", "A b"),
        ("read-only = true\nread-only = false", "duplicate key"),
        ("{\"read-only\": true, \"read-only\": false}", "duplicate field"),
    ] {
        let error = text.parse::<Config>().unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn beyond_loopback_it_listens_only_with_authentication_and_tls_or_when_told() {
    let listens = |text: &str, addr: &str| {
        let config: Config = text.parse().unwrap();
        config.may_listen(addr.parse().unwrap()).map_err(|error| error.to_string())
    };
    let (auth, tls) = ("[auth]\nhtpasswd = \"x\"\n", "[tls]\ncert = \"c\"\nkey = \"k\"\n");
    for addr in ["127.0.0.1:5000", "[::1]:5000", "127.9.9.9:1", "[::ffff:127.0.0.1]:5000"] {
        listens("", addr).unwrap();
    }
    for addr in ["0.0.0.0:5000", "192.0.2.1:5000", "[::]:5000", "[::ffff:192.0.2.1]:5000"] {
        for (text, missing) in [("", "auth.htpasswd"), (auth, "tls.cert"), (tls, "auth.htpasswd")] {
            let error = listens(text, addr).unwrap_err();
            assert!(error.contains(missing) && error.contains("--insecure") && error.contains(addr), "{error}");
        }
        listens(&format!("{auth}{tls}"), addr).unwrap();
        listens("insecure = true", addr).unwrap();
        listens("[tls]\ncert = \"c\"\nkey = \"k\"\nclient-ca = \"a\"", addr).unwrap();
    }
}

proptest! {
    #[test]
    fn whatever_is_in_the_file_never_panics(text in "(\\[?\\[?[a-z-]{0,8}\\]?\\]?( ?= ?(\"[^\"]{0,9}\"|[0-9]{0,9}|\\{|\\[))?\n){0,9}|\\{.{0,90}|.{0,90}") {
        let _ = text.parse::<Config>();
    }

    #[test]
    fn spans_and_sizes_never_panic(text in "[0-9]{0,22}[ a-zA-Zé]{0,4}") {
        let _ = (text.parse::<Span>(), text.parse::<Size>());
    }
}
