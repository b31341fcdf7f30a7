//! What a broken or lying registry sends, and what becomes of it.

use std::time::{Duration, Instant};

use crate::fake::{End, Fake, Reply};
use crate::image::{Image, digest};
use crate::store::{Request, pull};

#[tokio::test]
async fn a_manifest_with_another_digest_is_refused() {
    let (fake, image, other) = (Fake::start().await, Image::oci(1), Image::oci(2));
    fake.image("app", "1", &image);
    let by_digest = format!("/v2/app/manifests/{}", image.digest());
    let kind = image.media_type();
    fake.put(&by_digest, Reply::new(200, other.manifest.clone()).header("content-type", kind));
    let error = pull(&fake.name(&format!("app@{}", image.digest()))).await.error();
    assert!(error.contains("manifest verification failed for digest"), "{error}");
    // By tag, the registry's own header is held against it.
    let lying = Reply::new(200, image.manifest.clone()).header("content-type", kind);
    fake.put("/v2/app/manifests/1", lying.header("docker-content-digest", other.digest().to_string()));
    let error = pull(&fake.name("app:1")).await.error();
    assert!(error.contains("manifest verification failed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_or_config_with_other_bytes_is_refused() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    fake.image("app", "1", &image);
    let mut wrong = image.layers[1].clone();
    wrong[100] ^= 1;
    fake.put(&image.blob_path("app", 1), Reply::new(200, wrong));
    let error = pull(&fake.name("app:1")).await.error();
    let expected = format!("filesystem layer verification failed for digest {}", digest(&image.layers[1]));
    assert!(error.starts_with(&expected), "{error}");
    let longer = [image.layers[1].as_slice(), b"more"].concat();
    fake.put(&image.blob_path("app", 1), Reply::new(200, longer));
    let error = pull(&fake.name("app:1")).await.error();
    assert!(error.contains("more than the"), "{error}");
    fake.put(&format!("/v2/app/blobs/{}", image.id()), Reply::new(200, "{}"));
    let error = pull(&fake.name("app:1")).await.error();
    assert!(error.starts_with("image configuration verification failed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_from_the_byte() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    fake.image("app", "1", &image);
    let (path, body) = (image.blob_path("app", 1), image.layers[1].clone());
    let broken = path.clone();
    fake.hook(move |seen, before| match before {
        0 if seen.path == broken => Some(Reply::new(200, body.clone()).ends(End::Break(100_000))),
        _ => None,
    });
    let outcome = pull(&fake.name("app:1")).await;
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[1])], image.layers[1]);
    let asked: Vec<_> = fake.seen().into_iter().filter(|seen| seen.path == path).collect();
    assert_eq!(asked.len(), 2);
    let from: usize =
        asked[1].header("range").unwrap().strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
    assert!(from > 0 && from <= 100_000, "{from}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_sends_again_and_it_is_right() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    let (path, body) = (image.blob_path("app", 0), image.layers[0].clone());
    fake.hook(move |seen, before| {
        let end = if before == 0 { End::Break(50_000) } else { End::Whole };
        (seen.path == path).then(|| Reply::new(200, body.clone()).ends(end))
    });
    let outcome = pull(&fake.name("app:1")).await;
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[0])], image.layers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_stays_too_short_is_an_error_after_a_few_attempts() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    let path = image.blob_path("app", 0);
    let body = image.layers[0][..200_000].to_vec();
    fake.hook(move |seen, before| match before {
        0 => (seen.path == path).then(|| Reply::new(200, body.clone())),
        _ => (seen.path == path).then(|| Reply::new(206, "").header("content-range", "bytes 200000-200000/1")),
    });
    let error = pull(&fake.name("app:1")).await.error();
    assert!(error.contains("unexpected EOF after 200000 of 300000 bytes"), "{error}");
    assert_eq!(fake.count(&image.blob_path("app", 0)), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_was_not_asked_for_is_refused() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    let (path, body) = (image.blob_path("app", 0), image.layers[0].clone());
    fake.hook(move |seen, before| match before {
        _ if seen.path != path => None,
        0 => Some(Reply::new(200, body.clone()).ends(End::Break(1000))),
        _ => Some(Reply::new(206, body.clone()).header("content-range", "bytes 7-300000/300000")),
    });
    let error = pull(&fake.name("app:1")).await.error();
    assert!(error.contains("was asked for"), "{error}");
}

#[tokio::test]
async fn too_many_requests_wait_as_long_as_the_registry_says() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    let busy = || Reply::error(429, "TOOMANYREQUESTS", "slow down");
    fake.hook(move |seen, before| {
        (seen.path.contains("/manifests/") && before == 0).then(|| busy().header("retry-after", "1"))
    });
    let start = Instant::now();
    pull(&fake.name("app:1")).await.result.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    // Without a time, or with one that nobody waits for, it is said at once.
    for after in ["", "86400"] {
        fake.hook(move |seen, _| seen.path.contains("/manifests/").then(|| busy().header("retry-after", after)));
        let error = pull(&fake.name("app:1")).await.error();
        assert_eq!(error, "toomanyrequests: slow down");
    }
}

#[tokio::test]
async fn a_server_error_is_tried_again_and_then_told() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    fake.hook(|seen, before| (seen.path.contains("/manifests/") && before == 0).then(|| Reply::new(503, "")));
    pull(&fake.name("app:1")).await.result.unwrap();
    fake.hook(|seen, _| seen.path.contains("/manifests/").then(|| Reply::new(500, "<html>")));
    let error = pull(&fake.name("app:1")).await.error();
    assert!(error.ends_with("received unexpected HTTP status: 500 Internal Server Error"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    let error = pull("127.0.0.1:1/app:1").await.error();
    assert!(error.contains(r#"Get "http://127.0.0.1:1/v2/""#) && error.contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_falls_silent_before_it_has_answered_is_told() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    fake.hook(|seen, _| seen.path.contains("/manifests/").then(|| Reply::new(200, vec![b' '; 9]).ends(End::Hang(0))));
    let request = Request { silence: Some(Duration::from_millis(200)), ..Request::default() };
    let error = request.pull(&fake.name("app:1")).await.error();
    assert_eq!(error, format!("Get \"http://{}/v2/app/manifests/1\": timed out waiting for an answer", fake.address));
}
