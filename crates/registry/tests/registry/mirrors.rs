//! Mirrors: who is asked first, with what name and whose credentials, and what happens when one fails. And every tag at once.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::fake::{End, Fake, Reply};
use crate::image::{Image, digest};
use crate::store::{Outcome, Request, login};

/// A pull of `app:1` of the first, mirrored by the others in order.
async fn mirrored(origin: &Fake, mirrors: &[&Fake]) -> Outcome {
    let mirrors: Vec<_> = mirrors.iter().map(|mirror| format!("http://{}", mirror.address)).collect();
    let registries = json!([{"prefix": origin.address.to_string(), "mirrors": mirrors}]);
    Request { registries: Some(registries), ..Request::default() }.pull(&origin.name("app:1")).await
}

fn told(outcome: &Outcome) -> Vec<String> {
    let statuses = outcome.progress.iter().map(|message| message.status.clone());
    statuses.filter(|status| status.starts_with("Mirror ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_has_its_own_names_and_credentials() {
    let (origin, mirror, image) = (Fake::start().await, Fake::start().await, Image::oci(2));
    mirror.image("hub/team/app", "1", &image);
    let basic = "Basic bWlycm9yOnNlY3JldA==";
    mirror.hook(move |seen, _| {
        let known = seen.header("authorization") == Some(basic);
        (!known)
            .then(|| Reply::error(401, "UNAUTHORIZED", "who are you").header("www-authenticate", "Basic realm=\"m\""))
    });
    let location = format!("http://{}/hub", mirror.address);
    let registries = json!([{
        "prefix": origin.address.to_string(),
        "mirrors": [{"location": location, "username": "mirror", "password": "secret"}],
    }]);
    let auth = login("me", "own");
    let request = Request { registries: Some(registries), auth, ..Request::default() };
    let outcome = request.pull(&origin.name("team/app:1")).await;
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.progress[0].status, "Pulling from team/app");
    assert!(origin.seen().is_empty() && told(&outcome).is_empty());
    let names: Vec<_> = outcome.store.names.lock().unwrap().keys().cloned().collect();
    assert_eq!(names, [origin.name("team/app:1")], "it is named as it was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_fails_is_told_and_the_next_place_is_asked() {
    let (origin, empty, image) = (Fake::start().await, Fake::start().await, Image::oci(1));
    origin.image("app", "1", &image);
    let outcome = mirrored(&origin, &[&empty]).await;
    outcome.result.as_ref().unwrap();
    let told = told(&outcome);
    let begins = format!("Mirror http://{} failed: manifest for ", empty.address);
    let ends = format!("; trying https://{}", origin.address);
    assert!(told.len() == 1 && told[0].starts_with(&begins) && told[0].ends_with(&ends), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nowhere_is_that_and_nothing_else_whatever_mirrors_failed() {
    let (origin, empty) = (Fake::start().await, Fake::start().await);
    origin.hook(|_, _| Some(Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry")));
    for every_tag in [false, true] {
        let mirrors = ["http://127.0.0.1:1".to_owned(), format!("http://{}", empty.address)];
        let registries = json!([{"prefix": origin.address.to_string(), "mirrors": mirrors}]);
        let request = Request { registries: Some(registries), every_tag, ..Request::default() };
        let outcome = request.pull(&origin.name(if every_tag { "app" } else { "app:1" })).await;
        assert_eq!(outcome.result.as_ref().unwrap_err().kind(), gantry_api::ErrorKind::NotFound);
        // One message, and the caller has been told that all is well.
        assert!(outcome.progress.is_empty(), "{:?}", outcome.progress);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_sent_of_a_layer_is_not_fetched_from_the_registry() {
    let (origin, mirror, image) = (Fake::start().await, Fake::start().await, Image::oci(2));
    origin.image("app", "1", &image);
    mirror.image("app", "1", &image);
    let (path, body) = (image.blob_path("app", 1), image.layers[1].clone());
    let breaks = path.clone();
    mirror.hook(move |seen, before| {
        (seen.path == breaks).then(|| match before {
            0 => Reply::new(200, body.clone()).ends(End::Break(100_000)),
            _ => Reply::new(404, ""),
        })
    });
    let outcome = mirrored(&origin, &[&mirror]).await;
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[1])], image.layers[1]);
    assert_eq!(origin.count("/manifests/"), 0);
    let rest: Vec<_> = origin.seen().into_iter().filter(|seen| seen.path == path).collect();
    assert!(rest.len() == 1 && rest[0].header("range").is_some_and(|range| range != "bytes=0-"), "{rest:?}");
    assert_eq!(told(&outcome).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_lies_is_passed_over() {
    let (origin, mirror, image) = (Fake::start().await, Fake::start().await, Image::oci(1));
    origin.image("app", "1", &image);
    mirror.image("app", "1", &image);
    mirror.put(&image.blob_path("app", 0), Reply::new(200, vec![7; image.layers[0].len()]));
    let outcome = mirrored(&origin, &[&mirror]).await;
    outcome.result.as_ref().unwrap();
    assert!(told(&outcome)[0].contains("filesystem layer verification failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_asked_too_often_is_left_at_once_and_the_registry_is_waited_for() {
    let (origin, mirror, image) = (Fake::start().await, Fake::start().await, Image::oci(1));
    origin.image("app", "1", &image);
    mirror.image("app", "1", &image);
    let busy = || Reply::error(429, "TOOMANYREQUESTS", "slow down").header("retry-after", "30");
    mirror.hook(move |_, _| Some(busy()));
    let start = Instant::now();
    mirrored(&origin, &[&mirror]).await.result.unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
    // The last place is waited for, and the waiting is told.
    let busy = || Reply::error(429, "TOOMANYREQUESTS", "slow down").header("retry-after", "1");
    // Each was asked for once already.
    origin.hook(move |seen, before| (seen.path.contains("/blobs/") && before == 1).then(busy));
    let outcome = Request::default().pull(&origin.name("app:1")).await;
    outcome.result.as_ref().unwrap();
    let waits = "Retrying in 1 second: toomanyrequests: slow down";
    let said = outcome.progress.iter().filter(|message| message.status == waits).count();
    assert_eq!(said, 2, "{:?}", outcome.progress);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_failed_is_left_alone_for_a_while() {
    let (origin, mirror, image) = (Fake::start().await, Fake::start().await, Image::oci(1));
    origin.image("app", "1", &image);
    let mirrors = [format!("http://{}", mirror.address), "http://127.0.0.1:1".to_owned()];
    let registries = json!([{"prefix": origin.address.to_string(), "mirrors": mirrors}]);
    mirror.hook(move |_, _| Some(Reply::error(429, "TOOMANYREQUESTS", "slow down").header("retry-after", "60")));
    let parts = tempfile::tempdir().unwrap();
    let own = Some(parts.path().to_owned());
    let registry = Request { registries: Some(registries), parts: own, ..Request::default() }.registry();
    for failed in [2, 0] {
        let request = Request { registry: Some(registry.clone()), ..Request::default() };
        let outcome = request.pull(&origin.name("app:1")).await;
        outcome.result.as_ref().unwrap();
        assert_eq!(told(&outcome).len(), failed);
    }
    assert_eq!(mirror.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tag_of_all_pages_comes_and_pages_elsewhere_are_not_asked_for() {
    let (fake, one, two) = (Fake::start().await, Image::oci(1), Image::schema2(2));
    for (tag, image) in [("1", &one), ("2", &two), ("latest", &two)] {
        fake.image("team/app", tag, image);
    }
    fake.hook(|seen, _| {
        (seen.path == "/v2/team/app/tags/list").then(|| match seen.query.as_str() {
            "" => Reply::new(200, r#"{"name":"team/app","tags":["1"]}"#)
                .header("link", "<http://127.0.0.1:1/v2/other/tags/list?last=1&n=1>; rel=\"next\""),
            "last=1&n=1" => Reply::new(200, r#"{"name":"team/app","tags":["2","latest"]}"#),
            other => panic!("{other}"),
        })
    });
    let outcome = Request { every_tag: true, ..Request::default() }.pull(&fake.name("team/app")).await;
    outcome.result.as_ref().unwrap();
    let names: Vec<_> = outcome.store.names.lock().unwrap().keys().cloned().collect();
    assert_eq!(names, ["1", "2", "latest"].map(|tag| fake.name(&format!("team/app:{tag}"))));
    let pulls = outcome.progress.iter().filter(|message| message.status == "Pulling from team/app");
    assert_eq!(pulls.filter_map(|message| message.id.clone()).collect::<Vec<_>>(), ["1", "2", "latest"]);
    let verdicts: Vec<_> = outcome.progress.iter().filter(|message| message.status.starts_with("Status: ")).collect();
    let verdict = format!("Status: Downloaded newer image for {}", fake.name("team/app"));
    assert!(verdicts.len() == 1 && verdicts[0].status == verdict, "{verdicts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_without_end_are_an_error() {
    let fake = Fake::start().await;
    fake.hook(|seen, _| {
        let page = Reply::new(200, r#"{"tags":["1"]}"#).header("link", "</v2/app/tags/list?last=1>; rel=\"next\"");
        seen.path.ends_with("/tags/list").then_some(page)
    });
    let error = Request { every_tag: true, ..Request::default() }.pull(&fake.name("app")).await.error();
    assert!(error.contains("has more than are pulled at once"), "{error}");
}
