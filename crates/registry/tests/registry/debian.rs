//! Against Debian's `docker-registry`, which is the reference implementation of the protocol.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_transport::{Endpoint, HttpClient};
use http::Request;
use http_body_util::Full;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener as TokioListener, TcpStream};
use tokio::task::JoinHandle;

use crate::image::{Image, digest, noise};
use crate::push::{made, push};
use crate::store::pull;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

/// Says that a test did not run, where nobody overlooks it.
#[allow(clippy::print_stderr, reason = "it is for the person who runs the tests")]
pub fn skipped(program: &str) {
    eprintln!("SKIPPED: {program} is not installed: cargo xtask test installs it");
}

struct Server {
    child: Child,
    client: HttpClient,
    name: String,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start() -> Option<Server> {
    let directory = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let configuration = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
        directory.path().display()
    );
    let path = directory.path().join("config.yml");
    std::fs::write(&path, configuration).unwrap();
    let mut command = Command::new("docker-registry");
    let child = command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    let endpoint = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port };
    let client = HttpClient::new(endpoint);
    let server = Server { child, client, name: format!("127.0.0.1:{port}"), _directory: directory };
    let end = Instant::now() + Duration::from_secs(10);
    while server.client.request(request("GET", "/v2/", "", Bytes::new())).await.is_err() {
        assert!(Instant::now() < end, "docker-registry does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Some(server)
}

fn request(method: &str, path: &str, kind: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).header("content-type", kind).body(Full::new(body)).unwrap()
}

impl Server {
    async fn push(&self, repository: &str, tag: &str, image: &Image) {
        for (digest, blob) in image.blobs() {
            let start = request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", Bytes::new());
            let answer = self.client.request(start).await.unwrap();
            let location = answer.headers()["location"].to_str().unwrap();
            let joint = if location.contains('?') { '&' } else { '?' };
            let upload =
                request("PUT", &format!("{location}{joint}digest={digest}"), "application/octet-stream", blob.into());
            assert_eq!(self.client.request(upload).await.unwrap().status(), 201);
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        let manifest = request("PUT", &path, image.media_type(), image.manifest.clone().into());
        assert_eq!(self.client.request(manifest).await.unwrap().status(), 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_registry_is_understood() {
    let Some(server) = start().await else { return skipped("docker-registry") };
    for (tag, image) in [("oci", Image::oci(4)), ("docker", Image::schema2(4))] {
        let image = image.without_urls();
        server.push("team/app", tag, &image).await;
        let name = format!("{}/team/app:{tag}", server.name);
        let outcome = pull(&name).await;
        assert_eq!(outcome.result.as_ref().unwrap().digest, image.digest());
        assert_eq!(outcome.store.layers.lock().unwrap()[&digest(&image.layers[3])], image.layers[3]);
        let by_digest = format!("{}/team/app@{}", server.name, image.digest());
        assert_eq!(pull(&by_digest).await.result.unwrap().id, image.id());
    }
    let name = format!("{}/team/app:none", server.name);
    let error = pull(&name).await.error();
    assert_eq!(error, format!("manifest for {name} not found: manifest unknown: manifest unknown"));
    let name = format!("{}/team/none:1", server.name);
    let error = pull(&name).await.error();
    assert!(error.contains("not found"), "{error}");
}

/// What went a way that is cut.
#[derive(Default)]
pub struct Traffic {
    pub cuts: AtomicUsize,
    /// Towards the server.
    pub bytes: AtomicUsize,
}

/// A way to a server that breaks off the first connections after so many bytes.
pub async fn cutting(to: String, limit: usize, cuts: usize) -> (SocketAddr, Arc<Traffic>, JoinHandle<()>) {
    let listener = TokioListener::bind("127.0.0.1:0").await.unwrap();
    let (address, traffic) = (listener.local_addr().unwrap(), Arc::<Traffic>::default());
    let counted = Arc::clone(&traffic);
    let task = tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (to, traffic) = (to.clone(), Arc::clone(&counted));
            let limit = if traffic.cuts.load(Ordering::SeqCst) < cuts { limit } else { usize::MAX };
            tokio::spawn(async move {
                // A server that is down is a connection that breaks off.
                let Ok(far) = TcpStream::connect(to).await else { return };
                let ((mut near_reads, mut near_writes), (mut far_reads, mut far_writes)) =
                    (near.into_split(), far.into_split());
                let back = tokio::spawn(async move { tokio::io::copy(&mut far_reads, &mut near_writes).await });
                let (mut buffer, mut left) = (vec![0; 16 << 10], limit);
                while let Ok(length @ 1..) = near_reads.read(&mut buffer).await {
                    let length = length.min(left);
                    left -= length;
                    traffic.bytes.fetch_add(length, Ordering::SeqCst);
                    if far_writes.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                    if left == 0 {
                        traffic.cuts.fetch_add(1, Ordering::SeqCst);
                        break;
                    }
                }
                back.abort();
            });
        }
    });
    (address, traffic, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_registry_which_forgets_a_session_that_was_cut_is_pushed_to_all_the_same() {
    let Some(server) = start().await else { return skipped("docker-registry") };
    let (address, traffic, task) = cutting(server.name.clone(), 700_000, 2).await;
    let (image, store) = made(&[noise(1, 3_000_000)]);
    let outcome = push(&format!("{address}/team/app:1"), image, &store).await;
    let root = outcome.pushed().root.digest.clone();
    task.abort();
    assert_eq!(traffic.cuts.load(Ordering::SeqCst), 2);
    let request = Request::builder().uri(format!("/v2/team/app/manifests/{root}")).header("accept", OCI);
    let answer = server.client.request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
}
