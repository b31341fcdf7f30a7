//! What a listening socket promises, on the real kernel.
#![allow(clippy::disallowed_methods, reason = "tests arrange files by hand")]

use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use gantry_transport::{Access, Endpoint, Listener, Peer, Protection, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn somewhere() -> (tempfile::TempDir, Endpoint) {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::unix(directory.path().join("s"));
    (directory, endpoint)
}

#[tokio::test]
async fn a_connection_carries_bytes_both_ways_with_half_close_and_credentials() {
    let (_directory, endpoint) = somewhere();
    let listener = Listener::bind(&endpoint, &Access::local(0o660, None)).unwrap();
    let mut client = connect(&endpoint, None).await.unwrap();
    let (mut server, peer) = listener.accept().await.unwrap().enter().await.unwrap();
    let me = Some(std::process::id());
    assert!(matches!(peer, Peer::Process { uid, pid, .. } if uid == rustix::process::getuid().as_raw() && pid == me));
    assert!(rustix::io::fcntl_getfd(client.as_fd()).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    client.write_all(b"ping").await.unwrap();
    client.shutdown_write().await.unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "ping");
    let (read, mut write) = server.into_split();
    write.write_all(b"pong").await.unwrap();
    drop(write);
    drop(read);
    text.clear();
    client.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "pong");
}

#[tokio::test]
async fn mode_and_group_are_set_and_the_file_goes_with_the_listener() {
    let (_directory, endpoint) = somewhere();
    let listener = Listener::bind(&endpoint, &Access::local(0o660, Some(12))).unwrap();
    let status = std::fs::metadata(endpoint.path().unwrap()).unwrap();
    assert_eq!((status.mode() & 0o7777, status.gid()), (0o660, 12));
    drop(listener);
    assert!(!endpoint.path().unwrap().exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
    let (_directory, endpoint) = somewhere();
    let path = endpoint.path().unwrap().to_owned();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = Listener::bind(&endpoint, &Access::local(0o600, None)).unwrap();
    let error = Listener::bind(&endpoint, &Access::local(0o600, None)).unwrap_err().to_string();
    assert!(error.contains("another daemon is listening"), "{error}");
    assert!(path.exists());
    drop(listener);
    std::fs::write(&path, "mine").unwrap();
    let error = Listener::bind(&endpoint, &Access::local(0o600, None)).unwrap_err().to_string();
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[tokio::test]
async fn a_listener_that_was_replaced_leaves_its_successor_alone() {
    let (_directory, endpoint) = somewhere();
    let old = Listener::bind(&endpoint, &Access::local(0o600, None)).unwrap();
    std::fs::remove_file(endpoint.path().unwrap()).unwrap();
    let _new = Listener::bind(&endpoint, &Access::local(0o600, None)).unwrap();
    drop(old);
    assert!(std::fs::metadata(endpoint.path().unwrap()).unwrap().file_type().is_socket());
}

#[tokio::test]
async fn a_path_longer_than_an_address_works() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let endpoint = Endpoint::unix(deep.join("s"));
    let listener = Listener::bind(&endpoint, &Access::local(0o600, None)).unwrap();
    let (client, server) = tokio::join!(connect(&endpoint, None), listener.accept());
    client.unwrap();
    server.unwrap();
    drop(listener);
    assert!(!deep.join("s").exists());
}

#[tokio::test]
async fn nobody_there_is_said_in_dockers_words() {
    let (_directory, endpoint) = somewhere();
    let error = connect(&endpoint, None).await.unwrap_err();
    assert!(error.is_not_running());
    assert_eq!(
        error.to_string(),
        format!("Cannot connect to the Docker daemon at {endpoint}. Is the docker daemon running?")
    );
    let error = connect(&"tcp://127.0.0.1:1".parse().unwrap(), None).await.unwrap_err();
    assert!(error.is_not_running(), "{error}");
    let error = connect(&"tcp://no-such-host.invalid:1".parse().unwrap(), None).await.unwrap_err().to_string();
    assert!(error.contains("/etc/hosts"), "{error}");
}

#[tokio::test]
async fn tcp_listens_on_loopback_only() {
    let error = Listener::bind(&"tcp://0.0.0.0:0".parse().unwrap(), &Access::local(0, None)).unwrap_err().to_string();
    assert!(error.contains("--tlsverify") && error.contains("127.0.0.1"), "{error}");
    let listener = Listener::bind(&"tcp://localhost:0".parse().unwrap(), &Access::local(0, None)).unwrap();
    assert!(matches!(listener.endpoint(), Endpoint::Tcp { port, .. } if *port != 0));
    let (client, server) = tokio::join!(connect(listener.endpoint(), None), listener.accept());
    client.unwrap();
    let (_, peer) = server.unwrap().enter().await.unwrap();
    assert!(matches!(peer, Peer::Remote { address, subject: None } if address.ip().is_loopback()));
    let open = Access { mode: 0, group: None, protection: Protection::Nothing };
    assert!(Listener::bind(&"tcp://0.0.0.0:0".parse().unwrap(), &open).is_ok(), "it was asked for");
}
