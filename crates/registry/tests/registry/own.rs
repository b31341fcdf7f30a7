//! Against our own server: what breaks off on the way goes on where it was.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gantry_registry::Options;
use gantry_registry::server::{Root, Server, Settings};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::debian::cutting;
use crate::image::{Image, noise};
use crate::push::{Store, made, pulled, push, push_by};

/// A server of a directory on `address`; cancelled, it stops as by a signal.
async fn serve(root: &Path, address: &str) -> (String, CancellationToken, JoinHandle<()>) {
    let opened = Root::open(root).unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap().to_string(), CancellationToken::new());
    let server = Arc::new(Server::new(opened.storage, opened.uploads, Settings::default()));
    let (stopped, lock) = (stop.clone(), opened.lock);
    let serving = tokio::spawn(async move {
        server.serve(listener, stopped).await;
        drop(lock);
    });
    (address, stop, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_over_connections_that_all_break_off_sends_hardly_a_byte_twice() {
    let directory = tempfile::tempdir().unwrap();
    let (server, stop, serving) = serve(directory.path(), "127.0.0.1:0").await;
    let (address, traffic, task) = cutting(server, 700_000, usize::MAX).await;
    let image = Image::sized(3_000_000).without_urls();
    let store = Arc::new(Store { kept: image.blobs().into_iter().collect(), ..Store::default() });
    let outcome = push(&format!("{address}/team/app:1"), pulled(&image, None, &[]), &store).await;
    assert_eq!(outcome.pushed().root.digest, image.digest());
    task.abort();
    let sent = traffic.bytes.load(Ordering::SeqCst);
    assert!(traffic.cuts.load(Ordering::SeqCst) >= 4 && sent < 3_300_000, "{sent} bytes for 3,000,000");
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_goes_on_when_the_server_was_restarted_under_it() {
    let directory = tempfile::tempdir().unwrap();
    let (server, stop, serving) = serve(directory.path(), "127.0.0.1:0").await;
    let (address, traffic, task) = cutting(server.clone(), 1_000_000, 1).await;
    let (image, store) = made(&[noise(2, 3_000_000)]);
    let options = Options::default().retry_pause(Duration::from_millis(200));
    let name = format!("{address}/team/app:1");
    let pushing = tokio::spawn(async move { push_by(options, &name, image, &store, None).await });
    // With the connection the server goes.
    while traffic.cuts.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    serving.await.unwrap();
    let (_, stop, serving) = serve(directory.path(), &server).await;
    pushing.await.unwrap().pushed();
    let sent = traffic.bytes.load(Ordering::SeqCst);
    assert!(sent < 3_300_000, "{sent} bytes for 3,000,000");
    task.abort();
    stop.cancel();
    serving.await.unwrap();
}
