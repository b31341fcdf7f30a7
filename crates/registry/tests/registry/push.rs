//! Push: what goes over the wire, what is spared, and what is done when it breaks.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_api::progress::Progress;
use gantry_api::reference::{Digest, Reference};
use gantry_api::system::AuthConfig;
use gantry_registry::{
    Descriptor, Document, Error, ImageSource, KnownBlob, Options, Push, PushLayer, PushOrigin, Pushable, Pushed,
    Registry, SinkError,
};
use tokio_util::sync::CancellationToken;

use crate::fake::{Fake, Reply};
use crate::image::{Image, digest, index};
use crate::store::login;
use crate::uploads::Uploads;

/// A store: layers by number, blobs that are kept, what was noted.
#[derive(Default)]
pub struct Store {
    pub archives: Vec<Vec<u8>>,
    pub kept: HashMap<Digest, Vec<u8>>,
    pub read: AtomicUsize,
    pub noted: Mutex<Vec<Pushed>>,
}

impl ImageSource for Store {
    fn blob(&self, digest: &Digest) -> Result<Option<File>, SinkError> {
        let Some(bytes) = self.kept.get(digest) else { return Ok(None) };
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        Ok(Some(file))
    }

    fn archive(&self, index: usize, output: &mut dyn Write) -> Result<(), SinkError> {
        self.read.fetch_add(1, Ordering::SeqCst);
        Ok(output.write_all(self.archives.get(index).ok_or("the layer is damaged")?)?)
    }

    fn pushed(&self, pushed: &Pushed) -> Result<(), SinkError> {
        self.noted.lock().unwrap().push(pushed.clone());
        Ok(())
    }
}

pub struct Outcome {
    result: Result<Pushed, Error>,
    progress: Vec<Progress>,
}

impl Outcome {
    #[track_caller]
    pub fn pushed(&self) -> &Pushed {
        self.result.as_ref().unwrap_or_else(|error| panic!("{error}\n{:#?}", self.progress))
    }

    pub fn error(&self) -> String {
        self.result.as_ref().unwrap_err().to_string()
    }

    pub fn said(&self, text: &str) -> bool {
        self.progress.iter().any(|message| message.status.contains(text))
    }

    fn states(&self, id: &Digest) -> Vec<String> {
        let mine = self.progress.iter().filter(|message| message.id.as_deref() == Some(id.short()));
        let mut states: Vec<_> = mine.map(|message| message.status.clone()).collect();
        states.dedup();
        states
    }
}

async fn push_with(name: &str, image: Pushable, store: &Arc<Store>, auth: Option<AuthConfig>) -> Outcome {
    push_by(quick(Options::default()), name, image, store, auth).await
}

/// With pauses that a test has time for.
fn quick(options: Options) -> Options {
    options.retry_pause(Duration::from_millis(5))
}

pub async fn push_by(
    options: Options,
    name: &str,
    image: Pushable,
    store: &Arc<Store>,
    auth: Option<AuthConfig>,
) -> Outcome {
    let registry = Registry::new(options);
    let progress = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&progress);
    let push = Push { reference: name.parse().unwrap(), auth, others: Vec::new(), image };
    let source: Arc<dyn ImageSource> = Arc::<Store>::clone(store);
    let report = Arc::new(move |message| told.lock().unwrap().push(message));
    let pushing = registry.push(push, source, report, CancellationToken::new());
    let result = tokio::time::timeout(Duration::from_secs(60), pushing).await.expect("a push that ends");
    let progress = progress.lock().unwrap().clone();
    Outcome { result, progress }
}

pub async fn push(name: &str, image: Pushable, store: &Arc<Store>) -> Outcome {
    push_with(name, image, store, None).await
}

fn descriptor(kind: &str, raw: &[u8]) -> Descriptor {
    Descriptor { media_type: kind.to_owned(), digest: digest(raw), size: raw.len() as u64 }
}

