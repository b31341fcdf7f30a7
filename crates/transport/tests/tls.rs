//! TLS at both ends, and what is said when they do not like each other.
#![allow(clippy::disallowed_methods, reason = "tests arrange files by hand")]

#[path = "tls/authority.rs"]
mod authority;

use std::sync::Arc;

use authority::{Authority, Wanted};
use bytes::Bytes;
use gantry_transport::tls::{ClientCertificates, ServerFiles, Verification};
use gantry_transport::{
    Access, ClientTls, Endpoint, Error, HttpClient, Listener, Peer, Protection, ServerTls, connect,
};
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

struct World {
    directory: tempfile::TempDir,
    authority: Authority,
    tls: Arc<ServerTls>,
    endpoint: Endpoint,
    serving: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl World {
    /// A server with a certificate for 127.0.0.1 that answers each connection with what it was sent, after its end.
    fn new(clients: fn(std::path::PathBuf) -> ClientCertificates) -> Self {
        Self::of(clients, |_| {})
    }

    fn of(clients: fn(std::path::PathBuf) -> ClientCertificates, change: fn(&mut Wanted)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new("the authority");
        authority.write(&directory.path().join("ca.pem"));
        let mut wanted = Wanted::server(&["127.0.0.1"]);
        change(&mut wanted);
        authority.issue(&wanted, directory.path(), "server");
        let files = ServerFiles {
            certificate: directory.path().join("server-cert.pem"),
            key: directory.path().join("server-key.pem"),
            clients: clients(directory.path().join("ca.pem")),
        };
        let tls = Arc::new(ServerTls::load(files).unwrap());
        let access = Access { mode: 0, group: None, protection: Protection::Tls(Arc::clone(&tls)) };
        let listener = Listener::bind(&"tcp://127.0.0.1:0".parse().unwrap(), &access).unwrap();
        let endpoint = listener.endpoint().clone();
        let serving = tokio::spawn(async move {
            loop {
                let arrival = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let Ok((mut stream, peer)) = arrival.enter().await else { return };
                    let Peer::Remote { subject, .. } = peer else { panic!("{peer:?}") };
                    let mut input = Vec::new();
                    // A client that breaks off gets no answer.
                    if stream.read_to_end(&mut input).await.is_ok() {
                        let said = format!("{} said {}", subject.as_deref().unwrap_or("somebody"), input.len());
                        stream.write_all(said.as_bytes()).await.unwrap();
                        stream.shutdown().await.unwrap();
                    }
                });
            }
        });
        Self { directory, authority, tls, endpoint, serving }
    }

    fn client(&self, identity: Option<&str>) -> ClientTls {
        let file = |name: &str, part: &str| self.directory.path().join(format!("{name}-{part}.pem"));
        ClientTls {
            verification: Verification::Authority(self.directory.path().join("ca.pem")),
            identity: identity.map(|name| (file(name, "cert"), file(name, "key"))),
        }
    }

    async fn say(&self, tls: &ClientTls, text: &[u8]) -> Result<String, String> {
        let mut stream = connect(&self.endpoint, Some(tls)).await.map_err(|error| error.to_string())?;
        let said = async {
            stream.write_all(text).await?;
            stream.shutdown().await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        said.await.map_err(|error| error.to_string())
    }

    /// What a person reads when a request fails.
    async fn refusal(&self, tls: ClientTls) -> String {
        refusal(&self.endpoint, Some(tls)).await
    }
}

async fn refusal(endpoint: &Endpoint, tls: Option<ClientTls>) -> String {
    let client = HttpClient::new(endpoint.clone()).with_tls(tls);
    let request = Request::get("/_ping").body(Full::<Bytes>::default()).unwrap();
    client.request(request).await.expect_err("it should be refused").to_string()
}

#[tokio::test]
async fn an_end_of_input_is_told_inside_and_the_answer_still_comes() {
    let world = World::new(|_| ClientCertificates::None);
    let text = vec![b'x'; 1 << 20];
    assert_eq!(world.say(&world.client(None), &text).await.unwrap(), "somebody said 1048576");
    let blind = ClientTls { verification: Verification::None, identity: None };
    assert_eq!(world.say(&blind, b"x").await.unwrap(), "somebody said 1");
}

#[tokio::test]
async fn what_was_looked_at_is_still_there_to_be_read() {
    let world = World::new(|_| ClientCertificates::None);
    let mut stream = connect(&world.endpoint, Some(&world.client(None))).await.unwrap();
    stream.write_all(b"12345").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut seen = [0; 8];
    let length = stream.peek(&mut seen).await.unwrap();
    assert_eq!(&seen[..length], b"somebody");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "somebody said 5");
}

#[tokio::test]
async fn a_client_shows_its_certificate_and_is_known_by_its_subject() {
    let world = World::new(ClientCertificates::Required);
    world.authority.issue(&Wanted::client("ann"), world.directory.path(), "ann");
    assert_eq!(world.say(&world.client(Some("ann")), b"x").await.unwrap(), "CN=ann said 1");
    let message = world.refusal(world.client(None)).await;
    assert!(message.contains("wants a client's certificate: give one with --tlscert and --tlskey"), "{message}");
    let optional = World::new(ClientCertificates::Optional);
    assert_eq!(optional.say(&optional.client(None), b"x").await.unwrap(), "somebody said 1");
}

