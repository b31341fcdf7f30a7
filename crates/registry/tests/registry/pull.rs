//! What a pull does when all goes well.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gantry_registry::{Options, Registry};

use crate::fake::{End, Fake, Reply};
use crate::image::{Image, digest, index};
use crate::store::{Others, Request, Store, pull};

#[tokio::test(flavor = "multi_thread")]
async fn by_tag_every_byte_arrives_and_the_words_are_dockers() {
    for image in [Image::oci(3), Image::schema2(3)] {
        let fake = Fake::start().await;
        fake.image("team/app", "1", &image);
        let outcome = pull(&fake.name("team/app:1")).await;
        let pulled = outcome.result.as_ref().unwrap();
        assert_eq!((&pulled.id, &pulled.digest, pulled.changed), (&image.id(), &image.digest(), true));
        let layers = outcome.store.layers.lock().unwrap();
        for layer in &image.layers {
            assert_eq!(layers[&digest(layer)], *layer);
            let states = outcome.states(digest(layer).short());
            assert_eq!(states.first().unwrap(), "Pulling fs layer");
            assert_eq!(states.last().unwrap(), "Pull complete");
            for state in ["Downloading", "Verifying Checksum", "Download complete", "Extracting"] {
                assert!(states.iter().any(|s| s == state), "{state}: {states:?}");
            }
        }
        let committed = &outcome.store.images.lock().unwrap()[0];
        assert_eq!((&committed.config, &committed.manifest.raw), (&image.config, &image.manifest));
        assert_eq!(outcome.progress[0].status, "Pulling from team/app");
        assert_eq!(outcome.progress[0].id.as_deref(), Some("1"));
        let last: Vec<_> = outcome.progress.iter().rev().take(2).map(|p| p.status.clone()).collect();
        assert_eq!(last[0], format!("Status: Downloaded newer image for {}", fake.name("team/app:1")));
        assert_eq!(last[1], format!("Digest: {}", image.digest()));
    }
}

#[tokio::test]
async fn by_digest_the_name_has_the_digest() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "x", &image);
    let outcome = pull(&fake.name(&format!("app@{}", image.digest()))).await;
    assert_eq!(outcome.result.unwrap().digest, image.digest());
    assert_eq!(outcome.progress[0].id.as_deref(), Some(image.digest().as_str()));
}

#[tokio::test]
async fn no_tag_means_latest() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "latest", &image);
    pull(&fake.name("app")).await.result.unwrap();
}

#[tokio::test]
async fn a_list_leads_to_the_platform_and_its_own_digest_is_shown() {
    for oci in [true, false] {
        let fake = Fake::start().await;
        let (amd, arm) = (Image::of("amd64", 1, oci), Image::of("arm64", 1, oci));
        let (raw, kind) = index(&[("arm64", &arm), ("amd64", &amd)], oci);
        fake.image("app", "amd", &amd);
        fake.image("app", "arm", &arm);
        fake.document("app", "1", &raw, kind);
        for (platform, image) in [("linux/amd64", &amd), ("linux/arm64", &arm)] {
            let outcome = Request { platform: Some(platform), ..Request::default() }.pull(&fake.name("app:1")).await;
            let pulled = outcome.result.as_ref().unwrap();
            assert_eq!((&pulled.id, &pulled.digest), (&image.id(), &digest(&raw)));
            assert_eq!(outcome.store.images.lock().unwrap()[0].index.as_ref().unwrap().raw, raw);
        }
        let other = Request { platform: Some("linux/s390x"), ..Request::default() }.pull(&fake.name("app:1")).await;
        assert_eq!(other.error(), "no matching manifest for linux/s390x in the manifest list entries");
    }
}

#[tokio::test]
async fn a_second_pull_fetches_nothing_and_says_so() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    fake.image("app", "1", &image);
    let store = Arc::new(Store::default());
    pull_into(&store, &fake.name("app:1")).await;
    let blobs = fake.count(&image.blob_path("app", 0));
    let again = pull_into(&store, &fake.name("app:1")).await;
    assert_eq!(fake.count(&image.blob_path("app", 0)), blobs);
    let status = &again.progress.last().unwrap().status;
    assert_eq!(*status, format!("Status: Image is up to date for {}", fake.name("app:1")));
    assert!(!again.result.unwrap().changed);
}

async fn pull_into(store: &Arc<Store>, name: &str) -> crate::store::Outcome {
    Request { store: store.clone(), ..Request::default() }.pull(name).await
}