/// An image that was pulled from there.
pub fn pulled(image: &Image, index: Option<(Vec<u8>, &str)>, from: &[&str]) -> Pushable {
    let layers = image.layers.iter().map(|layer| PushLayer {
        diff_id: digest(&[layer.as_slice(), b"plain"].concat()),
        size: layer.len() as u64 * 2,
        blobs: Vec::new(),
    });
    let document = |kind: &str, raw: &[u8]| Document { descriptor: descriptor(kind, raw), raw: raw.to_vec() };
    Pushable {
        config: image.config.clone().into(),
        layers: layers.collect(),
        origin: Some(PushOrigin {
            index: index.map(|(raw, kind)| document(kind, &raw)),
            manifest: document(image.media_type(), &image.manifest),
            attached: Vec::new(),
            repositories: from.iter().map(|name| name.parse::<Reference>().unwrap()).collect(),
        }),
    }
}

/// An image that was made here, of these archives.
pub fn made(archives: &[Vec<u8>]) -> (Pushable, Arc<Store>) {
    let layers = archives.iter().map(|archive| PushLayer {
        diff_id: digest(archive),
        size: archive.len() as u64,
        blobs: Vec::new(),
    });
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let image = Pushable { config: config.to_vec().into(), layers: layers.collect(), origin: None };
    (image, Arc::new(Store { archives: archives.to_vec(), ..Store::default() }))
}

fn archive(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 50) as u8 ^ (at * at / 7919) as u8 ^ seed).collect()
}