#[tokio::test]
async fn a_client_whose_certificate_is_not_good_is_told_why() {
    let world = World::new(ClientCertificates::Required);
    let stranger = Authority::new("another authority");
    stranger.issue(&Wanted::client("mallory"), world.directory.path(), "mallory");
    let message = world.refusal(world.client(Some("mallory"))).await;
    assert!(message.contains("does not know the authority") && message.contains("mallory-cert.pem"), "{message}");
    world.authority.issue(&Wanted::client("old").expired(), world.directory.path(), "old");
    let message = world.refusal(world.client(Some("old"))).await;
    assert!(message.contains("has expired: ask for a new one"), "{message}");
    // A server's certificate is no client's.
    let message = world.refusal(world.client(Some("server"))).await;
    assert!(message.contains("does not accept this client's certificate"), "{message}");
}

#[tokio::test]
async fn a_revoked_certificate_opens_nothing_after_a_reload() {
    let world = World::new(ClientCertificates::Required);
    let serial = world.authority.issue(&Wanted::client("ann"), world.directory.path(), "ann");
    world.authority.issue(&Wanted::client("ben"), world.directory.path(), "ben");
    assert_eq!(world.say(&world.client(Some("ann")), b"x").await.unwrap(), "CN=ann said 1");
    world.authority.revoke(&serial, &world.directory.path().join("ca.pem"));
    world.tls.reload().unwrap();
    let message = world.refusal(world.client(Some("ann"))).await;
    assert!(message.contains("was revoked: ask for a new one"), "{message}");
    assert_eq!(world.say(&world.client(Some("ben")), b"x").await.unwrap(), "CN=ben said 1");
}

#[tokio::test]
async fn a_reload_of_what_cannot_be_used_changes_nothing() {
    let world = World::new(|_| ClientCertificates::None);
    let other = world.directory.path().join("server-key.pem");
    std::fs::write(&other, "nonsense").unwrap();
    let message = world.tls.reload().unwrap_err().to_string();
    assert!(message.contains("server-key.pem: there is no private key in it"), "{message}");
    assert!(world.say(&world.client(None), b"x").await.is_ok());
    world.authority.issue(&Wanted::client("ann"), world.directory.path(), "ann");
    std::fs::copy(world.directory.path().join("ann-key.pem"), &other).unwrap();
    let message = world.tls.reload().unwrap_err().to_string();
    assert!(message.contains("it is not the key of"), "{message}");
}

#[tokio::test]
async fn a_server_that_cannot_be_believed_is_told_with_the_way_out() {
    let world = World::new(|_| ClientCertificates::None);
    let stranger = world.directory.path().join("stranger.pem");
    Authority::new("another authority").write(&stranger);
    let wrong = ClientTls { verification: Verification::Authority(stranger), identity: None };
    let message = world.refusal(wrong).await;
    assert!(message.contains("unknown authority") && message.contains("--tlscacert"), "{message}");

    let expired = World::of(|_| ClientCertificates::None, |wanted| *wanted = wanted.clone().expired());
    let message = expired.refusal(expired.client(None)).await;
    assert!(message.contains("expired on 2001-01-01T00:00:00Z"), "{message}");

    let elsewhere = World::of(|_| ClientCertificates::None, |wanted| wanted.names = vec!["build.example".to_owned()]);
    let message = elsewhere.refusal(elsewhere.client(None)).await;
    assert!(message.contains("is for build.example, not for 127.0.0.1"), "{message}");
}

#[tokio::test]
async fn plain_http_to_a_tls_port_and_the_reverse_are_told_apart() {
    let world = World::new(|_| ClientCertificates::None);
    let client = HttpClient::new(world.endpoint.clone());
    let request = Request::get("/_ping").body(Full::<Bytes>::default()).unwrap();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.status(), 400);
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    assert_eq!(body, "Client sent an HTTP request to an HTTPS server.\n");

    let plain = Listener::bind(&"tcp://127.0.0.1:0".parse().unwrap(), &Access::local(0, None)).unwrap();
    let endpoint = plain.endpoint().clone();
    let answering = tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap().enter().await.unwrap();
        stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await.unwrap();
    });
    let message = refusal(&endpoint, Some(world.client(None))).await;
    assert!(message.contains("does not speak TLS there: leave --tls and --tlsverify out"), "{message}");
    answering.await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_cut_off_is_not_taken_for_one_that_ended() {
    let world = World::new(|_| ClientCertificates::None);
    let cut = Listener::bind(
        &"tcp://127.0.0.1:0".parse().unwrap(),
        &Access { mode: 0, group: None, protection: Protection::Tls(Arc::clone(&world.tls)) },
    )
    .unwrap();
    let endpoint = cut.endpoint().clone();
    let cutting = tokio::spawn(async move {
        let (mut stream, _) = cut.accept().await.unwrap().enter().await.unwrap();
        stream.write_all(b"half").await.unwrap();
        stream.flush().await.unwrap();
    });
    let mut stream = connect(&endpoint, Some(&world.client(None))).await.unwrap();
    let mut text = Vec::new();
    let error = stream.read_to_end(&mut text).await.unwrap_err();
    assert_eq!((text.as_slice(), error.kind()), (&b"half"[..], std::io::ErrorKind::UnexpectedEof));
    cutting.await.unwrap();
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_before_anybody_is_called() {
    let world = World::new(|_| ClientCertificates::None);
    let mut tls = world.client(Some("nobody"));
    let message = world.refusal(tls.clone()).await;
    assert!(message.contains("nobody-cert.pem: cannot read the certificate: no such file"), "{message}");
    tls.verification = Verification::Authority("/dev/null".into());
    let error = connect(&"tcp://192.0.2.1:1".parse().unwrap(), Some(&tls)).await.unwrap_err();
    assert!(matches!(error, Error::Certificate { .. }), "{error}");
}