#[tokio::test]
async fn layers_that_are_there_are_not_fetched_again() {
    let (fake, image) = (Fake::start().await, Image::oci(3));
    fake.image("app", "1", &image);
    let store = Arc::new(Store::default());
    store.layers.lock().unwrap().insert(digest(&image.layers[0]), Vec::new());
    let outcome = pull_into(&store, &fake.name("app:1")).await;
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.states(digest(&image.layers[0]).short()), ["Already exists"]);
    assert_eq!(fake.count(&image.blob_path("app", 0)), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_in_flight_at_once() {
    let (fake, image) = (Fake::start().await, Image::oci(6));
    fake.image("app", "1", &image);
    // Each answer waits until three layers are asked for.
    fake.gate((0..6).map(|layer| image.blob_path("app", layer)).collect(), 3);
    let store = Arc::new(Store::default());
    pull_into(&store, &fake.name("app:1")).await.result.unwrap();
    assert_eq!(store.layers.lock().unwrap().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_needs_order_gets_it() {
    let (fake, image) = (Fake::start().await, Image::oci(6));
    fake.image("app", "1", &image);
    let slow = image.blob_path("app", 0);
    // The lowest layer breaks twice: those above wait for it.
    fake.hook(move |seen, before| (seen.path == slow && before < 2).then(|| Reply::error(503, "UNAVAILABLE", "later")));
    let store = Arc::new(Store { in_order: true, ..Store::default() });
    pull_into(&store, &fake.name("app:1")).await.result.unwrap();
    assert_eq!(*store.order.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_leaves_nothing() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    fake.image("app", "1", &image);
    let (path, body) = (image.blob_path("app", 1), image.layers[1].clone());
    fake.hook(move |seen, _| (seen.path == path).then(|| Reply::new(200, body.clone()).ends(End::Hang(1000))));
    let request = Request::default();
    let (store, cancel) = (request.store.clone(), request.cancel.clone());
    let stop = async {
        while store.order.lock().unwrap().is_empty() || fake.count(&image.blob_path("app", 1)) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        assert_eq!(store.drafts.load(Ordering::SeqCst), 1);
        cancel.cancel();
    };
    let name = fake.name("app:1");
    let (outcome, ()) = tokio::join!(request.pull(&name), stop);
    assert_eq!(outcome.error(), format!("pull of {name} was cancelled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_waits_in_the_store_for_what_others_do_ends_when_it_is_cancelled_or_dropped() {
    for is_dropped in [false, true] {
        let (fake, image, others) = (Fake::start().await, Image::oci(2), Arc::<Others>::default());
        fake.image("app", "1", &image);
        let store = Arc::new(Store { others: Some(Arc::clone(&others)), ..Store::default() });
        let request = Request { store: Arc::clone(&store), ..Request::default() };
        let (cancel, name) = (request.cancel.clone(), fake.name("app:1"));
        let pulling = tokio::spawn(async move { request.pull(&name).await });
        let until = async |done: &dyn Fn() -> bool| {
            while !done() {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        until(&|| others.waiting.load(Ordering::SeqCst) == 2).await;
        if is_dropped {
            pulling.abort();
            until(&|| store.drafts.load(Ordering::SeqCst) == 0).await;
        } else {
            cancel.cancel();
            assert_eq!(pulling.await.unwrap().error(), format!("pull of {} was cancelled", fake.name("app:1")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_waits_for_any_more_leaves_nothing() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    fake.image("app", "1", &image);
    let (path, body) = (image.blob_path("app", 1), image.layers[1].clone());
    fake.hook(move |seen, _| (seen.path == path).then(|| Reply::new(200, body.clone()).ends(End::Hang(1000))));
    let (store, name) = (Arc::new(Store::default()), fake.name("app:1"));
    let mine = store.clone();
    let task = tokio::spawn(async move { pull_into(&mine, &name).await });
    let until = async |done: &dyn Fn() -> bool| {
        while !done() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    until(&|| !store.order.lock().unwrap().is_empty()).await;
    task.abort();
    until(&|| store.drafts.load(Ordering::SeqCst) == 0).await;
    assert!(store.images.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_archive_ends_the_pull() {
    let (fake, image) = (Fake::start().await, Image::oci(3));
    fake.image("app", "1", &image);
    for in_order in [true, false] {
        let store = Arc::new(Store { refuse: Some(1), in_order, ..Store::default() });
        let outcome = pull_into(&store, &fake.name("app:1")).await;
        assert_eq!(outcome.error(), "failed to register layer: the archive is hostile");
    }
}

#[tokio::test]
async fn resolve_says_what_a_name_means() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    let registry = Registry::new(Options::default());
    let found = registry.resolve(&fake.name("app:1").parse().unwrap(), None).await.unwrap();
    assert_eq!((found.digest, found.size), (image.digest(), image.manifest.len() as u64));
    assert_eq!(found.media_type, image.media_type());
    assert!(fake.seen().iter().any(|seen| seen.method == http::Method::HEAD));
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_sees_no_credentials() {
    let (mirror, image) = (Fake::start().await, Image::oci(1));
    mirror.image("library/debian", "12", &image);
    let mirrors = vec!["http://127.0.0.1:1".to_owned(), format!("http://{}", mirror.address)];
    let request = Request { mirrors, auth: crate::store::login("me", "secret"), ..Request::default() };
    mirror.hook(|seen, _| {
        let asked = seen.header("authorization").is_some();
        asked.then(|| Reply::error(400, "", "credentials came to a mirror"))
    });
    let outcome = request.pull("debian:12").await;
    outcome.result.as_ref().unwrap();
    assert!(outcome.progress[0].status.starts_with("Mirror http://127.0.0.1:1 failed"), "{:?}", outcome.progress[0]);
    assert_eq!(outcome.progress[1].status, "Pulling from library/debian");
    assert_eq!(outcome.progress.last().unwrap().status, "Status: Downloaded newer image for debian:12");
}
