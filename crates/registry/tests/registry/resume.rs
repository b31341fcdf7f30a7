//! What is kept of a pull that failed, and what becomes of it in the next one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::fake::{End, Fake, Reply, Seen};
use crate::image::{Image, digest};
use crate::store::{Outcome, Request, Store};

/// The files below a directory of parts, and their bytes.
fn segments(parts: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for part in std::fs::read_dir(parts).into_iter().flatten() {
        for segment in std::fs::read_dir(part.unwrap().path()).unwrap() {
            let path = segment.unwrap().path();
            found.push((path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

async fn pull(fake: &Fake, parts: &Path) -> Outcome {
    Request { parts: Some(parts.to_owned()), ..Request::default() }.pull(&fake.name("app:1")).await
}

/// One that does not bear a second of silence.
async fn impatient(fake: &Fake, parts: &Path) -> Outcome {
    let silence = Some(Duration::from_secs(1));
    Request { parts: Some(parts.to_owned()), silence, ..Request::default() }.pull(&fake.name("app:1")).await
}

/// The ranges of a path that were asked for.
fn ranges(fake: &Fake, path: &str) -> Vec<String> {
    let seen = fake.seen().into_iter().filter(|seen| seen.path == path);
    seen.map(|seen| seen.header("range").unwrap_or("all").to_owned()).collect()
}

/// Fails each request for `path`, after so many bytes of the first.
fn breaks(fake: &Fake, path: &str, body: &[u8], after: usize) {
    let (path, body) = (path.to_owned(), body.to_owned());
    fake.hook(move |seen, before| {
        (seen.path == path).then(|| match before {
            0 => Reply::new(200, body.clone()).ends(End::Break(after)),
            _ => Reply::error(404, "BLOB_UNKNOWN", "gone"),
        })
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_pull_fetched_is_not_fetched_again() {
    let (fake, image, parts) = (Fake::start().await, Image::oci(2), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    let path = image.blob_path("app", 1);
    breaks(&fake, &path, &image.layers[1], 100_000);
    pull(&fake, parts.path()).await.error();
    let kept = segments(parts.path());
    let kept: Vec<_> = kept.iter().filter(|(_, bytes)| image.layers[1].starts_with(bytes)).collect();
    assert_eq!((kept.len(), kept[0].0.as_str()), (1, "0"));
    let length = kept[0].1.len();
    assert!(length > 0 && length <= 100_000, "{length}");
    let other = Fake::start().await;
    other.image("app", "1", &image);
    let outcome = pull(&other, parts.path()).await;
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[1])], image.layers[1]);
    assert_eq!(ranges(&other, &path), [format!("bytes={length}-")]);
    // The other layer may have been whole: then nothing was asked for.
    assert!(other.count(&image.blob_path("app", 0)) <= 1);
    assert!(segments(parts.path()).is_empty(), "a pull that succeeded leaves nothing");
    assert_eq!(std::fs::read_dir(parts.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_layers_of_a_failed_pull_are_not_asked_for_again() {
    let (fake, image, parts) = (Fake::start().await, Image::oci(3), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    let request = |refuse| {
        let store = Arc::new(Store { refuse, in_order: true, ..Store::default() });
        Request { parts: Some(parts.path().to_owned()), store, ..Request::default() }
    };
    // The unpacking fails when all have come: the two below were unpacked, which the third waits for.
    let outcome = request(Some(2)).pull(&fake.name("app:1")).await;
    assert_eq!(outcome.error(), "failed to register layer: the archive is hostile");
    request(None).pull(&fake.name("app:1")).await.result.unwrap();
    let asked = [0, 1, 2].map(|layer| fake.count(&image.blob_path("app", layer)));
    // Of the third a rest may have been missing.
    assert!(asked[..2] == [1, 1] && asked[2] <= 2, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_torn_is_found_by_its_digest_and_fetched_anew() {
    let (fake, image, parts) = (Fake::start().await, Image::oci(1), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    let path = image.blob_path("app", 0);
    let directory = parts.path().join(format!("{}.{}", digest(&image.layers[0]).hex(), image.layers[0].len()));
    for length in [100_000, 299_999, 300_000] {
        // As a power cut leaves it: so long, and zeros.
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("0"), vec![0; length]).unwrap();
        let outcome = pull(&fake, parts.path()).await;
        outcome.result.as_ref().unwrap();
        assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[0])], image.layers[0]);
        assert_eq!(ranges(&fake, &path).last().unwrap(), "all");
        assert!(segments(parts.path()).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_refused_because_its_part_was_torn_is_unpacked_again() {
    let (fake, image, parts) = (Fake::start().await, Image::oci(1), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    let directory = parts.path().join(format!("{}.{}", digest(&image.layers[0]).hex(), image.layers[0].len()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("0"), vec![0; 200_000]).unwrap();
    let store = Arc::new(Store { refuse_zeros: true, ..Store::default() });
    let request = Request { parts: Some(parts.path().to_owned()), store, ..Request::default() };
    let outcome = request.pull(&fake.name("app:1")).await;
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[0])], image.layers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_a_registry_are_not_kept() {
    let (fake, image, parts) = (Fake::start().await, Image::oci(1), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    fake.put(&image.blob_path("app", 0), Reply::new(200, vec![7; image.layers[0].len()]));
    let error = pull(&fake, parts.path()).await.error();
    assert!(error.starts_with("filesystem layer verification failed"), "{error}");
    assert!(segments(parts.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_comes_in_ranges_at_once() {
    let (fake, image, parts) = (Fake::start().await, Image::sized(2_000_000), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    let path = image.blob_path("app", 0);
    // Two more requests are there before either is answered; the first alone proves that there are ranges.
    fake.gate_from(vec![path.clone()], 1, 2);
    let request = Request { parts: Some(parts.path().to_owned()), large: Some(400_000), ..Request::default() };
    let outcome = request.pull(&fake.name("app:1")).await;
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[0])], image.layers[0]);
    let mut asked = ranges(&fake, &path);
    assert_eq!((asked.len(), asked[0].as_str()), (20, "bytes=0-99999"));
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 20, "each range once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_further_connections_is_fetched_from_by_those_that_it_gives() {
    for refusal in [
        Reply::error(429, "TOOMANYREQUESTS", "one at a time").header("retry-after", "50"),
        Reply::error(503, "UNAVAILABLE", "one at a time"),
        Reply::new(200, vec![0; 100]).ends(End::Break(0)),
    ] {
        let (fake, image, parts) = (Fake::start().await, Image::sized(2_000_000), tempfile::tempdir().unwrap());
        fake.image("app", "1", &image);
        let path = image.blob_path("app", 0);
        // The second range does not end before others were asked for, and refused.
        let (asked, all) = (path.clone(), Arc::new(tokio::sync::Notify::new()));
        let (refused, open) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&all));
        let (counted, body) = (Arc::clone(&refused), image.layers[0].clone());
        let refusal = refusal.clone();
        fake.hook(move |seen, before| {
            let from: usize = seen
                .header("range")
                .filter(|_| seen.path == asked)?
                .strip_prefix("bytes=")?
                .split('-')
                .next()?
                .parse()
                .ok()?;
            if before == 1 {
                let range = format!("bytes {from}-{}/{}", from + 99_999, body.len());
                let reply = Reply::new(206, body[from..from + 100_000].to_vec()).header("content-range", range);
                return Some(reply.ends(End::Pause(1000, Arc::clone(&open))));
            }
            // By then one connection is left.
            let is_refused = before > 1 && counted.fetch_add(1, Ordering::SeqCst) < 3;
            is_refused.then(|| refusal.clone())
        });
        let request = Request { parts: Some(parts.path().to_owned()), large: Some(400_000), ..Request::default() };
        let name = fake.name("app:1");
        let pulling = tokio::spawn(async move { request.pull(&name).await });
        until(|| refused.load(Ordering::SeqCst) >= 3).await;
        all.notify_one();
        let outcome = pulling.await.unwrap();
        outcome.result.as_ref().unwrap();
        assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[0])], image.layers[0]);
        assert!(outcome.progress.iter().all(|message| !message.status.contains("Retrying")), "{:?}", outcome.progress);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_wants_compressed_blobs_gets_each_in_one_file() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    fake.image("app", "1", &image);
    for large in [1 << 30, 100_000] {
        let store = Arc::new(Store { keeps_blobs: true, ..Store::default() });
        let request = Request { store, large: Some(large), ..Request::default() };
        let outcome = request.pull(&fake.name("app:1")).await;
        outcome.result.as_ref().unwrap();
        let blobs = outcome.store.blobs.lock().unwrap();
        assert!((0..2).all(|layer| blobs[&layer] == image.layers[layer]), "of {large}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compressed_blob_of_a_layer_that_somebody_else_brought_meanwhile_comes_and_is_kept_too() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    fake.image("app", "1", &image);
    for keeps_blobs in [true, false] {
        let store = Arc::new(Store { keeps_blobs, shared: Some(0), ..Store::default() });
        let outcome = Request { store, ..Request::default() }.pull(&fake.name("app:1")).await;
        outcome.result.as_ref().unwrap();
        assert_eq!(outcome.states(digest(&image.layers[0]).short()).last().unwrap(), "Already exists");
        let blobs = outcome.store.blobs.lock().unwrap();
        assert_eq!(blobs.len(), if keeps_blobs { 2 } else { 0 });
        assert!(blobs.iter().all(|(index, blob)| *blob == image.layers[*index]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_came_are_kept_and_only_the_gaps_are_asked_for() {
    let (fake, image, parts) = (Fake::start().await, Image::sized(1_000_000), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    let (path, layer) = (image.blob_path("app", 0), &image.layers[0]);
    let directory = parts.path().join(format!("{}.{}", digest(layer).hex(), layer.len()));
    let arrange = || {
        std::fs::create_dir_all(&directory).unwrap();
        for (start, end) in [(0, 100_000), (500_000, 600_000), (999_000, 1_000_000)] {
            std::fs::write(directory.join(start.to_string()), &layer[start..end]).unwrap();
        }
    };
    arrange();
    pull(&fake, parts.path()).await.result.unwrap();
    assert_eq!(ranges(&fake, &path), ["bytes=100000-499999", "bytes=600000-998999"]);
    // A registry without ranges sends all, once.
    arrange();
    fake.put(&path, Reply::new(200, layer.clone()));
    let (whole, only) = (layer.clone(), path.clone());
    fake.hook(move |seen, _| (seen.path == only).then(|| Reply::new(200, whole.clone())));
    let outcome = pull(&fake, parts.path()).await;
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.store.layers.lock().unwrap()[&digest(layer)], *layer);
    assert_eq!(ranges(&fake, &path).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_two_pulls_want_is_fetched_once_and_both_see_it_come() {
    let (fake, image, parts) = (Fake::start().await, Image::oci(1), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    fake.image("other", "1", &image);
    let registry = Request { parts: Some(parts.path().to_owned()), ..Request::default() }.registry();
    let going = hang(&fake, &image.layers[0]);
    let one = Request { registry: Some(registry.clone()), ..Request::default() };
    let two = Request { registry: Some(registry), ..Request::default() };
    let (first, second) = (fake.name("app:1"), fake.name("other:1"));
    let told = [&one, &two].map(|request| Arc::clone(&request.progress));
    let both_see = || told.iter().all(|told| told.lock().unwrap().iter().any(|said| said.status == "Downloading"));
    let both = async { tokio::join!(one.pull(&first), two.pull(&second)) };
    // Half has come, and both have said so.
    let (one, two) = tokio::join!(both, going.release_when(both_see)).0;
    for outcome in [&one, &two] {
        outcome.result.as_ref().unwrap();
        assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[0])], image.layers[0]);
    }
    let blobs = fake.seen().into_iter().filter(|seen| seen.path.ends_with(digest(&image.layers[0]).as_str()));
    assert_eq!(blobs.count(), 1);
    assert!(segments(parts.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_pull_that_fetches_is_cancelled_the_other_goes_on_from_the_byte() {
    let (fake, image, parts) = (Fake::start().await, Image::oci(1), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    fake.image("other", "1", &image);
    let registry = Request { parts: Some(parts.path().to_owned()), ..Request::default() }.registry();
    let layer = image.layers[0].clone();
    let once = Arc::new(AtomicUsize::new(0));
    let hung = Arc::clone(&once);
    fake.hook(move |seen, _| {
        let first = seen.path.ends_with(digest(&layer).as_str()) && hung.fetch_add(1, Ordering::SeqCst) == 0;
        first.then(|| Reply::new(200, layer.clone()).ends(End::Hang(150_000)))
    });
    let cancel = CancellationToken::new();
    let one = Request { registry: Some(registry.clone()), cancel: cancel.clone(), ..Request::default() };
    let two = Request { registry: Some(registry), ..Request::default() };
    let (first, second) = (fake.name("app:1"), fake.name("other:1"));
    let watch = async {
        // The first fetches; then the second comes and waits for it; then the first leaves.
        until(|| once.load(Ordering::SeqCst) > 0 && segments(parts.path()).iter().any(|(_, b)| !b.is_empty())).await;
        let second = tokio::spawn(async move { two.pull(&second).await });
        until(|| fake.count("/v2/other/manifests/") > 0).await;
        cancel.cancel();
        second.await.unwrap()
    };
    let (one, two) = tokio::join!(one.pull(&first), watch);
    assert!(one.result.unwrap_err().to_string().contains("was cancelled"));
    two.result.as_ref().unwrap();
    assert_eq!(two.store.layers.lock().unwrap()[&digest(&image.layers[0])], image.layers[0]);
    let asked = ranges(&fake, &image.blob_path("other", 0));
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("bytes=") && !asked[0].starts_with("bytes=0"), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_falls_silent_is_asked_again_for_the_rest() {
    let (fake, image, parts) = (Fake::start().await, Image::oci(1), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    let (path, body) = (image.blob_path("app", 0), image.layers[0].clone());
    let slow = path.clone();
    fake.hook(move |seen, before| {
        (seen.path == slow && before == 0).then(|| Reply::new(200, body.clone()).ends(End::Hang(120_000)))
    });
    impatient(&fake, parts.path()).await.result.unwrap();
    assert_eq!(ranges(&fake, &path)[1], "bytes=120000-");
    let layer = image.layers[0].clone();
    let only = path.clone();
    fake.hook(move |seen, _| (seen.path == only).then(|| Reply::new(200, layer.clone()).ends(End::Hang(0))));
    let error = impatient(&fake, parts.path()).await.error();
    assert!(error.ends_with("nothing came for 1 seconds"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_is_asked_for_only_of_the_same_file() {
    let (fake, image, parts) = (Fake::start().await, Image::oci(1), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    let (path, body) = (image.blob_path("app", 0), image.layers[0].clone());
    let it = path.clone();
    fake.hook(move |seen, before| match before {
        _ if seen.path != it => None,
        0 => Some(Reply::new(200, body.clone()).header("etag", "\"one\"").ends(End::Break(100_000))),
        // It is another file there by now, as far as the registry knows: all of it comes.
        _ => Some(Reply::new(200, body.clone()).header("etag", "\"two\"")),
    });
    let outcome = pull(&fake, parts.path()).await;
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[0])], image.layers[0]);
    let asked: Vec<_> = fake.seen().into_iter().filter(|seen| seen.path == path).collect();
    assert_eq!(asked.len(), 2);
    assert!(asked[1].header("range").is_some() && asked[1].header("if-range") == Some("\"one\""), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_swept_by_age_and_cleared_when_nobody_uses_them() {
    let (fake, image, parts) = (Fake::start().await, Image::oci(1), tempfile::tempdir().unwrap());
    fake.image("app", "1", &image);
    let path = image.blob_path("app", 0);
    let registry = Request { parts: Some(parts.path().to_owned()), ..Request::default() }.registry();
    breaks(&fake, &path, &image.layers[0], 100_000);
    pull(&fake, parts.path()).await.error();
    registry.sweep_downloads().unwrap();
    assert_eq!(segments(parts.path()).len(), 1, "young");
    assert_eq!(registry.clear_downloads(Duration::from_secs(3600)).unwrap().bytes, 0);
    let part = std::fs::read_dir(parts.path()).unwrap().next().unwrap().unwrap().path();
    let old = std::time::SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
    for path in [part.join("0"), part] {
        std::fs::File::open(path).unwrap().set_modified(old).unwrap();
    }
    registry.sweep_downloads().unwrap();
    assert_eq!(std::fs::read_dir(parts.path()).unwrap().count(), 0, "old");
    let other = Fake::start().await;
    other.image("app", "1", &image);
    breaks(&other, &path, &image.layers[0], 100_000);
    pull(&other, parts.path()).await.error();
    std::fs::create_dir(parts.path().join("gone-1")).unwrap();
    let cleared = registry.clear_downloads(Duration::ZERO).unwrap();
    assert!(cleared.bytes >= 90_000, "{cleared:?}");
    assert_eq!(cleared.blobs, [digest(&image.layers[0])]);
    assert_eq!(std::fs::read_dir(parts.path()).unwrap().count(), 0, "cleared, and litter too");
}

/// A small file system, unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", &format!("size={size}"), "none"].map(str::to_owned);
        assert!(std::process::Command::new("mount").args(mount).arg(directory.path()).status().unwrap().success());
        Self(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg(self.0.path()).status().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_keeps_nothing_and_takes_from_parts_that_nobody_uses() {
    let (fake, image, small) = (Fake::start().await, Image::oci(1), Small::mount("200k"));
    fake.image("app", "1", &image);
    let error = pull(&fake, small.0.path()).await.error();
    let layer = digest(&image.layers[0]);
    assert!(error.starts_with(&format!("failed to keep the download of layer {}: write ", layer.short())), "{error}");
    assert!(error.ends_with("make room, for example with `gantry system prune`, and pull again"), "{error}");
    assert_eq!(std::fs::read_dir(small.0.path()).unwrap().count(), 0, "what filled the disk does not stay");
    // One that lies there from an earlier pull gives way.
    let small = Small::mount("400k");
    let other = small.0.path().join(format!("{}.5000000", "0".repeat(64)));
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("0"), vec![1; 250_000]).unwrap();
    pull(&fake, small.0.path()).await.result.unwrap();
    assert_eq!(std::fs::read_dir(small.0.path()).unwrap().count(), 0);
}

/// A blob of which half comes, and the rest when it is let go.
struct Hanging(Arc<tokio::sync::Notify>);

fn hang(fake: &Fake, layer: &[u8]) -> Hanging {
    let (layer, release) = (layer.to_owned(), Arc::new(tokio::sync::Notify::new()));
    let gate = Arc::clone(&release);
    fake.hook(move |seen: &Seen, _| {
        let is_it = seen.path.ends_with(digest(&layer).as_str());
        is_it.then(|| Reply::new(200, layer.clone()).ends(End::Pause(150_000, Arc::clone(&gate))))
    });
    Hanging(release)
}

impl Hanging {
    async fn release_when(&self, done: impl Fn() -> bool) {
        until(done).await;
        self.0.notify_one();
    }
}

async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
