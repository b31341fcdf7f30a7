//! The pull-through cache before an upstream that is down, slow, tired, and lies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_registry::server::config::Size;
use gantry_registry::server::proxy::CacheSettings;
use http::Method;

use crate::cached::{Cached, LAYER, blob, noise, settings, span};
use crate::fake::{End, Fake, Reply};
use crate::image::{Image, digest};

#[tokio::test]
async fn an_image_comes_once_and_is_then_served_from_here_under_each_of_its_names() {
    let fake = Fake::start().await;
    let image = Image::oci(2);
    fake.image("library/app", "1", &image);
    let cached = Cached::with(&fake, &CacheSettings { age: span(3600), ..settings() }).await;
    for round in 0..2 {
        for name in ["docker.io/library/app", "docker.io/app", "library/app", "app"] {
            let (status, headers, body) = cached.all(&format!("/v2/{name}/manifests/1")).await;
            assert_eq!((status, body.unwrap()), (200, image.manifest.clone()), "{name}");
            assert_eq!(headers["docker-content-digest"].to_str().unwrap(), digest(&image.manifest).as_str());
            assert!(!headers.contains_key("warning"));
            for (digest, content) in image.blobs() {
                let (status, _, body) = cached.all(&format!("/v2/{name}/blobs/{digest}")).await;
                assert_eq!((status, body.unwrap() == content), (200, true), "{round} {name}");
            }
        }
        let asked = cached.all("/v2/library/app/manifests/1?ns=docker.io").await;
        assert_eq!((asked.0, asked.2.unwrap()), (200, image.manifest.clone()));
    }
    let blobs = fake.seen().iter().filter(|seen| seen.path.contains("/blobs/") && seen.method == Method::GET).count();
    assert_eq!(blobs, image.blobs().len(), "each blob came once");
    assert_eq!(fake.count("/manifests/"), 1, "the manifest too, though it was asked for by four names");
    assert_eq!(cached.counted("docker.io", "miss") as usize, 1 + image.blobs().len());
    assert!(cached.counted("docker.io", "hit") > 10);
    // A part of what is here, and of what is not.
    let (_, path, content) = blob(&fake, "parts", 7);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for _ in 0..2 {
        let part = client
            .get(format!("http://{}{path}", cached.address))
            .header("range", "bytes=1000-1999")
            .send()
            .await
            .unwrap();
        assert_eq!(part.status().as_u16(), 206);
        assert_eq!(part.bytes().await.unwrap(), &content[1000..2000]);
    }
}

#[tokio::test]
async fn many_who_ask_at_once_are_one_question_to_upstream() {
    let fake = Fake::start().await;
    let (there, here, content) = blob(&fake, "app", 1);
    let cached = Arc::new(Cached::new(&fake).await);
    let readers = (0..16).map(|_| {
        let (cached, here) = (cached.clone(), here.clone());
        tokio::spawn(async move { cached.all(&here).await })
    });
    for reader in readers.collect::<Vec<_>>() {
        let (status, _, body) = reader.await.unwrap();
        assert_eq!((status, body.unwrap() == content), (200, true));
    }
    assert_eq!(fake.count(&there), 1);
}

#[tokio::test]
async fn who_asks_reads_along_while_it_comes_and_it_is_kept_when_they_leave() {
    let fake = Fake::start().await;
    let (there, here, content) = blob(&fake, "app", 1);
    let wanted = there.clone();
    let (body, range) = (content.clone(), format!("bytes 100000-{}/{LAYER}", LAYER - 1));
    fake.hook(move |seen, before| {
        let rest = Reply::new(206, body[100_000..].to_vec()).header("content-range", range.clone());
        match before {
            0 if seen.path == wanted => Some(Reply::new(200, body.clone()).ends(End::Hang(100_000))),
            _ if seen.path == wanted => Some(rest),
            _ => None,
        }
    });
    let cached = Cached::new(&fake).await;
    let begun = Instant::now();
    let mut answer = cached.get(&here).await;
    let mut got = 0;
    while got < 100_000 {
        got += answer.chunk().await.unwrap().unwrap().len();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "the first half was here before upstream fell silent for a second"
    );
    drop(answer);
    // Nobody reads any more; after the silence it goes on where it was, and is kept.
    let (status, _, whole) = cached.all(&here).await;
    assert_eq!((status, whole.unwrap() == content), (200, true));
    let asked: Vec<_> = fake.seen().iter().map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(asked, [None, Some("bytes=100000-".to_owned())]);
}