/// The uncompressed layers of a manifest that was pushed.
fn layers_of(uploads: &Uploads, repository: &str, tag: &str) -> Vec<Vec<u8>> {
    let (_, raw) = uploads.manifest(repository, tag).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&raw).unwrap();
    let unpack = |layer: &serde_json::Value| {
        let blob = uploads.blob(repository, &layer["digest"].as_str().unwrap().parse().unwrap()).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(blob.as_slice()).read_to_end(&mut plain).unwrap();
        plain
    };
    manifest["layers"].as_array().unwrap().iter().map(unpack).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_arrives_byte_for_byte_from_the_registry_that_it_came_from() {
    for image in [Image::oci(7), Image::schema2(7)] {
        let (from, to) = (Fake::start().await, Fake::start().await);
        let uploads = to.takes_uploads();
        from.image("app", "1", &image);
        let store = Arc::new(Store::default());
        let outcome = push(&to.name("team/app:2"), pulled(&image, None, &[&from.name("app")]), &store).await;
        assert_eq!(outcome.pushed().root.digest, image.digest());
        assert_eq!(uploads.manifest("team/app", "2").unwrap(), (image.media_type().to_owned(), image.manifest.clone()));
        for (digest, blob) in image.blobs() {
            assert_eq!(uploads.blob("team/app", &digest), Some(blob));
        }
        assert_eq!(store.read.load(Ordering::SeqCst), 0, "nothing is compressed anew");
        let last = &outcome.progress[outcome.progress.len() - 2..];
        assert_eq!(last[0].status, format!("2: digest: {} size: {}", image.digest(), image.manifest.len()));
        assert_eq!(last[1].aux.as_ref().unwrap()["Digest"], image.digest().as_str());
        assert_eq!(store.noted.lock().unwrap()[0].layers.len(), 7);
        // And again: nothing is sent.
        let before = to.seen().len();
        let outcome = push(&to.name("team/app:2"), pulled(&image, None, &[]), &store).await;
        assert!(outcome.said("Layer already exists"));
        assert!(to.seen()[before..].iter().all(|seen| seen.method != "PATCH" && seen.method != "POST"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_by_a_mirror_is_fetched_there_again() {
    let (mirror, to, image) = (Fake::start().await, Fake::start().await, Image::oci(2));
    let uploads = to.takes_uploads();
    mirror.image("library/app", "1", &image);
    let options = Options::parse(&[], &[format!("http://{}", mirror.address)]).unwrap();
    let pushable = pulled(&image, None, &["docker.io/library/app"]);
    let outcome = push_by(quick(options), &to.name("app:1"), pushable, &Arc::default(), login("me", "secret")).await;
    assert_eq!(outcome.pushed().root.digest, image.digest());
    assert_eq!(uploads.manifest("app", "1").unwrap().1, image.manifest);
    assert!(mirror.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_another_repository_of_the_registry_are_mounted() {
    let (fake, image) = (Fake::start().await, Image::oci(3));
    let uploads = fake.takes_uploads();
    image.layers.iter().for_each(|layer| uploads.put_blob("team/base", layer));
    let pushable = pulled(&image, None, &[&fake.name("team/base")]);
    let layer = pushable.layers[0].diff_id.clone();
    let outcome = push(&fake.name("app:1"), pushable, &Arc::default()).await;
    assert_eq!(outcome.pushed().root.digest, image.digest());
    assert_eq!(outcome.states(&layer), ["Preparing", "Mounted from team/base"]);
    assert!(fake.seen().iter().all(|seen| seen.method != "PATCH"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_refused_becomes_an_upload() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    let uploads = fake.takes_uploads();
    *uploads.mounts_nothing.lock().unwrap() = true;
    image.layers.iter().for_each(|layer| uploads.put_blob("base", layer));
    let outcome = push(&fake.name("app:1"), pulled(&image, None, &[&fake.name("base")]), &Arc::default()).await;
    assert_eq!(outcome.pushed().root.digest, image.digest());
    let sessions = fake.seen().iter().filter(|seen| seen.method == "POST").count();
    assert_eq!(sessions, 3, "the session that the registry offered instead is used");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_goes_on_where_the_registry_is() {
    let (from, to, image) = (Fake::start().await, Fake::start().await, Image::oci(1));
    let uploads = to.takes_uploads();
    from.image("app", "1", &image);
    uploads.cuts.lock().unwrap().extend([Some(100_000), Some(120_000)]);
    let outcome = push(&to.name("app:1"), pulled(&image, None, &[&from.name("app")]), &Arc::default()).await;
    assert_eq!(outcome.pushed().root.digest, image.digest());
    let ranges: Vec<_> = to.seen().iter().filter(|seen| seen.method == "PATCH").map(range).collect();
    assert_eq!(ranges, ["", "100000-299999", "220000-299999"]);
    let asked: Vec<_> = from.seen().iter().filter_map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(asked, ["bytes=100000-", "bytes=220000-"], "nothing is fetched twice");
}

fn range(seen: &crate::fake::Seen) -> String {
    seen.header("content-range").unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_a_pause_gets_it_and_the_person_is_told_of_what_waits_and_why() {
    let (image, store) = made(&[archive(1, 9000)]);
    let fake = Fake::start().await;
    let uploads = fake.takes_uploads();
    let busy = || Reply::error(429, "TOOMANYREQUESTS", "slow down").header("retry-after", "1");
    // The first upload and the first manifest. A failure that is tried again at once is not worth a word.
    fake.hook(move |seen, before| {
        let is_asked = seen.method == http::Method::POST || seen.method == http::Method::PUT;
        let is_counted = seen.path.ends_with("/blobs/uploads/") || seen.path.contains("/manifests/");
        let is_broken = seen.method == http::Method::HEAD && before == 0;
        let broken = || Reply::error(503, "UNAVAILABLE", "not now");
        (is_asked && is_counted && before == 0).then(busy).or_else(|| is_broken.then(broken))
    });
    let outcome = push(&fake.name("app:1"), image, &store).await;
    outcome.pushed();
    assert_eq!(layers_of(&uploads, "app", "1"), store.archives);
    let waits = "Retrying in 1 second: toomanyrequests: slow down";
    let told: Vec<_> = outcome.progress.iter().filter(|message| message.status == waits).collect();
    assert_eq!(told.len(), 2, "{:#?}", outcome.progress);
    assert!(told[0].id.is_some() && told[1].id.is_none(), "a layer, and the image: {told:?}");
    assert!(fake.seen().iter().any(|seen| seen.method == http::Method::HEAD), "a failure was tried again");
    assert_eq!(outcome.progress.iter().filter(|message| message.status.starts_with("Retrying")).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_made_before_the_first_request_at_a_token_server_and_where_something_is_only_asked() {
    let busy = || Reply::error(429, "TOOMANYREQUESTS", "slow down").header("retry-after", "1");
    let waits = |outcome: &Outcome| {
        let all = outcome.progress.iter().map(|message| message.status.clone());
        all.filter(|status| status.starts_with("Retrying in 1 second: toomanyrequests: ")).count()
    };
    // The question whether it is a registry, after the one how it is spoken to.
    let fake = Fake::start().await;
    fake.takes_uploads();
    fake.hook(move |seen, before| (seen.path == "/v2/" && before == 1).then(busy));
    let (image, store) = made(&[archive(1, 900)]);
    let door = async { push(&fake.name("app:1"), image, &store).await };
    // The token server, asked for the first time.
    let guarded = Fake::start().await;
    guarded.takes_uploads();
    let realm = format!("http://{}/token", guarded.address);
    guarded.hook(move |seen, before| match (seen.path.as_str(), seen.header("authorization")) {
        ("/token", _) if before == 0 => Some(busy()),
        ("/token", _) => Some(Reply::new(200, r#"{"token":"TOKEN"}"#)),
        (_, Some("Bearer TOKEN")) => None,
        _ => Some(Reply::new(401, "").header("www-authenticate", format!(r#"Bearer realm="{realm}",service="fake""#))),
    });
    let (image, store) = made(&[archive(1, 900)]);
    let token = async { push(&guarded.name("app:1"), image, &store).await };
    // The question whether the manifest of another platform is there.
    let (origin, target) = (Fake::start().await, Fake::start().await);
    let (own, other) = (Image::oci(1).without_urls(), Image::of("arm64", 2, true).without_urls());
    origin.image("app", "1", &own);
    origin.image("app", "2", &other);
    target.takes_uploads();
    let asked = format!("/v2/app/manifests/{}", other.digest());
    target
        .hook(move |seen, before| (seen.method == http::Method::HEAD && seen.path == asked && before == 0).then(busy));
    let list = index(&[("amd64", &own), ("arm64", &other)], true);
    let image = pulled(&own, Some(list), &[&origin.name("app")]);
    let listed = async { push(&target.name("app:1"), image, &Arc::default()).await };
    let (door, token, listed) = tokio::join!(door, token, listed);
    for (place, outcome) in [("the door", &door), ("the token server", &token), ("a manifest", &listed)] {
        outcome.pushed();
        assert_eq!(waits(outcome), 1, "{place}: {:#?}", outcome.progress);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_sent_at_once() {
    let target = Fake::start().await;
    let uploads = target.takes_uploads();
    // No upload begins before three are wanted.
    target.gate(vec!["/v2/app/blobs/uploads/".to_owned()], 3);
    let (image, store) = made(&[archive(1, 9000), archive(2, 9000), archive(3, 9000)]);
    // The configuration's comes after theirs, alone: it is there already.
    uploads.put_blob("app", &image.config);
    push(&target.name("app:1"), image, &store).await.pushed();
    assert_eq!(layers_of(&uploads, "app", "1").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_registry_forgot_begins_anew() {
    let (mut image, store) = made(&[archive(1, 3_000_000)]);
    image.layers[0].size = 0;
    let fake = Fake::start().await;
    let uploads = fake.takes_uploads();
    *uploads.forgetful.lock().unwrap() = true;
    uploads.cuts.lock().unwrap().push_back(Some(10_000));
    push(&fake.name("app:1"), image, &store).await.pushed();
    assert_eq!(layers_of(&uploads, "app", "1"), store.archives);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_did_not_take_of_a_chunk_is_sent_again() {
    let (image, store) = made(&[archive(1, 3_000_000)]);
    let fake = Fake::start().await;
    let uploads = fake.takes_uploads();
    uploads.forgets.lock().unwrap().extend([5_000, 300]);
    push(&fake.name("app:1"), image, &store).await.pushed();
    assert_eq!(layers_of(&uploads, "app", "1"), store.archives);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_layers_are_compressed_once_and_to_the_same_bytes_everywhere() {
    let (image, store) = made(&[archive(1, 2_000_000), archive(2, 100), archive(1, 2_000_000)]);
    let (fake, other) = (Fake::start().await, Fake::start().await);
    let (uploads, elsewhere) = (fake.takes_uploads(), other.takes_uploads());
    let outcome = push(&fake.name("app:1"), image.clone(), &store).await;
    assert_eq!(layers_of(&uploads, "app", "1"), store.archives);
    assert_eq!(store.read.load(Ordering::SeqCst), 2, "a layer that is there twice is compressed once");
    let again = push(&other.name("app:1"), image.clone(), &store).await;
    assert_eq!(again.pushed().root.digest, outcome.pushed().root.digest);
    assert_eq!(uploads.manifest("app", "1"), elsewhere.manifest("app", "1"));
    // With what was noted, the next push asks and sends nothing.
    let mut known = image;
    for (layer, blob) in known.layers.iter_mut().zip(&outcome.pushed().layers) {
        layer.blobs.push(KnownBlob { descriptor: blob.clone(), verified: true, seen: Vec::new() });
    }
    let (before, reads) = (fake.seen().len(), store.read.load(Ordering::SeqCst));
    let outcome = push(&fake.name("app:2"), known, &store).await;
    assert_eq!(outcome.pushed().root.digest, again.pushed().root.digest);
    assert_eq!(store.read.load(Ordering::SeqCst), reads);
    assert!(fake.seen()[before..].iter().all(|seen| !matches!(seen.method.as_str(), "POST" | "PATCH")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_only_a_manifest_calls_the_layer_is_not_named_in_another_manifest() {
    let (mut image, store) = made(&[archive(1, 1000)]);
    let fake = Fake::start().await;
    let uploads = fake.takes_uploads();
    uploads.put_blob("app", b"something else");
    let descriptor = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", b"something else");
    image.layers[0].blobs.push(KnownBlob { descriptor, verified: false, seen: Vec::new() });
    push(&fake.name("app:1"), image, &store).await.pushed();
    assert_eq!(layers_of(&uploads, "app", "1"), store.archives);
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_blobs_are_sent_as_they_are() {
    let (fake, image) = (Fake::start().await, Image::schema2(4));
    let uploads = fake.takes_uploads();
    uploads.cuts.lock().unwrap().push_back(Some(50_000));
    let store = Arc::new(Store { kept: image.blobs().into_iter().collect(), ..Store::default() });
    let outcome = push(&fake.name("app:1"), pulled(&image, None, &[]), &store).await;
    assert_eq!(outcome.pushed().root.digest, image.digest());
    assert_eq!(uploads.manifest("app", "1").unwrap().1, image.manifest);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_nobody_has_any_more_are_compressed_anew_and_the_person_is_told() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    let uploads = fake.takes_uploads();
    let store = Arc::new(Store { archives: vec![archive(1, 5000), archive(2, 5000)], ..Store::default() });
    // Nobody listens where they came from.
    let outcome = push(&fake.name("app:1"), pulled(&image, None, &["127.0.0.1:1/gone"]), &store).await;
    assert_ne!(outcome.pushed().root.digest, image.digest());
    assert_eq!(layers_of(&uploads, "app", "1"), store.archives);
    let told = format!("The digest will be another one than {}, which was pulled", image.digest());
    assert!(outcome.said(&told) && outcome.said("127.0.0.1:1"), "{:#?}", outcome.progress);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_arrives_with_everything_that_it_lists() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let (image, other) = (Image::oci(2), Image::of("arm64", 2, true));
    let (raw, kind) = index(&[("amd64", &image), ("arm64", &other)], true);
    from.image("app", "1", &image);
    from.image("app", "arm", &other);
    let uploads = to.takes_uploads();
    let pushable = pulled(&image, Some((raw.clone(), kind)), &[&from.name("app")]);
    let outcome = push(&to.name("app:1"), pushable, &Arc::default()).await;
    assert_eq!(outcome.pushed().root.digest, digest(&raw));
    assert_eq!(uploads.manifest("app", "1").unwrap(), (kind.to_owned(), raw));
    assert_eq!(uploads.manifest("app", other.digest().as_str()).unwrap().1, other.manifest);
    assert!(other.blobs().iter().all(|(digest, _)| uploads.blob("app", digest).is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_whose_other_platforms_are_gone_is_replaced_by_the_manifest_and_that_is_said() {
    let (fake, image) = (Fake::start().await, Image::oci(2));
    let other = Image::of("arm64", 2, true);
    let (raw, kind) = index(&[("amd64", &image), ("arm64", &other)], true);
    let uploads = fake.takes_uploads();
    let store = Arc::new(Store { kept: image.blobs().into_iter().collect(), ..Store::default() });
    let pushable = pulled(&image, Some((raw.clone(), kind)), &[]);
    let outcome = push(&fake.name("app:1"), pushable, &store).await;
    assert_eq!(outcome.pushed().root.digest, image.digest());
    assert_eq!(uploads.manifest("app", "1").unwrap().1, image.manifest);
    let aux = outcome.progress.iter().filter_map(|message| message.aux.as_ref());
    let told = aux.into_iter().find(|aux| aux["manifestPushedInsteadOfIndex"] == true).unwrap();
    assert_eq!(told["originalIndex"]["digest"], digest(&raw).as_str());
    assert_eq!(told["selectedManifest"]["digest"], image.digest().as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_damaged_here_is_an_error_and_nothing_gets_a_name() {
    let (image, store) = made(&[archive(1, 1000), archive(2, 1000)]);
    let broken = Arc::new(Store { archives: store.archives[..1].to_vec(), ..Store::default() });
    let fake = Fake::start().await;
    let uploads = fake.takes_uploads();
    let error = push(&fake.name("app:1"), image.clone(), &broken).await.error();
    assert!(error.contains("the layer is damaged") && error.contains(image.layers[1].diff_id.as_str()), "{error}");
    assert!(uploads.manifests.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_said_in_dockers_words() {
    let refused = |status, challenge: &'static str, code: &'static str| async move {
        let fake = Fake::start().await;
        fake.takes_uploads();
        fake.hook(move |seen, _| {
            if seen.path == "/token" {
                return Some(Reply::new(200, r#"{"token":"T"}"#));
            }
            (seen.method != "HEAD" || status == 401)
                .then(|| Reply::error(status, code, "").header("www-authenticate", challenge))
        });
        let (image, store) = made(&[archive(1, 10)]);
        push(&fake.name("app:1"), image, &store).await.error()
    };
    assert_eq!(refused(403, "", "DENIED").await, "denied: requested access to the resource is denied");
    assert_eq!(refused(401, "Basic realm=x", "UNAUTHORIZED").await, "no basic auth credentials");
    let (image, store) = made(&[archive(1, 10)]);
    let down = push("127.0.0.1:1/app:1", image, &store).await.error();
    assert!(down.starts_with("Get \"http://127.0.0.1:1/v2/\"") && down.to_lowercase().contains("refused"), "{down}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_allows_pushing_and_reading_what_is_mounted_and_is_renewed_when_it_ends() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    let uploads = fake.takes_uploads();
    *uploads.mounts_nothing.lock().unwrap() = true;
    uploads.put_blob("base", &image.layers[0]);
    let realm = format!("http://{}/token", fake.address);
    let (given, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    fake.hook(move |seen, _| {
        if seen.path == "/token" {
            let number = given.fetch_add(1, Ordering::SeqCst);
            return Some(Reply::new(200, format!(r#"{{"token":"T{number}"}}"#)));
        }
        let challenge = format!(r#"Bearer realm="{realm}",service="fake""#);
        let refuse = || Reply::error(401, "UNAUTHORIZED", "").header("www-authenticate", challenge.clone());
        // The token ends just when the bytes begin to go.
        let ended = seen.method == "PATCH" && !ended.swap(true, Ordering::SeqCst);
        (seen.header("authorization").is_none() || ended).then(refuse)
    });
    let pushable = pulled(&image, None, &[&fake.name("base")]);
    let outcome = push_with(&fake.name("app:1"), pushable, &Arc::default(), login("me", "secret")).await;
    assert_eq!(outcome.pushed().root.digest, image.digest());
    let queries: Vec<_> = fake.seen().iter().filter(|seen| seen.path == "/token").map(|s| s.query.clone()).collect();
    assert!(queries[0].contains("scope=repository%3Aapp%3Apull%2Cpush"), "{queries:?}");
    assert!(
        queries.iter().any(|query| query.contains("app%3Apull%2Cpush&scope=repository%3Abase%3Apull")),
        "{queries:?}"
    );
    assert!(queries.len() >= 3, "one for the push, one for the mount, one when that ended: {queries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_to_upload_to_at_another_host_sees_no_credentials() {
    let (fake, storage) = (Fake::start().await, Fake::start().await);
    let (image, store) = made(&[archive(1, 10)]);
    fake.takes_uploads();
    let uploads = storage.takes_uploads();
    let to = storage.address;
    fake.hook(move |seen, _| {
        if seen.header("authorization").is_none() {
            return Some(Reply::new(401, "").header("www-authenticate", "Basic realm=x"));
        }
        (seen.method == "POST")
            .then(|| Reply::new(202, "").header("location", format!("http://{to}/v2/app/blobs/uploads/nothing")))
    });
    let outcome = push_with(&fake.name("app:1"), image, &store, login("me", "secret")).await;
    assert!(outcome.result.is_err(), "the storage knows no such session");
    assert!(!storage.seen().is_empty() && uploads.manifests.lock().unwrap().is_empty());
    assert!(storage.seen().iter().all(|seen| seen.header("authorization").is_none()));
}
