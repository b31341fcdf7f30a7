//! Round trips: an image of each form, put into a registry by skopeo, pulled, pushed to another and read back, has the digest
//! that it had; by Debian's registry and ours, by the real `docker` CLI and ours.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gantry_tests::{Registry, World, both, command, paths, skip};

/// How skopeo is told to write an image, and what its manifest must have.
const FORMS: [(&str, &[&str], &str); 4] = [
    ("schema2", &["--format", "v2s2"], "vnd.docker.image.rootfs.diff.tar.gzip"),
    ("oci-gzip", &["--format", "oci"], "oci.image.layer.v1.tar+gzip"),
    ("oci-zstd", &["--format", "oci", "--dest-compress-format", "zstd"], "oci.image.layer.v1.tar+zstd"),
    ("oci-plain", &["--preserve-digests"], "oci.image.layer.v1.tar\""),
];

fn skopeo(arguments: &[&str]) -> String {
    let mut skopeo = Command::new(paths::need("skopeo").expect("skopeo"));
    skopeo.arg("--insecure-policy").args(arguments);
    command::succeed(&mut skopeo, Duration::from_secs(60)).expect("skopeo").stdout
}

/// The bytes of a manifest, as skopeo gets them.
fn manifest(name: &str) -> String {
    skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])
}

/// Puts an image in that form into a registry. What is compressed otherwise goes through a directory of plain layers: old
/// versions of skopeo leave what is compressed already as it is.
fn put(world: &World, form: &str, arguments: &[&str], own: &str, directory: &Path, to: &str) {
    let mut from = format!("docker://{}:latest", world.registry.name(own));
    let copy = ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
    if matches!(form, "oci-zstd" | "oci-plain") {
        let plain = format!("dir:{}", directory.display());
        skopeo(&[&copy[..], &["--format", "oci", "--dest-decompress", &from, &plain]].concat());
        from = plain;
    }
    skopeo(&[&copy[..], arguments, &[&from, &format!("docker://{to}")]].concat());
}

fn servers(directory: &Path) -> Vec<(&'static str, Registry)> {
    let debian = Registry::serve(&directory.join("debian")).expect("Debian's registry");
    let own = Registry::own(&directory.join("own")).expect("our registry");
    vec![("debian", debian), ("own", own)]
}