#[tokio::test]
async fn a_tag_is_asked_for_again_after_its_age_by_head_and_followed_where_it_leads_now() {
    let fake = Fake::start().await;
    let (one, two) = (Image::oci(1), Image::oci(2));
    fake.image("app", "latest", &one);
    let cached = Cached::new(&fake).await;
    let path = "/v2/hub.test/app/manifests/latest";
    for _ in 0..2 {
        assert_eq!(cached.all(path).await.2.unwrap(), one.manifest);
    }
    let methods = || fake.seen().iter().map(|seen| seen.method.to_string()).collect::<Vec<_>>();
    assert_eq!(methods(), ["GET", "HEAD"]);
    fake.image("app", "latest", &two);
    assert_eq!(cached.all(path).await.2.unwrap(), two.manifest);
    assert_eq!(methods(), ["GET", "HEAD", "HEAD", "GET"]);
    // By digest nobody needs to be asked.
    let old = cached.all(&format!("/v2/hub.test/app/manifests/{}", digest(&one.manifest))).await;
    assert_eq!((old.0, methods().len()), (200, 4));
}

#[tokio::test]
async fn what_is_here_is_served_with_a_warning_while_upstream_is_down_and_after_a_restart() {
    let fake = Fake::start().await;
    let image = Image::oci(1);
    fake.image("app", "latest", &image);
    let cached = Cached::new(&fake).await;
    let path = "/v2/hub.test/app/manifests/latest";
    assert_eq!(cached.all(path).await.0, 200);
    for (digest, _) in image.blobs() {
        assert_eq!(cached.all(&format!("/v2/hub.test/app/blobs/{digest}")).await.0, 200);
    }
    // Another port: nobody listens where the fake was.
    let nobody = Fake::start().await;
    let gone = nobody.address;
    drop(nobody);
    let cached = cached.again(gone, &settings()).await;
    let (status, headers, body) = cached.all(path).await;
    assert_eq!((status, body.unwrap()), (200, image.manifest.clone()));
    let warning = headers["warning"].to_str().unwrap();
    assert!(warning.starts_with("299 - \"hub.test cannot be asked whether latest is still this"), "{warning}");
    for (digest, content) in image.blobs() {
        assert_eq!(cached.all(&format!("/v2/hub.test/app/blobs/{digest}")).await.2.unwrap(), content);
    }
    let (status, _, body) = cached.all("/v2/hub.test/app/tags/list").await;
    let tags: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
    assert_eq!((status, &tags["tags"]), (200, &serde_json::json!(["latest"])));
    // What is not here is said to be out of reach, rather than unknown.
    for missing in ["/v2/hub.test/app/manifests/other", "/v2/hub.test/other/tags/list"] {
        let (status, message) = cached.message(missing).await;
        assert_eq!(status, 503, "{message}");
        assert!(message.contains("UNAVAILABLE") && message.contains("hub.test cannot be asked now"), "{message}");
        assert!(message.contains("refused"), "{message}");
    }
    assert_eq!(cached.counted("hub.test", "stale"), 1);
}

