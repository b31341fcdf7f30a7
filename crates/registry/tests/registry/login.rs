//! Login, search, and what a name means: what is shown to whom, and what is said of refusals.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_api::system::AuthConfig;
use gantry_registry::{Options, Registry};

use crate::fake::{Fake, Reply};
use crate::image::{Image, digest, index};

fn registry() -> Registry {
    Registry::new(Options::default().retry_pause(Duration::from_millis(5)))
}

fn auth(fake: &Fake, password: &str) -> AuthConfig {
    let (username, password) = ("me".to_owned(), password.to_owned());
    AuthConfig { username, password, serveraddress: fake.address.to_string(), ..AuthConfig::default() }
}

fn basic(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("me:{password}")))
}

#[tokio::test]
async fn a_token_server_gives_what_is_kept_instead_of_the_password() {
    let fake = Fake::start().await;
    let realm = format!("http://{}/token", fake.address);
    fake.hook(move |seen, _| {
        let right = seen.header("authorization") == Some(basic("secret").as_str());
        Some(match seen.path.as_str() {
            "/token" if right => Reply::new(200, r#"{"token":"T","refresh_token":"KEEP"}"#),
            _ if seen.header("authorization") == Some("Bearer T") => Reply::new(200, "{}"),
            _ => Reply::new(401, "").header("www-authenticate", format!(r#"Bearer realm="{realm}",service="s""#)),
        })
    });
    assert_eq!(registry().login(&auth(&fake, "secret")).await.unwrap().as_deref(), Some("KEEP"));
    let asked = fake.seen().into_iter().find(|seen| seen.path == "/token").unwrap().query;
    assert!(
        asked.contains("account=me") && asked.contains("offline_token=true") && !asked.contains("scope"),
        "{asked}"
    );
    let error = registry().login(&auth(&fake, "wrong")).await.unwrap_err();
    let address = fake.address;
    assert_eq!(
        error.to_string(),
        format!("Get \"http://{address}/v2/\": unauthorized: incorrect username or password")
    );
    assert_eq!(error.kind(), gantry_api::ErrorKind::Unauthorized);
    let anonymous = AuthConfig { serveraddress: address.to_string(), ..AuthConfig::default() };
    registry().login(&anonymous).await.unwrap_err();
}

#[tokio::test]
async fn a_token_that_does_not_open_the_door_is_no_login() {
    let fake = Fake::start().await;
    let realm = format!("http://{}/token", fake.address);
    fake.hook(move |seen, _| {
        Some(match seen.path.as_str() {
            "/token" => Reply::new(200, r#"{"token":"T","refresh_token":"KEEP"}"#),
            _ => Reply::new(401, "").header("www-authenticate", format!(r#"Bearer realm="{realm}",service="s""#)),
        })
    });
    let error = registry().login(&auth(&fake, "secret")).await.unwrap_err().to_string();
    assert!(error.contains("/v2/ failed with status: 401 Unauthorized") && !error.contains("secret"), "{error}");
    let shown: Vec<_> = fake.seen().iter().filter_map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    assert_eq!(shown, [basic("secret"), "Bearer T".to_owned()]);
}

#[tokio::test]
async fn a_refresh_token_logs_in_and_what_takes_its_place_is_kept() {
    let fake = Fake::start().await;
    let realm = format!("http://{}/token", fake.address);
    fake.hook(move |seen, _| {
        Some(match seen.path.as_str() {
            "/token" if seen.form.contains("refresh_token=OLD&") => {
                Reply::new(200, r#"{"access_token":"T","refresh_token":"NEW"}"#)
            }
            _ if seen.header("authorization") == Some("Bearer T") => Reply::new(200, "{}"),
            _ => Reply::new(401, "").header("www-authenticate", format!(r#"Bearer realm="{realm}",service="s""#)),
        })
    });
    let old = AuthConfig { identitytoken: "OLD".to_owned(), password: String::new(), ..auth(&fake, "") };
    assert_eq!(registry().login(&old).await.unwrap().as_deref(), Some("NEW"));
}

#[tokio::test]
async fn basic_credentials_are_tried_at_the_door() {
    let fake = Fake::start().await;
    fake.hook(|seen, _| {
        let right = seen.header("authorization") == Some(basic("secret").as_str());
        Some(match right {
            true => Reply::new(200, "{}"),
            false => Reply::new(401, "").header("www-authenticate", "Basic realm=x"),
        })
    });
    assert_eq!(registry().login(&auth(&fake, "secret")).await.unwrap(), None);
    let error = registry().login(&auth(&fake, "wrong")).await.unwrap_err().to_string();
    assert!(error.contains("/v2/ failed with status: 401 Unauthorized"), "{error}");
}

#[tokio::test]
async fn a_login_goes_to_no_realm_that_cannot_be_trusted() {
    let (fake, evil) = (Fake::start().await, Fake::start().await);
    // From an address of this machine that is not loopback's to the metadata of a cloud, say.
    for realm in ["http://auth.invalid/token".to_owned(), format!("file://{}/token", evil.address)] {
        fake.hook(move |_, _| {
            Some(Reply::new(401, "").header("www-authenticate", format!(r#"Bearer realm="{realm}",service="s""#)))
        });
        let error = registry().login(&auth(&fake, "secret")).await.unwrap_err().to_string();
        assert!(error.contains("refused") && !error.contains("secret"), "{error}");
    }
    assert!(evil.seen().is_empty());
}

#[tokio::test]
async fn a_login_does_not_follow_a_redirect_to_somebody_elses_challenge() {
    let (registry_, other) = (Fake::start().await, Fake::start().await);
    let there = format!("http://{}/v2/", other.address);
    registry_.hook(move |_, _| Some(Reply::new(307, "").header("location", there.clone())));
    let realm = format!("http://{}/token", other.address);
    other.hook(move |_, _| {
        Some(Reply::new(401, "").header("www-authenticate", format!(r#"Bearer realm="{realm}",service="s""#)))
    });
    registry().login(&auth(&registry_, "secret")).await.unwrap_err();
    assert!(other.seen().iter().all(|seen| seen.header("authorization").is_none() && seen.path != "/token"));
}

#[tokio::test]
async fn a_registry_is_searched_and_its_words_are_fit_for_a_terminal() {
    let fake = Fake::start().await;
    let found = r#"{"query":"app","num_results":2,"results":[
        {"name":"team/app","description":"one\u001b[2Jtwo","star_count":3,"is_official":false,"pull_count":9},
        {"name":"app","star_count":70,"is_official":true}]}"#;
    fake.put("/v1/search", Reply::new(200, found));
    let results = registry().search(&fake.name("app"), 25, None).await.unwrap();
    assert_eq!(results[0].description, "one[2Jtwo");
    assert_eq!((results[1].name.as_str(), results[1].star_count, results[1].is_official), ("app", 70, true));
    assert_eq!(registry().search(&fake.name("app"), 1, None).await.unwrap().len(), 1, "no more than was asked for");
    let asked = fake.seen().into_iter().find(|seen| seen.path == "/v1/search").unwrap().query;
    assert_eq!(asked, "q=app&n=25");
    let silent = Fake::start().await;
    let error = registry().search(&silent.name("app"), 25, None).await.unwrap_err().to_string();
    assert!(error.contains("cannot be searched"), "{error}");
}

#[tokio::test]
async fn a_name_is_described_with_its_platforms() {
    let (fake, image, arm) = (Fake::start().await, Image::oci(1), Image::of("arm64", 1, true));
    fake.image("app", "one", &image);
    let (raw, kind) = index(&[("amd64", &image), ("arm64", &arm)], true);
    fake.document("app", "all", &raw, kind);
    let describe = |tag: &str| fake.name(&format!("app:{tag}")).parse().unwrap();
    let (descriptor, platforms) = registry().describe(&describe("one"), None).await.unwrap();
    assert_eq!((descriptor.digest, descriptor.size), (image.digest(), image.manifest.len() as u64));
    assert_eq!(platforms.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/amd64"]);
    let (descriptor, platforms) = registry().describe(&describe("all"), None).await.unwrap();
    assert_eq!((descriptor.digest, descriptor.media_type.as_str()), (digest(&raw), kind));
    assert!(platforms.iter().any(|platform| platform.to_string() == "linux/arm64"), "{platforms:?}");
}
