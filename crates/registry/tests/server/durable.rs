//! When things are synced: before anybody has to wait for it, and whoever began with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_registry::server::store::{DOCUMENT_LIMIT, Directory, Key};
use gantry_registry::server::{Name, Repositories, Storage};

use crate::client::sha256;
use crate::crash::points::{Plan, run, run_meanwhile};
use crate::crash::within;

fn name() -> Name {
    "team/app".parse().unwrap()
}

#[test]
fn nobody_waits_for_the_sync_of_anothers_blob() {
    let directory = tempfile::tempdir().unwrap();
    let repositories = Repositories::new(Arc::new(Directory::open(directory.path()).unwrap()));
    let (digest, staged) = (sha256(b"blob"), directory.path().join("staged"));
    std::fs::write(&staged, b"blob").unwrap();
    let mut asked = None;
    let meanwhile = || {
        let name = name();
        let ask = async { tokio::time::timeout(Duration::from_secs(10), repositories.need_blob(&name, &digest)).await };
        asked = Some(within(ask));
    };
    run_meanwhile(meanwhile, || within(repositories.adopt_blob(&name(), &digest, &staged, 4))).unwrap();
    // Asserted here: the worker cannot go on when its watcher panics.
    let asked = asked.unwrap().expect("the lock is held while the blob is synced");
    assert!(asked.unwrap().is_none());
    assert!(within(repositories.blob(&name(), &digest)).unwrap().is_some());
}

#[test]
fn a_document_is_synced_with_all_its_folders_though_somebody_else_made_them() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Directory::open(directory.path()).unwrap();
    let key = Key::tag(&name(), &"latest".parse().unwrap());
    let documents = directory.path().join("documents");
    let path = documents.join(key.as_str());
    // Another writer has come this far.
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut synced = BTreeSet::new();
    for point in 1.. {
        let write = || within(storage.write(&key, Bytes::from_static(b"{}")));
        let seen = run(directory.path(), Plan::BrokenAt(point), write);
        let Some(call) = seen.hit else { break };
        assert!(seen.result.is_err(), "{call} failed and nobody was told");
        synced.extend(call.strip_prefix("fsync on ").map(str::to_owned));
    }
    let folders = path.ancestors().skip(1).take_while(|folder| *folder != directory.path());
    for folder in folders {
        assert!(synced.contains(folder.to_str().unwrap()), "{} is not synced: {synced:?}", folder.display());
    }
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Directory::open(directory.path()).unwrap();
    let key = Key::tag(&name(), &"latest".parse().unwrap());
    within(async {
        let most = Bytes::from(vec![b'x'; DOCUMENT_LIMIT]);
        storage.write(&key, most.clone()).await.unwrap();
        storage.write(&key, vec![b'y'; DOCUMENT_LIMIT + 1].into()).await.unwrap_err();
        assert!(storage.read(&key).await.unwrap() == Some(most), "what is there is not what was written");
    });
}