#[tokio::test]
async fn a_slow_upstream_is_waited_for_so_long_and_no_longer() {
    let fake = Fake::start().await;
    let image = Image::oci(1);
    fake.image("app", "latest", &image);
    let cached = Cached::new(&fake).await;
    assert_eq!(cached.all("/v2/hub.test/app/manifests/latest").await.0, 200);
    fake.hook(|seen, _| seen.path.contains("/manifests/").then(|| Reply::new(200, "{").ends(End::Hang(0))));
    // Even the head of its answer does not come: the gate holds two until a second one is there, and none is.
    fake.gate(vec!["/v2/app/manifests/latest".to_owned()], 2);
    let begun = Instant::now();
    let (status, headers, body) = cached.all("/v2/hub.test/app/manifests/latest").await;
    assert_eq!((status, body.unwrap()), (200, image.manifest.clone()));
    assert!(headers.contains_key("warning") && begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // It is left alone for a while: the next one does not wait.
    let begun = Instant::now();
    assert_eq!(cached.all("/v2/hub.test/app/manifests/latest").await.0, 200);
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    let (status, message) = cached.message("/v2/hub.test/app/manifests/slow").await;
    assert_eq!(status, 504, "{message}");
    assert!(message.contains("silent for 1s"), "{message}");
}

#[tokio::test]
async fn too_many_requests_is_passed_on_with_its_time_and_upstream_is_left_alone_until_then() {
    let fake = Fake::start().await;
    let image = Image::oci(1);
    fake.image("app", "latest", &image);
    let cached = Cached::new(&fake).await;
    assert_eq!(cached.all("/v2/hub.test/app/manifests/latest").await.0, 200);
    fake.hook(|_, _| Some(Reply::error(429, "TOOMANYREQUESTS", "pull rate limit").header("retry-after", "77")));
    let (status, headers, body) = cached.all("/v2/hub.test/app/manifests/other").await;
    let message = String::from_utf8(body.unwrap()).unwrap();
    assert_eq!((status, headers["retry-after"].to_str().unwrap()), (429, "77"), "{message}");
    assert!(
        message.contains("TOOMANYREQUESTS") && message.contains("hub.test says that this registry asks too often"),
        "{message}"
    );
    assert!(message.contains("pull rate limit"), "{message}");
    let asked = fake.seen().len();
    let (status, headers, _) = cached.all("/v2/hub.test/app/manifests/latest").await;
    assert_eq!(status, 200);
    assert!(headers["warning"].to_str().unwrap().contains("cannot be asked"));
    assert_eq!(cached.all("/v2/hub.test/app/manifests/other").await.0, 429);
    assert_eq!(cached.all("/v2/hub.test/app/manifests/latest").await.0, 200);
    assert_eq!(fake.seen().len(), asked, "it was not asked again");
}

#[tokio::test]
async fn a_blob_that_breaks_off_is_taken_up_and_one_that_always_does_is_an_error() {
    let fake = Fake::start().await;
    let (there, here, content) = blob(&fake, "app", 1);
    let (always, never_here, never) = blob(&fake, "app", 2);
    let (body, wanted) = (content.clone(), there.clone());
    fake.hook(move |seen, before| {
        if seen.path == always {
            return Some(Reply::new(200, never.clone()).ends(End::Break(0)));
        }
        (seen.path == wanted && before == 0).then(|| Reply::new(200, body.clone()).ends(End::Break(70_000)))
    });
    let cached = Cached::new(&fake).await;
    let (status, _, body) = cached.all(&here).await;
    assert_eq!((status, body.unwrap() == content), (200, true));
    let ranges: Vec<_> = fake.seen().iter().filter_map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["bytes=70000-"]);
    let (status, _, body) = cached.all(&never_here).await;
    assert!(status == 200 && body.is_err(), "the answer had begun, so it breaks off");
    assert_eq!(cached.kept(), [digest(&content).hex()], "nothing of it is kept");
}

#[tokio::test]
async fn wrong_content_is_never_sent_whole_and_never_kept() {
    let fake = Fake::start().await;
    let image = Image::oci(1);
    fake.image("app", "latest", &image);
    let (there, here, _) = blob(&fake, "app", 1);
    fake.put(&there, Reply::new(200, noise(2)));
    let cached = Cached::new(&fake).await;
    for _ in 0..2 {
        let (status, _, body) = cached.all(&here).await;
        assert!(status != 200 || body.is_err(), "the last byte is held back until all were verified");
    }
    let manifest = digest(&image.manifest);
    fake.put(
        &format!("/v2/app/manifests/{manifest}"),
        Reply::new(200, "{\"a\":1}").header("content-type", "application/json"),
    );
    let (status, message) = cached.message(&format!("/v2/hub.test/app/manifests/{manifest}")).await;
    assert_eq!(status, 502, "{message}");
    assert!(message.contains("hub.test: it sent sha256:") && message.contains("nothing of it is kept"), "{message}");
    // A tag whose header says another digest than its bytes have, and what is no manifest at all.
    let lie = Reply::new(200, "{\"a\":1}")
        .header("content-type", "x/y")
        .header("docker-content-digest", manifest.to_string());
    fake.put("/v2/app/manifests/lie", lie);
    fake.put("/v2/app/manifests/page", Reply::new(200, "<html>sign in</html>").header("content-type", "text/html"));
    for (tag, says) in [("lie", "nothing of it is kept"), ("page", "manifest page is none")] {
        let (status, message) = cached.message(&format!("/v2/hub.test/app/manifests/{tag}")).await;
        assert!(status == 502 && message.contains(says), "{status} {message}");
    }
    assert_eq!(cached.kept(), Vec::<String>::new());
}

