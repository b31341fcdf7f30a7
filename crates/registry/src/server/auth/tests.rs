//! The gate as requests meet it. What once opened other registries is a row of the museum here.

use http::header::RETRY_AFTER;
use http::{HeaderName, Method};

use super::super::request::Request;
use super::super::{Digest, Query};
use super::*;

/// Alice and bob with their password `secret`, in a policy of these settings.
struct Place {
    _directory: tempfile::TempDir,
    gate: Arc<Gate>,
}

const RULES: &str = r#"
[[rules]]
users = ["alice"]
repositories = ["team/**", "{user}/*"]
actions = ["pull", "push", "delete"]
[[rules]]
users = ["bob"]
repositories = ["shared/*"]
actions = ["pull"]
"#;
const PUBLIC: &str = "[[rules]]\nusers = [\"anonymous\"]\nrepositories = [\"public/**\"]\nactions = [\"pull\"]\n";

impl Place {
    fn new(settings: &str) -> Self {
        Self::with(settings, &LimitSettings::default(), false)
    }

    fn with(settings: &str, limits: &LimitSettings, is_read_only: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("htpasswd");
        let hash = bcrypt::hash_with_salt("secret", 4, [7; 16]).unwrap();
        let hash = hash.format_for_version(bcrypt::Version::TwoY);
        gantry_linux::fs::write(&file, format!("alice:{hash}\nbob:{hash}\n")).unwrap();
        let mut settings: AuthSettings = toml::from_str(settings).unwrap();
        settings.htpasswd = Some(file);
        let policy = Policy::open(&settings, directory.path(), None, true).unwrap();
        assert!(policy.is_some());
        Self { _directory: directory, gate: Arc::new(Gate::new(policy, limits, is_read_only)) }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Who> {
        let request = request(method, path, headers)?;
        self.gate
            .admit(Ask {
                peer: &request.peer,
                certificate: None,
                method: &request.method,
                route: &request.route,
                headers: &request.headers,
                needs: request.needs(),
            })
            .await
    }

    async fn status(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        self.ask(method, path, headers).await.map_or_else(|failure| failure.status.as_u16(), |_| 200)
    }

    /// A token for these scopes.
    async fn token(&self, user: Option<&str>, scopes: &[&str]) -> Result<String> {
        let query: String = scopes.iter().map(|scope| format!("&scope={scope}")).collect();
        let header = user.map(|user| basic(user, "secret"));
        let headers: Vec<_> = header.iter().map(|header| ("authorization", header.as_str())).collect();
        let request = request("GET", &format!("/token?service=gantry-registry{query}"), &headers)?;
        let door = TokenDoor(self.gate.clone());
        assert!(super::super::Door::is_at(&door, request.uri.path()));
        let answer = super::super::Door::answer(&door, &request, &Query::default()).await?;
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["expires_in"], 300);
        Ok(body["token"].as_str().unwrap().to_owned())
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Request> {
    let uri: http::Uri = path.parse().unwrap();
    let mut map = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("r.test:5000"))]);
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    Ok(Request {
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        route: Route::parse(uri.path())?,
        query: Query::parse(uri.query())?,
        uri,
        headers: map,
        peer: Peer::Remote { address: "192.0.2.1:7".parse().unwrap(), subject: None },
        certificate: None,
        who: Who::default(),
    })
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn challenge(failure: &Failure) -> String {
    let found = failure.headers.iter().find(|(name, _)| name == WWW_AUTHENTICATE);
    found.map(|(_, value)| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn a_password_is_asked_for_at_the_base_and_everywhere_and_opens_what_the_rules_allow() {
    let place = Place::new(RULES);
    for path in ["/v2/", "/v2", "/v2/_catalog", "/v1/search?q=a", "/v2/team/app/tags/list", "/v2/none/manifests/x"] {
        let failure = place.ask("GET", path, &[]).await.unwrap_err();
        assert_eq!(failure.status, 401, "{path}");
        assert_eq!(challenge(&failure), "Basic realm=\"gantry registry\"", "{path}");
    }
    let (alice, bob) = (basic("alice", "secret"), basic("bob", "secret"));
    for (user, method, path, expected) in [
        (&alice, "GET", "/v2/", 200),
        (&bob, "GET", "/v2/", 200),
        (&alice, "GET", "/v2/team/app/manifests/latest", 200),
        (&alice, "PUT", "/v2/team/app/manifests/latest", 200),
        (&alice, "DELETE", "/v2/team/app/manifests/latest", 200),
        (&alice, "POST", "/v2/alice/x/blobs/uploads/", 200),
        (&bob, "GET", "/v2/team/app/manifests/latest", 403),
        (&bob, "HEAD", "/v2/team/app/manifests/latest", 403),
        (&bob, "GET", "/v2/shared/x/tags/list", 200),
        (&bob, "PUT", "/v2/shared/x/manifests/latest", 403),
        (&bob, "POST", "/v2/shared/x/blobs/uploads/", 403),
        (&bob, "DELETE", "/v2/shared/x/manifests/latest", 403),
        (&bob, "GET", "/v2/_catalog", 200),
        (&basic("alice", "wrong"), "GET", "/v2/", 401),
        (&basic("carol", "secret"), "GET", "/v2/", 401),
        (&basic("", "secret"), "GET", "/v2/", 401),
        (&"Basic !!!".to_owned(), "GET", "/v2/", 401),
        (&"Bearer x".to_owned(), "GET", "/v2/", 401),
    ] {
        assert_eq!(place.status(method, path, &[("authorization", user)]).await, expected, "{user} {method} {path}");
    }
    assert_eq!(place.status("GET", "/health", &[]).await, 200);
}

#[tokio::test]
async fn a_challenge_names_token_server_service_and_scope() {
    let place = Place::new(&format!("[token]\n{RULES}"));
    for (method, path, scope) in [
        ("GET", "/v2/", ""),
        ("GET", "/v2/team/app/manifests/latest", ",scope=\"repository:team/app:pull\""),
        ("HEAD", "/v2/team/app/tags/list", ",scope=\"repository:team/app:pull\""),
        ("POST", "/v2/team/app/blobs/uploads/", ",scope=\"repository:team/app:pull,push\""),
        ("PUT", "/v2/team/app/manifests/latest", ",scope=\"repository:team/app:pull,push\""),
        ("DELETE", "/v2/team/app/manifests/latest", ",scope=\"repository:team/app:delete\""),
        ("GET", "/v2/_catalog", ",scope=\"registry:catalog:*\""),
    ] {
        let failure = place.ask(method, path, &[]).await.unwrap_err();
        let expected = format!("Bearer realm=\"https://r.test:5000/token\",service=\"gantry-registry\"{scope}");
        assert_eq!((failure.status.as_u16(), challenge(&failure)), (401, expected), "{method} {path}");
    }
    // A host that would break out of the quotes is not repeated.
    let mut evil = request("GET", "/v2/", &[]).unwrap();
    evil.headers.insert(http::header::HOST, HeaderValue::from_static("evil.test\",x=\""));
    let ask = Ask {
        peer: &evil.peer,
        certificate: None,
        method: &evil.method,
        route: &evil.route,
        headers: &evil.headers,
        needs: None,
    };
    assert!(!challenge(&place.gate.admit(ask).await.unwrap_err()).contains("evil"));
}

#[tokio::test]
async fn a_token_opens_what_it_names_and_the_rules_allow_and_nothing_beside() {
    let place = Place::new(&format!("[token]\n{RULES}{PUBLIC}"));
    let pull = format!("Bearer {}", place.token(Some("alice"), &["repository:team/app:pull"]).await.unwrap());
    let push = format!("bearer {}", place.token(Some("alice"), &["repository:team/app:pull,push"]).await.unwrap());
    let bobs =
        format!("Bearer {}", place.token(Some("bob"), &["repository:team/app:pull,push,delete,*"]).await.unwrap());
    let nobodys = format!(
        "Bearer {}",
        place.token(None, &["repository:public/x:pull,push", "repository:team/app:pull"]).await.unwrap()
    );
    let empty = format!("Bearer {}", place.token(Some("alice"), &["", "repository:team/app:"]).await.unwrap());
    for (token, method, path, expected) in [
        (&pull, "GET", "/v2/", 200),
        (&pull, "GET", "/v2/team/app/manifests/latest", 200),
        (&pull, "PUT", "/v2/team/app/manifests/latest", 401),
        (&pull, "GET", "/v2/team/other/manifests/latest", 401),
        (&push, "PUT", "/v2/team/app/manifests/latest", 200),
        (&push, "DELETE", "/v2/team/app/manifests/latest", 401),
        (&bobs, "GET", "/v2/", 200),
        (&bobs, "GET", "/v2/team/app/manifests/latest", 403),
        (&bobs, "PUT", "/v2/team/app/manifests/latest", 403),
        (&nobodys, "GET", "/v2/public/x/manifests/latest", 200),
        (&nobodys, "PUT", "/v2/public/x/manifests/latest", 401),
        (&nobodys, "GET", "/v2/team/app/manifests/latest", 401),
        (&empty, "GET", "/v2/", 200),
        (&empty, "GET", "/v2/team/app/manifests/latest", 401),
        (&basic("alice", "secret"), "GET", "/v2/team/app/manifests/latest", 401),
    ] {
        assert_eq!(place.status(method, path, &[("authorization", token)]).await, expected, "{method} {path} {token}");
    }
    assert_eq!(place.status("GET", "/v2/public/x/manifests/latest", &[]).await, 200);
    assert_eq!(place.status("GET", "/v2/", &[]).await, 401, "who is asked for nothing first never shows a password");
    let failure = place.ask("PUT", "/v2/team/app/manifests/l", &[("authorization", &pull)]).await.unwrap_err();
    assert!(challenge(&failure).ends_with("error=\"insufficient_scope\""), "{}", challenge(&failure));
    for (user, scopes) in [(Some("carol"), ["repository:public/x:pull"]), (Some(""), [""])] {
        assert_eq!(place.token(user, &scopes).await.unwrap_err().status, 401);
    }
    let closed = Place::new(&format!("[token]\n{RULES}"));
    assert_eq!(closed.token(None, &["repository:team/app:pull"]).await.unwrap_err().status, 401);
}

/// What the token server answers to a form.
async fn post(place: &Place, form: &str) -> Result<serde_json::Value> {
    let (request, form) = (request("POST", "/token", &[]).unwrap(), Query::parse(Some(form)).unwrap());
    let answer = super::super::Door::answer(&TokenDoor(place.gate.clone()), &request, &form).await?;
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    Ok(serde_json::from_slice(&body).unwrap())
}

const SCOPES: &str =
    "scope=repository%3Ateam%2Fapp%3Apull%2Cpush+repository:other:pull&service=gantry-registry&client_id=containerd";

#[tokio::test]
async fn a_token_is_given_for_a_password_in_a_form_and_for_nothing_else_in_it() {
    let place = Place::new(&format!("[token]\n{RULES}"));
    let answer = post(&place, &format!("grant_type=password&username=alice&password=secret&{SCOPES}")).await.unwrap();
    assert_eq!(answer["scope"], "repository:team/app:pull,push");
    assert_eq!(answer.get("refresh_token"), None, "nobody asked for one");
    let token = format!("Bearer {}", answer["access_token"].as_str().unwrap());
    for (path, expected) in [("/v2/team/app/tags/list", 200), ("/v2/team/other/tags/list", 401)] {
        assert_eq!(place.status("GET", path, &[("authorization", &token)]).await, expected, "{path}");
    }
    for (form, expected) in [
        ("grant_type=password&username=alice&password=wrong", 401),
        ("grant_type=password&username=alice&password=wrong&access_type=offline", 401),
        ("grant_type=password&username=nobody&password=secret", 401),
        ("grant_type=password&username=alice", 400),
        ("grant_type=refresh_token&refresh_token=x", 401),
        ("grant_type=refresh_token", 400),
        ("grant_type=client_credentials", 400),
        ("", 400),
    ] {
        assert_eq!(post(&place, &format!("{form}&{SCOPES}")).await.unwrap_err().status.as_u16(), expected, "{form}");
    }
}

#[tokio::test]
async fn what_is_kept_in_place_of_a_password_gives_tokens_and_nothing_else_and_ends_with_the_password() {
    let place = Place::new(&format!("[token]\n{RULES}"));
    let offline = format!("grant_type=password&username=alice&password=secret&access_type=offline&{SCOPES}");
    let answer = post(&place, &offline).await.unwrap();
    let kept = answer["refresh_token"].as_str().unwrap().to_owned();
    let refresh = async |place: &Place, token: &str| {
        post(place, &format!("grant_type=refresh_token&refresh_token={token}&{SCOPES}")).await
    };
    let renewed = refresh(&place, &kept).await.unwrap();
    assert_eq!(renewed["scope"], "repository:team/app:pull,push");
    let token = renewed["access_token"].as_str().unwrap().to_owned();
    let shown = |token: &str| format!("Bearer {token}");
    for (token, expected) in [(&token, 200), (&kept, 401)] {
        let header = shown(token);
        for path in ["/v2/", "/v2/team/app/tags/list"] {
            assert_eq!(place.status("GET", path, &[("authorization", &header)]).await, expected, "{path}");
        }
    }
    assert_eq!(refresh(&place, &token).await.unwrap_err().status, 401, "what opens doors gives no tokens");
    // The query's form, as docker login asks.
    let query =
        |words: &str| request("GET", &format!("/token?{words}"), &[("authorization", &basic("alice", "secret"))]);
    for (words, is_given) in [("offline_token=true", true), ("offline_token=false", false), ("", false)] {
        let (door, request) = (TokenDoor(place.gate.clone()), query(words).unwrap());
        let answer = super::super::Door::answer(&door, &request, &Query::default()).await.unwrap();
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["refresh_token"].is_string(), is_given, "{words}");
    }
    // Another key, and an issuer that gives none.
    assert_eq!(refresh(&Place::new(&format!("[token]\n{RULES}")), &kept).await.unwrap_err().status, 401);
    let none = Place::new(&format!("[token]\nrefresh = \"0s\"\n{RULES}"));
    assert_eq!(post(&none, &offline).await.unwrap().get("refresh_token"), None);
    // Bob changes nothing for alice; another password of hers does, whatever it is.
    let hash =
        |salt| bcrypt::hash_with_salt("secret", 4, [salt; 16]).unwrap().format_for_version(bcrypt::Version::TwoY);
    let users = |alice: u8, bob: u8| {
        let text = format!("alice:{}\nbob:{}\n", hash(alice), hash(bob));
        gantry_linux::fs::write(place._directory.path().join("htpasswd"), text).unwrap();
    };
    users(7, 8);
    refresh(&place, &kept).await.unwrap();
    users(8, 8);
    let failure = refresh(&place, &kept).await.unwrap_err();
    assert!(failure.status == 401 && failure.message.contains("log in again"), "{}", failure.message);
    // The password is changed while the old one is compared: what is given for the old one ends with it.
    let users_of = place.gate.terms().policy.clone().unwrap();
    let busy = users_of.users.as_ref().unwrap().slots.acquire_many(2).await.unwrap();
    let change = async {
        users(9, 8);
        drop(busy);
    };
    let (answer, ()) = tokio::join!(post(&place, &offline), change);
    let kept = answer.unwrap()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(refresh(&place, &kept).await.unwrap_err().status, 401);
}

#[tokio::test]
async fn the_museum_of_ways_around_the_gate_is_closed() {
    let place = Place::new(&format!("[token]\n{RULES}{PUBLIC}"));
    let bob = format!("Bearer {}", place.token(Some("bob"), &["repository:shared/x:pull"]).await.unwrap());
    let alice = format!("Bearer {}", place.token(Some("alice"), &["repository:team/app:pull"]).await.unwrap());
    let digest = Digest::of(super::super::Algorithm::Sha256, b"");
    // No spelling of a path, method or header leads bob, or nobody, to team/app.
    for method in ["GET", "HEAD", "OPTIONS", "get", "PROPFIND", "POST", "PUT", "PATCH", "DELETE", "TRACE"] {
        for path in [
            "/v2/team/app/manifests/latest",
            "/v2/team%2Fapp/manifests/latest",
            "/v2/%74eam/app/manifests/latest",
            "/v2/team/app%2Fmanifests%2Flatest",
            "/v2/team//app/manifests/latest",
            "//v2/team/app/manifests/latest",
            "/v2//team/app/manifests/latest",
            "/v2/./team/app/manifests/latest",
            "/v2/public/../team/app/manifests/latest",
            "/v2/public/x/%2e%2e/%2e%2e/team/app/manifests/latest",
            "/v2/public%2F..%2Fteam/app/manifests/latest",
            "/v2/TEAM/app/manifests/latest",
            "/V2/team/app/manifests/latest",
            "/v2/team/app/manifests/latest/",
            "/v2/team/app/manifests/latest?from=public/x",
            "/v2/team/app;public/x/manifests/latest",
            "/v2/team/app%00/manifests/latest",
            &format!("/v2/team/app/referrers/{digest}"),
            &format!("/v2/team/app/blobs/{digest}"),
            "/v2/team/app/tags/list",
            "/v2/team/app/blobs/uploads/",
        ] {
            for headers in [
                vec![],
                vec![("authorization", bob.as_str())],
                vec![("authorization", bob.as_str()), ("authorization", alice.as_str())],
                vec![("authorization", alice.as_str()), ("authorization", bob.as_str())],
                vec![("authorization", alice.as_str()), ("authorization", alice.as_str())],
                vec![("authorization", "Bearer")],
                vec![("authorization", "")],
                vec![("authorization", "Basic")],
                vec![("authorization", "Negotiate abc")],
                vec![("x-forwarded-user", "alice"), ("x-original-url", "/v2/public/x/tags/list")],
                vec![("x-http-method-override", "HEAD"), ("authorization", bob.as_str())],
            ] {
                let Ok(request) = request(method, path, &headers) else { continue };
                let admitted = place.status(method, path, &headers).await == 200;
                // What is let in is no path of a repository: there is nothing behind it.
                assert!(!admitted || request.route == Route::Other, "{method} {path} {headers:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_mount_a_list_and_a_search_see_what_their_reader_may_pull() {
    let place = Place::new(&format!("[token]\n{RULES}"));
    let name = |text: &str| text.parse::<Name>().unwrap();
    let who = |user: &'static str, scopes: &'static [&'static str]| {
        let place = &place;
        async move {
            let token = format!("Bearer {}", place.token(Some(user), scopes).await.unwrap());
            place.ask("GET", "/v2/_catalog", &[("authorization", &token)]).await.unwrap()
        }
    };
    let alice = who("alice", &["repository:team/app:pull,push", "repository:team/base:pull"]).await;
    assert!(place.gate.may(&alice, &name("team/base"), Action::Pull), "a source that the token names");
    assert!(!place.gate.may(&alice, &name("team/other"), Action::Pull), "a source that it does not");
    assert!(!place.gate.may(&alice, &name("shared/x"), Action::Pull), "a source that the rules forbid");
    for (repository, alices, bobs) in [("team/app", true, false), ("shared/x", false, true), ("bob/x", false, false)] {
        assert_eq!(place.gate.may(&alice, &name(repository), Action::List), alices, "{repository}");
        let bob = who("bob", &["registry:catalog:*"]).await;
        assert_eq!(place.gate.may(&bob, &name(repository), Action::List), bobs, "{repository}");
    }
}

#[tokio::test]
async fn who_was_removed_is_out_at_once_though_their_token_has_not_ended() {
    let place = Place::new(&format!("[token]\n{RULES}"));
    let token = format!("Bearer {}", place.token(Some("alice"), &["repository:team/app:pull"]).await.unwrap());
    let headers = [("authorization", token.as_str())];
    assert_eq!(place.status("GET", "/v2/team/app/tags/list", &headers).await, 200);
    let bob = format!("bob:$2y$04${}\n", "a".repeat(53));
    gantry_linux::fs::write(place._directory.path().join("htpasswd"), bob).unwrap();
    assert_eq!(place.status("GET", "/v2/team/app/tags/list", &headers).await, 401);
}

#[tokio::test]
async fn guessing_is_slowed_down_and_the_right_password_is_not_believed_meanwhile() {
    let limits = LimitSettings { failed_logins_per_minute: 3, ..LimitSettings::default() };
    let place = Place::with(RULES, &limits, false);
    let wrong = basic("alice", "wrong");
    for expected in [401, 401, 401, 429, 429] {
        assert_eq!(place.status("GET", "/v2/", &[("authorization", &wrong)]).await, expected);
    }
    let right = place.ask("GET", "/v2/", &[("authorization", &basic("alice", "secret"))]).await.unwrap_err();
    assert_eq!(right.status, 429);
    assert!(
        right.headers.iter().any(|(name, _)| name == RETRY_AFTER) && right.message.contains("wrong passwords"),
        "{}",
        right.message
    );
    // The body is the specification's.
    let answer = right.into_response();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("TOOMANYREQUESTS"));
}

#[tokio::test]
async fn guesses_at_once_are_no_more_than_guesses_in_turn_and_many_right_ones_at_once_are_right() {
    let limits = LimitSettings { failed_logins_per_minute: 3, ..LimitSettings::default() };
    let place = Place::with(RULES, &limits, false);
    let all = |password: &'static str| {
        let shown = basic("alice", password);
        let place = &place;
        async move {
            let headers = [("authorization", shown.as_str())];
            futures_util::future::join_all((0..20).map(|_| place.status("GET", "/v2/", &headers))).await
        }
    };
    assert!(all("secret").await.iter().all(|status| *status == 200));
    let wrong = all("wrong").await;
    assert_eq!(wrong.iter().filter(|status| **status == 401).count(), 3, "{wrong:?}");
    assert!(wrong.iter().all(|status| [401, 429].contains(status)));
}

#[tokio::test]
async fn a_good_token_is_good_whatever_others_of_the_address_show_and_rubbish_is_slowed_down() {
    let limits = LimitSettings { failed_logins_per_minute: 2, ..LimitSettings::default() };
    let place = Place::with(&format!("[token]\n{RULES}"), &limits, false);
    let token = format!("Bearer {}", place.token(Some("alice"), &["repository:team/app:pull"]).await.unwrap());
    let shown = |token: &str| {
        let (place, token) = (&place, token.to_owned());
        async move { place.status("GET", "/v2/team/app/tags/list", &[("authorization", &token)]).await }
    };
    for expected in [401, 401, 429, 429] {
        assert_eq!(shown("Bearer x.y.z").await, expected);
    }
    assert_eq!(shown(&token).await, 200);
}

#[tokio::test]
async fn read_only_and_too_large_are_said_before_anything_is_read() {
    let limits = LimitSettings { request_bytes: super::super::config::Size(1000), ..LimitSettings::default() };
    let gate = |is_read_only| Place::with(RULES, &limits, is_read_only);
    let alice = basic("alice", "secret");
    let place = gate(true);
    for (method, path) in [
        ("PUT", "/v2/team/app/manifests/latest"),
        ("POST", "/v2/team/app/blobs/uploads/"),
        ("DELETE", "/v2/team/app/manifests/latest"),
    ] {
        let failure = place.ask(method, path, &[("authorization", &alice)]).await.unwrap_err();
        assert_eq!((failure.status.as_u16(), failure.code), (405, Code::Unsupported));
        assert!(failure.message.contains("read-only"));
    }
    assert_eq!(place.status("GET", "/v2/team/app/tags/list", &[("authorization", &alice)]).await, 200);
    let place = gate(false);
    let large = [("authorization", alice.as_str()), ("content-length", "1001")];
    let failure = place.ask("PUT", "/v2/team/app/manifests/latest", &large).await.unwrap_err();
    assert_eq!((failure.status.as_u16(), failure.code), (413, Code::SizeInvalid));
    let fits = [("authorization", alice.as_str()), ("content-length", "1000")];
    assert_eq!(place.status("PUT", "/v2/team/app/manifests/latest", &fits).await, 200);
}

#[tokio::test]
async fn one_user_is_limited_from_wherever_and_others_are_not() {
    let limits = LimitSettings { user_requests_per_second: 1, user_burst: 2, ..LimitSettings::default() };
    let place = Place::with(RULES, &limits, false);
    let (alice, bob) = (basic("alice", "secret"), basic("bob", "secret"));
    for (user, expected) in [(&alice, 200), (&alice, 200), (&alice, 429), (&bob, 200)] {
        assert_eq!(place.status("GET", "/v2/", &[("authorization", user)]).await, expected);
    }
}

#[test]
fn settings_that_would_surprise_are_refused_with_the_reason() {
    let refused = |text: &str| {
        let settings: AuthSettings = toml::from_str(text).unwrap();
        match Policy::open(&settings, std::path::Path::new("/nonexistent"), None, true) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    for (text, says) in [
        ("[token]", "token needs htpasswd"),
        ("anonymous-pull = true", "neither htpasswd nor issuers"),
        (RULES, "neither htpasswd nor issuers"),
        ("htpasswd = \"/x\"\nanonymous-pull = true", "anonymous access needs token"),
        ("htpasswd = \"/x\"\nrealm = 'a\"b'", "shown in a header"),
        ("htpasswd = \"/x\"\n[token]\nlifetime = \"1s\"", "want 10s to 24h"),
        ("htpasswd = \"/x\"\n[token]\nrefresh = \"5m\"", "want 1h or more"),
        ("htpasswd = \"/x\"\n[token]\nservice = \"\"", "shown in a header"),
        ("htpasswd = \"/nonexistent\"", "/nonexistent"),
    ] {
        assert!(refused(text).contains(says), "{text}: {}", refused(text));
    }
    assert_eq!(refused(""), "");
}
