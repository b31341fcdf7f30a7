//! The registry over a bucket: pushed and pulled by skopeo and by a daemon, listed, verified, collected and copied by its commands.

use std::fs;
use std::process::Command;
use std::time::Duration;

use gantry_tests::command::{self, LIMIT};
use gantry_tests::s3::{BUCKET, Bucket, KEY};
use gantry_tests::{Daemon, Registry, paths};

use super::Served;

#[test]
fn a_bucket_is_served_and_looked_after_as_a_directory_is() {
    let bucket = Bucket::start().expect("a bucket");
    let served = Served::start(&[], |at| {
        let (secret, endpoint) = (at.join("s3.key"), bucket.endpoint());
        fs::write(&secret, "secret\n").expect("write the key");
        format!(
            "[storage.s3]\nbucket = \"{BUCKET}\"\nprefix = \"registry\"\nendpoint = \"{endpoint}\"\n\
             access-key-id = \"{KEY}\"\nsecret-access-key-file = \"{}\"\n",
            secret.display()
        )
    });
    let source = Registry::start().expect("a registry with images");
    let digest = source.manifest_digest("busybox", "latest").expect("a digest");
    let from = format!("docker://{}", source.name("busybox:latest"));
    for name in ["team/app:1", "old/app:1"] {
        let to = format!("docker://{}", served.name(name));
        served.skopeo(&["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to]).ok();
    }
    let daemon = Daemon::start().expect("a daemon");
    daemon.pull(&served.name("team/app:1"), "from-a-bucket").expect("a pull of what is in a bucket");
    assert!(bucket.keys().iter().all(|key| key.starts_with("registry/")), "{:?}", bucket.keys());
    let config = served.at("registry.toml").display().to_string();
    let root = served.at("root").display().to_string();
    let registry = |arguments: &[&str]| {
        let mut gantry = Command::new(paths::gantry().expect("the binary"));
        gantry.arg("registry").args(arguments).args(["--config", &config, "--root", &root]);
        command::run(&mut gantry, None, LIMIT).expect("run the registry")
    };
    assert_eq!(registry(&["ls", "team/app"]).ok(), format!("1\t{digest}"));
    assert!(registry(&["verify"]).ok().contains("2 repositories: 0 problems"));
    let stick = served.at("stick").display().to_string();
    assert!(registry(&["copy", "team/app:1", &stick]).ok().contains(&digest));
    let rule = ["gc", "--grace", "0s", "--untagged", "0s", "--tags", "old/**:*=0s"];
    registry(&rule).fails(1, "another registry serves this directory");
    let kept = served.stop();
    // No younger than the bucket's clock can tell.
    bucket.keys().iter().for_each(|key| bucket.age(key, Duration::from_secs(60)));
    let gone = registry(&rule).ok();
    assert!(gone.contains("1 tag") && gone.contains("1 manifest"), "{gone}");
    assert!(registry(&["verify"]).ok().contains("1 repositories: 0 problems"));
    drop(kept);
}