#[tokio::test]
async fn redirects_are_followed_without_credentials_and_not_to_where_they_must_not_lead() {
    let (fake, elsewhere) = (Fake::start().await, Fake::start().await);
    let (there, here, content) = blob(&fake, "app", 1);
    elsewhere.put("/cdn", Reply::new(200, content.clone()));
    fake.put(&there, Reply::new(307, "").header("location", format!("http://{}/cdn?sig=secret", elsewhere.address)));
    let cached = Cached::new(&fake).await;
    let (status, _, body) = cached.all(&here).await;
    assert_eq!((status, body.unwrap() == content), (200, true));
    let (other, other_here, _) = blob(&fake, "app", 2);
    fake.put(&other, Reply::new(307, "").header("location", "file:///etc/passwd"));
    let (status, message) = cached.message(&other_here).await;
    assert_eq!(status, 502, "{message}");
    assert!(message.contains("redirects to file:///etc/passwd: refused"), "{message}");
}

#[tokio::test]
async fn a_malicious_realm_gets_no_question_and_is_named() {
    let (fake, evil) = (Fake::start().await, Fake::start().await);
    let realm = format!("http://user:pw@{}/token", evil.address);
    fake.hook(move |seen, _| {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"x\"");
        seen.path
            .contains("/manifests/")
            .then(|| Reply::error(401, "UNAUTHORIZED", "").header("www-authenticate", challenge))
    });
    let cached = Cached::new(&fake).await;
    let (status, headers, body) = cached.all("/v2/hub.test/app/manifests/latest").await;
    let message = String::from_utf8(body.unwrap()).unwrap();
    assert_eq!(status, 502, "{message}");
    assert!(
        message.contains("refused") && message.contains("credentials in it") && !message.contains("pw@"),
        "{message}"
    );
    assert!(!headers.contains_key("www-authenticate"), "the client's credentials are not asked for on its behalf");
    assert_eq!(evil.seen().len(), 0);
}

#[tokio::test]
async fn what_upstream_does_not_have_or_show_is_said_and_a_tag_that_is_gone_is_gone_here() {
    let fake = Fake::start().await;
    fake.image("app", "latest", &Image::oci(1));
    fake.put("/v2/secret/manifests/1", Reply::error(403, "DENIED", "no"));
    let cached = Cached::new(&fake).await;
    let path = "/v2/hub.test/app/manifests/latest";
    assert_eq!(cached.all(path).await.0, 200);
    fake.put("/v2/app/manifests/latest", Reply::error(404, "MANIFEST_UNKNOWN", "gone"));
    for _ in 0..2 {
        let (status, message) = cached.message(path).await;
        assert!(status == 404 && message.contains("MANIFEST_UNKNOWN"), "{status} {message}");
    }
    let (status, message) = cached.message("/v2/hub.test/secret/manifests/1").await;
    assert!(status == 403 && message.contains("does not let this registry read that"), "{status} {message}");
}

#[tokio::test]
async fn a_digest_alone_opens_no_repository_that_does_not_have_it() {
    let fake = Fake::start().await;
    let (_, secret, content) = blob(&fake, "secret/app", 1);
    let cached = Cached::new(&fake).await;
    assert_eq!(cached.all(&secret).await.0, 200);
    let guess = format!("/v2/hub.test/public/app/blobs/{}", digest(&content));
    assert_eq!(cached.all(&guess).await.0, 404);
    // Upstream says that this one has it, too: it need not come again.
    let (there, here, _) = blob(&fake, "public/app", 1);
    assert_eq!(cached.all(&here).await.2.unwrap(), content);
    assert!(fake.seen().iter().all(|seen| seen.path != there || seen.method == Method::HEAD));
}

