//! OCI layouts: written from a registry, served without one.

use std::path::Path;

use gantry_registry::server::store::Layout;
use gantry_registry::server::{Name, Repositories, Root, Server, Settings, Tag, verify};
use serde_json::json;

use crate::client::{OCI_INDEX, OCI_MANIFEST, descriptor, digest_of, sha256};
use crate::served::{Served, files};

fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// Copies images of a registry that is not served into a layout.
fn copy(root: &Path, layout: &Path, images: &[(&str, &str)]) {
    let repositories = Repositories::new(Root::open(root).unwrap().storage);
    for (name, tag) in images {
        let (name, tag): (Name, Tag) = (name.parse().unwrap(), tag.parse().unwrap());
        within(Layout::add(layout, &repositories, &name, &tag)).unwrap();
    }
}

/// A server of a layout; its own directory is another one.
fn serve(layout: &Path, scratch: &Path) -> Served {
    let storage = within(Layout::open(layout, &"unnamed".parse().unwrap())).unwrap();
    Served::at(scratch, Settings { read_only: true, ..Settings::default() }, |server: &mut Server| {
        server.repositories = Repositories::new(storage);
    })
}

#[test]
fn what_was_copied_into_a_layout_is_served_from_it_and_nothing_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let (root, layout) = (directory.path().join("root"), directory.path().join("layout"));
    let served = Served::at(&root, Settings::default(), |_| {});
    let one = served.client.image("team/app", "1", b"layer");
    served.client.image("team/app-b", "2", b"layer");
    let index = json!({ "mediaType": OCI_INDEX, "manifests": [
        descriptor(OCI_MANIFEST, one.to_string().as_bytes()), descriptor(OCI_MANIFEST, b"another platform"),
    ] });
    served.client.manifest("team/app", "all", OCI_INDEX, &index).expect(201);
    drop(served);
    copy(&root, &layout, &[("team/app", "1"), ("team/app", "all"), ("team/app-b", "2"), ("team/app", "1")]);
    // The layer, its configuration and the manifest, which both repositories share, and the index.
    assert_eq!(files(&layout.join("blobs")).len(), 4);
    let served = serve(&layout, &directory.path().join("scratch"));
    let client = served.client;
    assert_eq!(client.get("/v2/_catalog").expect(200).json()["repositories"], json!(["team/app", "team/app-b"]));
    assert_eq!(client.get("/v2/team/app/tags/list").expect(200).json()["tags"], json!(["1", "all"]));
    let manifest = client.get("/v2/team/app/manifests/1").expect(200);
    assert_eq!((manifest.body.as_slice(), manifest.header("content-type")), (one.to_string().as_bytes(), OCI_MANIFEST));
    assert_eq!(
        client.get("/v2/team/app/manifests/all").expect(200).header("docker-content-digest"),
        digest_of(&index).as_str()
    );
    let layer = sha256(b"layer");
    assert!(client.has("team/app-b", &layer));
    let part = client.send("GET", &format!("/v2/team/app/blobs/{layer}"), &[("Range", "bytes=1-3")], b"").expect(206);
    assert_eq!(part.body, b"aye");
    assert_eq!(client.send("POST", "/v2/team/app/blobs/uploads/", &[], b"").expect(403).code(), "DENIED");
    assert_eq!(client.send("DELETE", "/v2/team/app/manifests/1", &[], b"").expect(403).code(), "DENIED");
}

#[test]
fn images_without_a_name_are_the_directorys_and_a_damaged_layout_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (root, layout) = (directory.path().join("root"), directory.path().join("layout"));
    let served = Served::at(&root, Settings::default(), |_| {});
    let image = served.client.image("a", "1", b"layer");
    drop(served);
    copy(&root, &layout, &[("a", "1")]);
    let entry = descriptor(OCI_MANIFEST, image.to_string().as_bytes());
    for (annotations, name, tag) in [
        (json!({}), "unnamed", "latest"),
        (json!({ "org.opencontainers.image.ref.name": "v7" }), "unnamed", "v7"),
        (json!({ "io.containerd.image.name": "docker.io/library/debian:12" }), "library/debian", "12"),
        (json!({ "org.opencontainers.image.ref.name": "example.test:5000/x/y:z" }), "x/y", "z"),
    ] {
        let mut entry = entry.clone();
        entry["annotations"] = annotations;
        std::fs::write(layout.join("index.json"), json!({ "manifests": [entry] }).to_string()).unwrap();
        let served = serve(&layout, &directory.path().join("scratch"));
        served.client.get(&format!("/v2/{name}/manifests/{tag}")).expect(200);
    }
    let digest = digest_of(&image);
    std::fs::write(layout.join("blobs/sha256").join(digest.hex()), "{}").unwrap();
    let refused = within(Layout::open(&layout, &"x".parse().unwrap())).unwrap_err();
    assert!(refused.message.contains("damaged") && refused.message.contains(digest.as_str()), "{}", refused.message);
}

#[test]
fn verify_names_what_is_damaged_and_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::at(directory.path(), Settings::default(), |_| {});
    served.client.image("a", "1", b"whole");
    served.client.image("b", "1", b"damaged");
    served.client.image("c", "1", b"missing");
    drop(served);
    let repositories = Repositories::new(Root::open(directory.path()).unwrap().storage);
    let mut told = Vec::new();
    let read = within(verify::all(&repositories, &mut |problem| told.push(problem))).unwrap();
    assert_eq!((read.repositories, read.content, told.len()), (3, 9, 0), "{told:?}");
    let at = |content: &[u8]| {
        let digest = sha256(content);
        directory.path().join("content/sha256").join(&digest.hex()[..2]).join(digest.hex())
    };
    std::fs::write(at(b"damaged"), b"dAmaged").unwrap();
    std::fs::remove_file(at(b"missing")).unwrap();
    within(verify::all(&repositories, &mut |problem| told.push(problem))).unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|problem| problem.contains("is damaged") && problem.contains(sha256(b"damaged").as_str())));
    assert!(
        told.iter().any(|problem| problem.contains(" of c names") && problem.contains(sha256(b"missing").as_str()))
    );
}
