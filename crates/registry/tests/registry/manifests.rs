//! Documents that are not what they seem.

use crate::fake::{Fake, Reply};
use crate::image::{Image, digest};
use crate::store::{Request, pull};

#[tokio::test]
async fn an_unknown_tag_is_said_in_dockers_words() {
    let fake = Fake::start().await;
    let name = fake.name("app:none");
    let outcome = pull(&name).await;
    assert_eq!(outcome.error(), format!("manifest for {name} not found: manifest unknown: manifest unknown"));
    assert_eq!(outcome.result.unwrap_err().kind().status(), 404);
    fake.hook(|seen, _| seen.path.contains("/manifests/").then(|| Reply::error(404, "NAME_UNKNOWN", "no such thing")));
    let error = pull(&name).await.error();
    assert_eq!(error, format!("repository {} not found: name unknown: no such thing", fake.name("app")));
}

#[tokio::test]
async fn a_document_over_four_mebibytes_is_refused_with_and_without_a_length() {
    let fake = Fake::start().await;
    let huge = vec![b' '; (4 << 20) + 1];
    for length in [true, false] {
        let reply = Reply::new(200, huge.clone()).header("content-type", "application/vnd.oci.image.index.v1+json");
        let reply = if length { reply } else { reply.header("transfer-encoding", "chunked") };
        fake.put("/v2/app/manifests/1", reply);
        let error = pull(&fake.name("app:1")).await.error();
        assert!(error.contains("larger than 4194304 bytes"), "{error}");
    }
}

#[tokio::test]
async fn an_image_that_is_also_an_index_is_refused() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "good", &image);
    let mut both: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    both["manifests"] = serde_json::json!([]);
    let raw = serde_json::to_vec(&both).unwrap();
    for kind in [image.media_type(), "application/vnd.oci.image.index.v1+json", "application/json"] {
        fake.document("app", "1", &raw, kind);
        let error = pull(&fake.name("app:1")).await.error();
        assert!(error.contains("an image and an index at once"), "{error}");
    }
    // Sent as what it does not say that it is.
    fake.document("app", "1", &image.manifest, "application/vnd.oci.image.index.v1+json");
    let error = pull(&fake.name("app:1")).await.error();
    assert!(error.contains("was sent as"), "{error}");
}

#[tokio::test]
async fn schema_1_is_refused_and_says_what_to_do() {
    let fake = Fake::start().await;
    let kind = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    fake.document("app", "1", br#"{"schemaVersion":1,"fsLayers":[]}"#, kind);
    let error = pull(&fake.name("app:1")).await.error();
    assert!(error.contains("schema 1 support has been removed"), "{error}");
}

#[tokio::test]
async fn a_config_with_other_layers_than_the_manifest_is_refused() {
    let (fake, image, two) = (Fake::start().await, Image::oci(1), Image::oci(2));
    fake.image("app", "two", &two);
    let mut manifest: serde_json::Value = serde_json::from_slice(&two.manifest).unwrap();
    manifest["config"]["digest"] = serde_json::json!(image.id());
    manifest["config"]["size"] = serde_json::json!(image.config.len());
    fake.image("app", "one", &image);
    let raw = serde_json::to_vec(&manifest).unwrap();
    fake.document("app", "1", &raw, two.media_type());
    let error = pull(&fake.name("app:1")).await.error();
    assert_eq!(error, "image configuration: it has 1 diff ids for the 2 layers of the manifest");
    assert_ne!(digest(&raw), two.digest());
}

#[tokio::test]
async fn an_image_for_another_platform_than_was_asked_for_is_refused() {
    let (fake, image) = (Fake::start().await, Image::of("arm64", 1, true));
    fake.image("app", "1", &image);
    let outcome = Request { platform: Some("linux/amd64"), ..Request::default() }.pull(&fake.name("app:1")).await;
    let error = outcome.error();
    assert!(
        error.contains("its platform (linux/arm64) does not match the specified platform (linux/amd64)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_platform_that_nobody_asked_for_is_not_held_against_an_image() {
    let (fake, image) = (Fake::start().await, Image::of("arm64", 1, true));
    fake.image("app", "1", &image);
    Request { platform: Some("linux/arm64"), ..Request::default() }.pull(&fake.name("app:1")).await.result.unwrap();
}

/// An index of an image with an attestation of it: its manifest, configuration and statement.
fn attested(image: &Image) -> (Vec<u8>, [Vec<u8>; 3]) {
    let describe =
        |kind: &str, bytes: &[u8]| serde_json::json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
    let (config, statement) = (b"{\"os\":\"unknown\"}".to_vec(), b"{\"_type\":\"statement\"}".to_vec());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let about = serde_json::json!({"schemaVersion": 2, "mediaType": kind,
        "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": [describe("application/vnd.in-toto+json", &statement)]});
    let about = serde_json::to_vec(&about).unwrap();
    let mut own = describe(kind, &image.manifest);
    own["platform"] = serde_json::json!({"os": "linux", "architecture": "amd64"});
    let mut entry = describe(kind, &about);
    entry["platform"] = serde_json::json!({"os": "unknown", "architecture": "unknown"});
    entry["annotations"] = serde_json::json!({"vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image.digest()});
    let mut stranger = describe(kind, b"of another platform");
    stranger["annotations"] = serde_json::json!({"vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": digest(b"another")});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [own, entry, stranger]});
    (serde_json::to_vec(&index).unwrap(), [about, config, statement])
}

#[tokio::test]
async fn attestations_come_with_their_image_once_and_a_registry_without_them_is_no_failure() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    let (index, [about, config, statement]) = attested(&image);
    fake.image("app", "direct", &image);
    fake.document("app", "1", &index, "application/vnd.oci.image.index.v1+json");
    let outcome = pull(&fake.name("app:1")).await;
    outcome.result.unwrap();
    assert!(outcome.store.attached.lock().unwrap().is_empty(), "the registry has none");
    fake.put(&format!("/v2/app/manifests/{}", digest(&about)), Reply::new(403, ""));
    pull(&fake.name("app:1")).await.result.unwrap();
    fake.document("app", "about", &about, "application/vnd.oci.image.manifest.v1+json");
    fake.put(&format!("/v2/app/blobs/{}", digest(&config)), Reply::new(200, config.clone()));
    let store = pull(&fake.name("app:1")).await.store;
    let raw = |store: &crate::store::Store| {
        store.attached.lock().unwrap().iter().map(|document| document.raw.clone()).collect::<Vec<_>>()
    };
    assert_eq!(raw(&store), [about.clone(), config.clone()], "as far as it has it");
    fake.put(&format!("/v2/app/blobs/{}", digest(&statement)), Reply::new(200, statement.clone()));
    let request = Request { store: store.clone(), ..Request::default() };
    request.pull(&fake.name("app:1")).await.result.unwrap();
    let asked = fake.count(&format!("/blobs/{}", digest(&config)));
    assert_eq!(raw(&store), [about.clone(), config.clone(), about, config, statement.clone()]);
    assert_eq!(asked, 1, "what the store has is not fetched again");
    // One that is not what its index says is an attack, or damage.
    fake.put(&format!("/v2/app/blobs/{}", digest(&statement)), Reply::new(200, b"{\"_type\":\"Statement\"}".to_vec()));
    let error = pull(&fake.name("app:1")).await.error();
    assert!(error.contains("attestation verification failed"), "{error}");
}