#[tokio::test]
async fn the_cache_stays_within_its_size_and_a_damaged_file_is_fetched_again() {
    let fake = Fake::start().await;
    let blobs: Vec<_> = (1..=4).map(|seed| blob(&fake, "app", seed)).collect();
    let size = Size(2 * LAYER as u64 + 1000);
    let cached = Cached::with(&fake, &CacheSettings { size, ..settings() }).await;
    for (_, here, content) in &blobs {
        assert_eq!(&cached.all(here).await.2.unwrap(), content);
    }
    let mut last: Vec<String> = blobs[2..].iter().map(|(_, _, content)| digest(content).hex().to_owned()).collect();
    last.sort();
    assert_eq!(cached.kept(), last);
    let hex = digest(&blobs[3].2).hex().to_owned();
    let file = cached.directory.path().join(format!("cache/content/sha256/{}/{hex}", &hex[..2]));
    std::fs::write(&file, "short").unwrap();
    assert_eq!(cached.all(&blobs[3].1).await.2.unwrap(), blobs[3].2);
    assert_eq!(fake.count(&blobs[3].0), 2);
}

#[tokio::test]
async fn nothing_is_pushed_to_an_upstreams_name_and_own_names_are_pushed_and_served_beside_it() {
    let fake = Fake::start().await;
    let (hubs, ours) = (Image::oci(1), Image::oci(2));
    for name in ["library/app", "team/app", "team/other", "free/app"] {
        fake.image(name, "1", &hubs);
    }
    let cached = Cached::new(&fake).await;
    for (method, path) in [
        (Method::POST, "/v2/docker.io/library/app/blobs/uploads/".to_owned()),
        (Method::PUT, "/v2/hub.test/app/manifests/1".to_owned()),
        (Method::DELETE, format!("/v2/docker.io/library/app/manifests/{}", digest(&hubs.manifest))),
    ] {
        let answer = cached.send(method.clone(), &path).await;
        assert_eq!(answer.status().as_u16(), 403, "{method} {path}");
        assert!(answer.text().await.unwrap().contains("push to another name"));
    }
    // A push of the same name as one of Docker Hub's: what is there must not be taken for what is here.
    let (config, _) = ours.blobs().remove(0);
    let hub_blob = hubs.blobs().remove(0).0;
    assert_eq!(cached.send(Method::HEAD, &format!("/v2/team/app/blobs/{hub_blob}")).await.status().as_u16(), 404);
    assert_eq!(cached.send(Method::HEAD, &format!("/v2/team/app/blobs/{config}")).await.status().as_u16(), 404);
    push(&cached, "team/app", &ours).await;
    for (name, image) in
        [("team/app", Some(&ours)), ("team/other", None), ("library/app", Some(&hubs)), ("free/app", Some(&hubs))]
    {
        let (status, _, body) = cached.all(&format!("/v2/{name}/manifests/1")).await;
        match image {
            Some(image) => assert_eq!((status, body.unwrap() == image.manifest), (200, true), "{name}"),
            None => assert_eq!(status, 404, "who takes the name team at Docker Hub slips nothing in among ours"),
        }
    }
    let catalog = cached.message("/v2/_catalog").await.1;
    assert_eq!(catalog, r#"{"repositories":["team/app"]}"#);
}

async fn push(cached: &Cached, name: &str, image: &Image) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (digest, content) in image.blobs() {
        let url = format!("http://{}/v2/{name}/blobs/uploads/?digest={digest}", cached.address);
        let answer =
            client.post(url).header("content-type", "application/octet-stream").body(content).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 201);
    }
    let url = format!("http://{}/v2/{name}/manifests/1", cached.address);
    let answer =
        client.put(url).header("content-type", image.media_type()).body(image.manifest.clone()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 201, "{}", answer.text().await.unwrap());
}

