//! Credentials: that they arrive where they must, and nowhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_api::system::AuthConfig;
use gantry_registry::{Options, Registry};

use crate::fake::{End, Fake, Reply, Seen};
use crate::image::Image;
use crate::store::{Request, login, pull};

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// Everything needs a token; `/token` gives `TOKEN` to who shows `expected`, and to nobody when that is empty.
fn needs_token(fake: &Fake, realm: String, expected: Option<String>) {
    fake.hook(move |seen, _| {
        if seen.path == "/token" {
            let right = expected.as_deref() == seen.header("authorization");
            return Some(match right {
                true => Reply::new(200, r#"{"token":"TOKEN","expires_in":300}"#),
                false => Reply::new(401, ""),
            });
        }
        let challenge = format!(r#"Bearer realm="{realm}",service="fake",scope="repository:other:push""#);
        match seen.header("authorization") {
            Some("Bearer TOKEN") => None,
            _ => {
                Some(Reply::error(401, "UNAUTHORIZED", "authentication required").header("www-authenticate", challenge))
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bearer_token_is_fetched_once_and_used_for_everything() {
    for (auth, expected) in [(login("me", "secret"), Some(basic("me", "secret"))), (None, None)] {
        let (fake, image) = (Fake::start().await, Image::oci(3));
        fake.image("app", "1", &image);
        needs_token(&fake, format!("http://{}/token", fake.address), expected);
        let parts = tempfile::tempdir().unwrap();
        let registry = Registry::new(Options::default().parts(parts.path()));
        let request = |auth| Request { auth, registry: Some(registry.clone()), ..Request::default() };
        request(auth.clone()).pull(&fake.name("app:1")).await.result.unwrap();
        request(auth).pull(&fake.name("app:1")).await.result.unwrap();
        assert_eq!(fake.count("/token"), 1, "the token is kept until it expires");
        let asked = fake.seen().into_iter().find(|seen| seen.path == "/token").unwrap();
        assert!(asked.query.contains("service=fake") && asked.query.contains("scope=repository%3Aapp%3Apull"));
    }
}

#[tokio::test]
async fn wrong_credentials_and_missing_ones_are_told_apart() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    needs_token(&fake, format!("http://{}/token", fake.address), Some(basic("me", "secret")));
    let request = Request { auth: login("me", "wrong"), ..Request::default() };
    let outcome = request.pull(&fake.name("app:1")).await;
    assert_eq!(outcome.error(), "unauthorized: incorrect username or password");
    let denied = |_: &Seen, _| Some(Reply::error(401, "UNAUTHORIZED", "authentication required"));
    fake.hook(denied);
    let error = pull(&fake.name("app:1")).await.error();
    let expected = format!(
        "pull access denied for {}, repository does not exist or may require 'docker login': unauthorized: authentication required",
        fake.name("app")
    );
    assert_eq!(error, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_credentials_are_shown_when_asked_for() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    fake.image("app", "1", &image);
    fake.hook(|seen, _| {
        let right = seen.header("authorization") == Some(basic("me", "secret").as_str());
        (!right).then(|| Reply::new(401, "").header("www-authenticate", r#"Basic realm="here""#))
    });
    let request = Request { auth: login("me", "secret"), ..Request::default() };
    request.pull(&fake.name("app:1")).await.result.unwrap();
    assert!(fake.seen()[0].header("authorization").is_none(), "nothing is shown unasked");
    let request = Request { auth: login("me", "wrong"), ..Request::default() };
    assert_eq!(request.pull(&fake.name("app:1")).await.error(), "unauthorized: authentication required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_sees_no_credentials() {
    let (fake, storage, image) = (Fake::start().await, Fake::start().await, Image::oci(2));
    fake.image("app", "1", &image);
    storage.image("app", "1", &image);
    // Storage that asks for credentials itself gets none either.
    storage.hook(|seen, _| {
        let challenge = r#"Basic realm="storage""#;
        seen.path.contains("nothing").then(|| Reply::new(401, "").header("www-authenticate", challenge))
    });
    let to = storage.address;
    fake.hook(move |seen, _| {
        if seen.header("authorization") != Some(basic("me", "secret").as_str()) {
            return Some(Reply::new(401, "").header("www-authenticate", r#"Basic realm="here""#));
        }
        seen.path
            .contains("/blobs/")
            .then(|| Reply::new(307, "").header("location", format!("http://{to}{}?signature=1", seen.path)))
    });
    let request = Request { auth: login("me", "secret"), ..Request::default() };
    request.pull(&fake.name("app:1")).await.result.unwrap();
    assert!(!storage.seen().is_empty());
    for seen in storage.seen() {
        assert!(seen.header("authorization").is_none() && seen.header("referer").is_none(), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_of_the_host_behind_a_redirect_is_not_answered() {
    let (fake, evil, image) = (Fake::start().await, Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    let challenge = format!(r#"Bearer realm="http://{}/token",service="x""#, evil.address);
    evil.hook(move |_, _| Some(Reply::new(401, "").header("www-authenticate", challenge.clone())));
    let to = evil.address;
    fake.hook(move |seen, _| {
        seen.path.contains("/blobs/").then(|| Reply::new(302, "").header("location", format!("http://{to}/x")))
    });
    let request = Request { auth: login("me", "secret"), ..Request::default() };
    let error = request.pull(&fake.name("app:1")).await.error();
    assert!(error.contains("401"), "{error}");
    assert_eq!(evil.count("/token"), 0);
}

#[tokio::test]
async fn a_realm_that_cannot_be_trusted_is_not_asked() {
    for (realm, says) in [
        ("http://auth.invalid/token", "not encrypted"),
        ("file:///etc/passwd", "only http and https"),
        ("https://me:pw@auth.invalid/token", "credentials in it"),
        ("no url", "not a URL"),
    ] {
        let (fake, image) = (Fake::start().await, Image::oci(1));
        fake.image("app", "1", &image);
        needs_token(&fake, realm.to_owned(), None);
        let request = Request { auth: login("me", "secret"), ..Request::default() };
        let error = request.pull(&fake.name("app:1")).await.error();
        assert!(error.contains("refused") && error.contains(says) && !error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn credentials_of_another_host_stay_here() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    fake.hook(|seen, _| {
        let shown = seen.header("authorization").is_some();
        Some(Reply::new(if shown { 500 } else { 401 }, "").header("www-authenticate", "Basic realm=x"))
    });
    let auth =
        login("me", "secret").map(|auth| AuthConfig { serveraddress: "https://index.docker.io/v1/".into(), ..auth });
    let error = Request { auth, ..Request::default() }.pull(&fake.name("app:1")).await.error();
    assert!(error.starts_with("pull access denied"), "{error}");
}

#[tokio::test]
async fn the_urls_that_a_manifest_gives_for_a_layer_are_not_asked_for_it() {
    let (fake, elsewhere) = (Fake::start().await, Fake::start().await);
    let image = Image::oci(2).with_urls(&format!("http://{}/layer", elsewhere.address));
    fake.image("app", "1", &image);
    let request = || Request { auth: login("me", "secret"), ..Request::default() };
    request().pull(&fake.name("app:1")).await.result.unwrap();
    // Nor where the registry does not have it.
    let lost = image.blob_path("app", 0);
    fake.hook(move |seen, _| {
        (seen.path == lost).then(|| Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry"))
    });
    request().pull(&fake.name("app:1")).await.error();
    assert!(elsewhere.seen().is_empty(), "{:?}", elsewhere.seen());
}

#[tokio::test]
async fn redirects_end() {
    let fake = Fake::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    fake.hook(move |seen, _| {
        seen.path.contains("/manifests/").then(|| {
            let next = count.fetch_add(1, Ordering::SeqCst);
            Reply::new(302, "").header("location", format!("/v2/app/manifests/{next}"))
        })
    });
    let error = pull(&fake.name("app:1")).await.error();
    assert!(error.contains("too many redirects"), "{error}");
    assert!(asked.load(Ordering::SeqCst) < 20);
}

/// Everything needs the token `TOKEN`, which `/token` gives as `give` says.
fn gives_token(fake: &Fake, give: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
    let realm = format!("http://{}/token", fake.address);
    fake.hook(move |seen, _| {
        if seen.path == "/token" {
            return Some(give(seen));
        }
        let challenge = format!(r#"Bearer realm="{realm}",service="fake""#);
        (seen.header("authorization") != Some("Bearer TOKEN"))
            .then(|| Reply::new(401, "").header("www-authenticate", challenge))
    });
}

fn identity(token: &str, username: &str) -> Option<AuthConfig> {
    let (identitytoken, username) = (token.to_owned(), username.to_owned());
    Some(AuthConfig { identitytoken, username, ..AuthConfig::default() })
}

/// How `/token` was asked: method, form, and what was shown.
fn questions(fake: &Fake) -> Vec<(String, String, Option<String>)> {
    let asked = fake.seen().into_iter().filter(|seen| seen.path == "/token");
    asked
        .map(|seen| (seen.method.to_string(), seen.form.clone(), seen.header("authorization").map(str::to_owned)))
        .collect()
}

#[tokio::test]
async fn an_identity_token_is_exchanged_in_a_form() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    gives_token(&fake, |seen| {
        let right = seen.method == http::Method::POST && seen.query.is_empty();
        Reply::new(if right { 200 } else { 401 }, r#"{"access_token":"TOKEN"}"#)
    });
    let request = Request { auth: identity("refresh", ""), ..Request::default() };
    request.pull(&fake.name("app:1")).await.result.unwrap();
    let form =
        "grant_type=refresh_token&refresh_token=refresh&service=fake&client_id=gantry&scope=repository%3Aapp%3Apull";
    assert_eq!(questions(&fake), [("POST".to_owned(), form.to_owned(), None)]);
}

#[tokio::test]
async fn a_token_server_that_knows_one_form_only_is_asked_by_that_one() {
    for (auth, methods, last) in [
        // There were servers before OAuth2, and there are some that have nothing else.
        (identity("refresh", "me"), ["POST", "GET"], Some(basic("me", "refresh"))),
        (login("me", "secret"), ["GET", "POST"], None),
    ] {
        let (fake, image) = (Fake::start().await, Image::oci(1));
        fake.image("app", "1", &image);
        let knows = methods[1];
        gives_token(&fake, move |seen| match seen.method == knows {
            true => Reply::new(200, r#"{"token":"TOKEN"}"#),
            false => Reply::new(if knows == "GET" { 404 } else { 405 }, ""),
        });
        Request { auth, ..Request::default() }.pull(&fake.name("app:1")).await.result.unwrap();
        let asked = questions(&fake);
        assert_eq!(asked.iter().map(|(method, ..)| method.as_str()).collect::<Vec<_>>(), methods);
        assert_eq!(asked[1].2, last);
        let password = asked[1].1.contains("grant_type=password&access_type=online&username=me&password=secret");
        assert_eq!(password, methods[1] == "POST", "{asked:?}");
    }
    // Nobody is asked by the other form who has refused.
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    gives_token(&fake, |_| Reply::new(401, ""));
    let request = Request { auth: identity("refresh", "me"), ..Request::default() };
    let error = request.pull(&fake.name("app:1")).await.error();
    assert_eq!(error, "unauthorized: what was kept of the login does not count any more: log in again");
    assert_eq!(questions(&fake).len(), 1);
}

#[tokio::test]
async fn a_refresh_token_that_is_renewed_is_used_in_place_of_the_one_that_it_came_for() {
    let fake = Fake::start().await;
    for name in ["one", "two", "three"] {
        fake.image(name, "1", &Image::oci(1));
    }
    // Each is good for one time, and the caller has the first.
    let good = Arc::new(std::sync::Mutex::new("first".to_owned()));
    let next = Arc::clone(&good);
    gives_token(&fake, move |seen| {
        let mut good = next.lock().unwrap();
        if !seen.form.contains(&format!("refresh_token={good}&")) {
            return Reply::new(401, "");
        }
        good.push_str("-next");
        Reply::new(200, format!(r#"{{"access_token":"TOKEN","refresh_token":"{good}"}}"#))
    });
    let parts = tempfile::tempdir().unwrap();
    let registry = Registry::new(Options::default().parts(parts.path()));
    let pull = async |name: &str| {
        let request = Request { auth: identity("first", ""), registry: Some(registry.clone()), ..Request::default() };
        request.pull(&fake.name(&format!("{name}:1"))).await
    };
    pull("one").await.result.unwrap();
    pull("two").await.result.unwrap();
    assert_eq!(*good.lock().unwrap(), "first-next-next");
    // One that is refused is forgotten: the caller's own may have been made good again.
    "first".clone_into(&mut good.lock().unwrap());
    assert!(pull("three").await.error().starts_with("unauthorized"));
    pull("three").await.result.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_ask_at_once_do_not_show_the_same_refresh_token() {
    let fake = Fake::start().await;
    for name in ["one", "two", "three"] {
        fake.image(name, "1", &Image::oci(1));
    }
    // Each is good for one time, and is worth nothing from when it is shown. The first answer is under way for a while.
    let (good, held) = (std::sync::Mutex::new("first".to_owned()), Arc::new(tokio::sync::Notify::new()));
    let first = Arc::clone(&held);
    gives_token(&fake, move |seen| {
        let mut good = good.lock().unwrap();
        if !seen.form.contains(&format!("refresh_token={good}&")) {
            return Reply::new(401, "");
        }
        let is_first = *good == "first";
        good.push_str("-next");
        let reply = Reply::new(200, format!(r#"{{"access_token":"TOKEN","refresh_token":"{good}"}}"#));
        if is_first { reply.ends(End::Pause(1, Arc::clone(&first))) } else { reply }
    });
    let parts = tempfile::tempdir().unwrap();
    let registry = Registry::new(Options::default().parts(parts.path()));
    let pull = async |name: &str| {
        let request = Request { auth: identity("first", ""), registry: Some(registry.clone()), ..Request::default() };
        request.pull(&fake.name(&format!("{name}:1"))).await
    };
    let challenged = async {
        while fake.count("/token") == 0 || ["one", "two"].iter().any(|name| fake.count(&format!("/{name}/")) == 0) {
            tokio::task::yield_now().await;
        }
        held.notify_one();
    };
    let (one, two, ()) = tokio::join!(pull("one"), pull("two"), challenged);
    one.result.unwrap();
    two.result.unwrap();
    pull("three").await.result.unwrap();
    let shown: Vec<_> = questions(&fake).into_iter().map(|(_, form, _)| form).collect();
    for token in ["first", "first-next", "first-next-next"] {
        assert_eq!(
            shown.iter().filter(|form| form.contains(&format!("refresh_token={token}&"))).count(),
            1,
            "{shown:?}"
        );
    }
}