#[test]
fn every_form_of_an_image_keeps_its_digest_through_pull_and_push() {
    both(|world, cli| {
        if paths::need("skopeo").is_err() {
            return skip("no skopeo");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let own = world.push_own("form").expect("push");
        for (form, arguments, has) in FORMS {
            // Of what a registry has skopeo takes another form for the one that it is asked for.
            let servers = servers(&directory.path().join(form));
            for (index, (name, from)) in servers.iter().enumerate() {
                let (other, to) = &servers[1 - index];
                let case = format!("{form} from {name} to {other}");
                let (source, target) = (from.name(&format!("{form}:1")), to.name(&format!("back/{form}:1")));
                put(world, form, arguments, &own, &directory.path().join(format!("{form}-{name}")), &source);
                let before = manifest(&source);
                assert!(before.contains(has), "{case}: {before}");
                cli.ok(&["pull", "-q", &source]);
                cli.ok(&["tag", &source, &target]);
                cli.ok(&["push", "-q", &target]);
                assert_eq!(manifest(&target), before, "{case}");
                cli.ok(&["rmi", &source, &target]);
                cli.ok(&["pull", "-q", &target]);
                cli.ok(&["run", "--rm", &target]);
                cli.ok(&["rmi", &target]);
            }
        }
    });
}

#[test]
fn what_was_committed_here_is_read_by_podman_and_skopeo_with_the_digest_that_was_said() {
    both(|world, cli| {
        let Ok(podman) = paths::need("podman") else { return skip("no podman") };
        let directory = tempfile::tempdir().expect("a directory");
        let base = world.registry.name(&world.push_own("podman").expect("push"));
        cli.ok(&["pull", "-q", &base]);
        let container = cli.ok(&["run", "-d", &base, "sh", "-c", "echo committed > /committed"]);
        cli.ok(&["wait", &container]);
        for (server, registry) in servers(directory.path()) {
            let name = registry.name("app:1");
            cli.ok(&["commit", &container, &name]);
            let said = cli.ok(&["push", &name]);
            let digest = gantry_tests::image::digest(manifest(&name).as_bytes());
            assert!(said.contains(&format!("1: digest: sha256:{digest} size:")), "{server}: {said}");
            let mut pull = Command::new(&podman);
            let store = directory.path().join(server);
            pull.arg("--root").arg(store.join("root")).arg("--runroot").arg(store.join("run"));
            pull.args(["--storage-driver", "vfs", "pull", "-q", "--tls-verify=false"]);
            pull.arg(format!("{}@sha256:{digest}", registry.name("app")));
            command::succeed(&mut pull, Duration::from_secs(60)).expect("podman pulls it");
            cli.ok(&["rmi", &name]);
        }
        cli.ok(&["rm", &container]);
        cli.ok(&["rmi", &base]);
    });
}

#[test]
fn an_image_that_refers_to_another_is_among_its_referrers_after_the_push() {
    both(|world, cli| {
        if paths::need("skopeo").is_err() {
            return skip("no skopeo");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let servers = servers(directory.path());
        let own = world.push_own("subject").expect("push");
        // A layout by hand: skopeo copies such a manifest as it is, and makes none.
        let layout = directory.path().join("layout");
        let oci = format!("oci:{}:1", layout.display());
        let from = format!("docker://{}:latest", world.registry.name(&own));
        skopeo(&["copy", "--quiet", "--src-tls-verify=false", &from, &oci]);
        let subject = refer(&layout);
        let (source, target) = (servers[0].1.name("refers:1"), servers[1].1.name("refers:1"));
        skopeo(&[
            "copy",
            "--quiet",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &oci,
            &format!("docker://{source}"),
        ]);
        let before = manifest(&source);
        assert!(before.contains(&subject), "{before}");
        cli.ok(&["pull", "-q", &source]);
        cli.ok(&["tag", &source, &target]);
        cli.ok(&["push", "-q", &target]);
        assert_eq!(manifest(&target), before);
        let referrers = servers[1].1.get(&format!("/v2/refers/referrers/{subject}")).expect("referrers");
        assert!(referrers.contains(&gantry_tests::image::digest(before.as_bytes())), "{referrers}");
        cli.ok(&["rmi", &source, &target]);
    });
}

#[test]
fn a_list_of_platforms_keeps_every_digest_through_pull_and_push() {
    both(|world, cli| {
        if paths::need("skopeo").is_err() {
            return skip("no skopeo");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let servers = servers(directory.path());
        let own = world.push_own("list").expect("push");
        let layout = directory.path().join("layout");
        let oci = format!("oci:{}", layout.display());
        for name in [own.as_str(), "wrongarch"] {
            let from = format!("docker://{}:latest", world.registry.name(name));
            skopeo(&["copy", "--quiet", "--src-tls-verify=false", &from, &format!("{oci}:{name}")]);
        }
        gantry_tests::image::index_of(&layout).expect("an index");
        for (kind, format) in [("oci.image.index.v1", "oci"), ("docker.distribution.manifest.list.v2", "v2s2")] {
            for (index, (name, from)) in servers.iter().enumerate() {
                let (other, to) = &servers[1 - index];
                let case = format!("{kind} from {name} to {other}");
                let (source, target) = (from.name(&format!("{format}:1")), to.name(&format!("back/{format}:1")));
                let copy = ["copy", "--quiet", "--all", "--src-tls-verify=false", "--dest-tls-verify=false"];
                skopeo(&[&copy[..], &["--format", format, &oci, &format!("docker://{source}")]].concat());
                let before = manifest(&source);
                assert!(before.contains(kind), "{case}: {before}");
                cli.ok(&["pull", "-q", &source]);
                cli.ok(&["tag", &source, &target]);
                cli.ok(&["push", "-q", &target]);
                assert_eq!(manifest(&target), before, "{case}");
                // Every platform is there, to the last byte.
                let whole = directory.path().join(format!("{format}-{other}"));
                skopeo(&[&copy[..], &[&format!("docker://{target}"), &format!("dir:{}", whole.display())]].concat());
                cli.ok(&["rmi", &source, &target]);
            }
        }
    });
}

#[test]
fn what_podman_pushes_comes_and_goes_with_its_digest_in_each_form_and_podman_pulls_it_again() {
    both(|world, cli| {
        let Ok(program) = paths::need("podman") else { return skip("no podman") };
        let directory = tempfile::tempdir().expect("a directory");
        let servers = servers(directory.path());
        let podman = |arguments: &[&str]| {
            let mut podman = Command::new(&program);
            podman.arg("--root").arg(directory.path().join("root")).arg("--runroot").arg(directory.path().join("run"));
            podman.args(["--storage-driver", "vfs"]).args(arguments);
            command::succeed(&mut podman, Duration::from_secs(60)).expect("podman").stdout
        };
        let own = world.registry.name(&world.push_own("podman").expect("push"));
        podman(&["pull", "-q", "--tls-verify=false", &own]);
        let said = directory.path().join("digest");
        let file = format!("--digestfile={}", said.display());
        let forms: [(&str, &[&str]); 3] = [
            ("oci", &["--format", "oci"]),
            ("schema2", &["--format", "v2s2"]),
            ("zstd", &["--format", "oci", "--compression-format", "zstd"]),
        ];
        for (form, arguments) in forms {
            for (index, (name, from)) in servers.iter().enumerate() {
                let (other, to) = &servers[1 - index];
                let case = format!("{form} from {name} to {other}");
                let (source, target) = (from.name(form), to.name(&format!("back/{form}:1")));
                let place = format!("docker://{source}:1");
                podman(&[&["push", "-q", "--tls-verify=false", &file], arguments, &[&own, &place]].concat());
                let digest = std::fs::read_to_string(&said).expect("a digest");
                cli.ok(&["pull", "-q", &format!("{source}:1")]);
                let digests = cli.inspect(&format!("{source}:1"), "{{json .RepoDigests}}");
                assert!(digests.contains(&format!("{source}@{digest}")), "{case}: {digests}");
                cli.ok(&["tag", &format!("{source}:1"), &target]);
                let pushed = cli.ok(&["push", &target]);
                assert!(pushed.contains(&format!("1: digest: {digest} size: ")), "{case}: {pushed}");
                let back = format!("{}@{digest}", to.name(&format!("back/{form}")));
                podman(&["pull", "-q", "--tls-verify=false", &back]);
                podman(&["rmi", &back]);
                cli.ok(&["rmi", &format!("{source}:1"), &target]);
            }
        }
    });
}

#[test]
fn a_signature_goes_along_with_its_image_and_is_found_at_either_registry() {
    both(|world, cli| {
        if paths::need("skopeo").is_err() {
            return skip("no skopeo");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let servers = servers(directory.path());
        let own = world.push_own("signed").expect("push");
        for (index, (name, from)) in servers.iter().enumerate() {
            let (other, to) = &servers[1 - index];
            let case = format!("from {name} to {other}");
            let (source, target) = (from.name("signed:1"), to.name("copy/signed:1"));
            let arguments = ["--format", "oci"];
            put(world, "oci", &arguments, &own, directory.path(), &source);
            let subject = manifest(&source);
            let (signature, digest) = sign(from, "signed", &subject);
            cli.ok(&["pull", "-q", &source]);
            cli.ok(&["tag", &source, &target]);
            cli.ok(&["push", "-q", &target]);
            let found =
                to.send("GET", &format!("/v2/copy/signed/manifests/{digest}"), &ACCEPT, None).expect("an answer");
            assert_eq!(found.text(), signature, "{case}");
            let list = listed(to, "copy/signed", &subject);
            assert!(list.contains(&digest) && list.contains(SIGNATURE), "{case}: {list}");
            cli.ok(&["rmi", &source, &target]);
        }
    });
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const ACCEPT: [(&str, &str); 1] =
    [("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json")];
/// What kind of thing a signature is.
const SIGNATURE: &str = "application/vnd.tests.signature";

/// Puts an artifact that refers to an image beside it, as who signs does; its bytes and its digest.
fn sign(registry: &Registry, name: &str, subject: &str) -> (String, String) {
    let digest = |raw: &[u8]| format!("sha256:{}", gantry_tests::image::digest(raw));
    let describe =
        |kind: &str, raw: &[u8]| serde_json::json!({"mediaType": kind, "digest": digest(raw), "size": raw.len()});
    let blobs = [b"{}".as_slice(), b"signed"];
    blobs.iter().for_each(|blob| registry.put_blob(name, blob).expect("a blob"));
    let signature = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": SIGNATURE,
        "config": describe("application/vnd.oci.empty.v1+json", blobs[0]),
        "layers": [describe("text/plain", blobs[1])], "subject": describe(MANIFEST, subject.as_bytes()),
    })
    .to_string();
    let (of, own) = (digest(subject.as_bytes()), digest(signature.as_bytes()));
    registry.put_manifest(name, &own, MANIFEST, signature.as_bytes()).expect("the signature");
    if registry.send("GET", &format!("/v2/{name}/referrers/{of}"), &[], None).expect("an answer").status != 200 {
        let mut entry = describe(MANIFEST, signature.as_bytes());
        entry["artifactType"] = SIGNATURE.into();
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
        registry.put_manifest(name, &of.replace(':', "-"), INDEX, index.as_bytes()).expect("the list in a tag");
    }
    (signature, own)
}

/// What refers to a manifest, as the registry lists it or the tag has it that stands for the list.
fn listed(registry: &Registry, name: &str, subject: &str) -> String {
    let of = format!("sha256:{}", gantry_tests::image::digest(subject.as_bytes()));
    let list = registry.send("GET", &format!("/v2/{name}/referrers/{of}"), &[], None).expect("an answer");
    if list.status == 200 {
        return list.text();
    }
    let path = format!("/v2/{name}/manifests/{}", of.replace(':', "-"));
    registry.send("GET", &path, &ACCEPT, None).expect("an answer").text()
}

/// Gives the manifest of a layout a subject; its digest.
fn refer(layout: &Path) -> String {
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).expect("a document")).expect("JSON")
    };
    let blobs = layout.join("blobs/sha256");
    let mut index = read(&layout.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
    let mut manifest = read(&blobs.join(digest.trim_start_matches("sha256:")));
    let subject = format!("sha256:{}", "5".repeat(64));
    let kind = "application/vnd.oci.image.manifest.v1+json";
    manifest["subject"] = serde_json::json!({"mediaType": kind, "digest": subject, "size": 7});
    let raw = manifest.to_string();
    let digest = gantry_tests::image::digest(raw.as_bytes());
    std::fs::write(blobs.join(&digest), &raw).expect("write the manifest");
    index["manifests"][0]["digest"] = format!("sha256:{digest}").into();
    index["manifests"][0]["size"] = raw.len().into();
    std::fs::write(layout.join("index.json"), index.to_string()).expect("write the index");
    subject
}