#[tokio::test]
async fn referrers_are_upstreams_also_by_tag_and_what_it_said_last_when_it_is_away() {
    let fake = Fake::start().await;
    let image = Image::oci(1);
    let subject = digest(&image.manifest);
    let entry = |kind: &str| serde_json::json!({ "mediaType": "m", "digest": digest(kind.as_bytes()), "size": 1, "artifactType": kind });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry("a"), entry("b")] }).to_string();
    fake.put(&format!("/v2/app/referrers/{subject}"), Reply::new(200, index.clone()));
    let tag = subject.to_string().replace(':', "-");
    fake.document("old", &tag, index.as_bytes(), "application/vnd.oci.image.index.v1+json");
    // What is not here has no list here either.
    let absent = digest(b"absent");
    fake.put(&format!("/v2/app/referrers/{absent}"), Reply::new(200, index.clone()));
    fake.image("app", "latest", &image);
    let cached = Cached::new(&fake).await;
    assert_eq!(cached.all("/v2/hub.test/app/manifests/latest").await.0, 200);
    assert_eq!(cached.all(&format!("/v2/hub.test/app/referrers/{absent}")).await.0, 200);
    let count = async |name: &str, query: &str| {
        let (status, _, body) = cached.all(&format!("/v2/hub.test/{name}/referrers/{subject}{query}")).await;
        let value: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
        (status, value["manifests"].as_array().map(Vec::len))
    };
    for (name, query, expected) in [("app", "", 2), ("app", "?artifactType=b", 1), ("old", "", 2), ("none", "", 0)] {
        assert_eq!(count(name, query).await, (200, Some(expected)), "{name}{query}");
    }
    fake.hook(|_, _| Some(Reply::error(503, "UNAVAILABLE", "maintenance")));
    assert_eq!(count("app", "?artifactType=a").await, (200, Some(1)));
    assert_eq!(count("other", "").await.0, 503);
    assert_eq!(cached.all(&format!("/v2/hub.test/app/referrers/{absent}")).await.0, 503);
}

#[tokio::test]
async fn a_list_of_referrers_that_is_empty_now_is_not_kept() {
    let fake = Fake::start().await;
    let image = Image::oci(1);
    fake.image("app", "latest", &image);
    let path = format!("/v2/app/referrers/{}", digest(&image.manifest));
    let cached = Cached::new(&fake).await;
    assert_eq!(cached.all("/v2/hub.test/app/manifests/latest").await.0, 200);
    let kept = || cached.directory.path().join("cache/documents/repositories/hub.test/app/_referrers").exists();
    for (entries, expected) in [(r#"[{"digest":"x"}]"#, true), ("[]", false)] {
        fake.put(&path, Reply::new(200, format!(r#"{{"manifests":{entries}}}"#)));
        assert_eq!(cached.all(&path.replace("/v2/", "/v2/hub.test/")).await.0, 200);
        assert_eq!(kept(), expected, "{entries}");
    }
}

#[tokio::test]
async fn an_upstream_that_drips_holds_up_nobody_elses_blobs_and_nobody_for_ever() {
    let fake = Fake::start().await;
    let blobs: Vec<_> = (1..=17).map(|seed| blob(&fake, "drips", seed)).collect();
    let drip = End::Drip(Duration::from_millis(300));
    for (there, _, content) in &blobs {
        fake.put(there, Reply::new(200, content.clone()).ends(drip.clone()));
    }
    fake.put("/v2/drips/manifests/1", Reply::new(200, "{}".repeat(50)).ends(drip));
    let (_, other, content) = blob(&fake, "library/app", 18);
    let cached = Cached::new(&fake).await;
    let mut coming = Vec::new();
    for (_, here, _) in &blobs[..16] {
        coming.push(cached.get(here).await);
    }
    let soon = Duration::from_secs(10);
    let other = other.replace("hub.test", "docker.io");
    let (status, _, body) = tokio::time::timeout(soon, cached.all(&other)).await.expect("another upstream's slots");
    assert_eq!((status, body.unwrap() == content), (200, true));
    let waits = tokio::time::timeout(soon, cached.message(&blobs[16].1)).await.expect("who waits for a slot");
    assert!(waits.0 == 504 && waits.1.contains("within 2s"), "{waits:?}");
    let drips = cached.message("/v2/hub.test/drips/manifests/1");
    let drips = tokio::time::timeout(soon, drips).await.expect("a whole document");
    assert!(drips.0 == 504 && drips.1.contains("a manifest was not whole within 2s"), "{drips:?}");
}
