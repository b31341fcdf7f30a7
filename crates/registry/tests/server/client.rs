//! A client that says exactly what it is told to, and sees exactly what comes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use gantry_registry::server::{Algorithm, Digest};
use serde_json::{Value, json};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A connection per request.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    pub port: u16,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of the error that it tells.
    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }
}

impl Client {
    pub fn send(self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut connection = self.begin(method, path, headers, body.len() as u64);
        connection.write_all(body).unwrap();
        answer(connection, method == "HEAD")
    }

    pub fn get(self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    /// The head of a request whose body will have so many bytes.
    pub fn begin(self, method: &str, path: &str, headers: &[(&str, &str)], length: u64) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        if length > 0 || !matches!(method, "GET" | "HEAD") {
            head += &format!("Content-Length: {length}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream
    }

    /// A body in chunks of HTTP, whose length nobody said before.
    pub fn stream(self, method: &str, path: &str, headers: &[(&str, &str)], parts: &[&[u8]]) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        for part in parts {
            stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).unwrap();
            stream.write_all(part).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        answer(stream, false)
    }

    /// Begins an upload and returns where it goes on.
    pub fn start(self, name: &str) -> String {
        let answer = self.send("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"").expect(202);
        answer.header("location").to_owned()
    }

    /// Pushes a blob in one request.
    pub fn blob(self, name: &str, content: &[u8]) -> Digest {
        let digest = sha256(content);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.send("POST", &path, &[("Content-Type", "application/octet-stream")], content).expect(201);
        digest
    }

    pub fn manifest(self, name: &str, target: &str, kind: &str, manifest: &Value) -> Answer {
        let path = format!("/v2/{name}/manifests/{target}");
        self.send("PUT", &path, &[("Content-Type", kind)], manifest.to_string().as_bytes())
    }

    /// Pushes an image of one layer and returns its manifest.
    pub fn image(self, name: &str, tag: &str, layer: &[u8]) -> Value {
        let config = format!(r#"{{"os":"linux","of":"{}"}}"#, sha256(layer)).into_bytes();
        self.blob(name, &config);
        self.blob(name, layer);
        let manifest = image(&config, &[layer]);
        self.manifest(name, tag, OCI_MANIFEST, &manifest).expect(201);
        manifest
    }

    /// The codes and states of blobs of a repository.
    pub fn has(self, name: &str, digest: &Digest) -> bool {
        match self.send("HEAD", &format!("/v2/{name}/blobs/{digest}"), &[], b"").status {
            200 => true,
            404 => false,
            other => panic!("status {other}"),
        }
    }
}

pub fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

pub fn digest_of(document: &Value) -> Digest {
    sha256(document.to_string().as_bytes())
}

pub fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": sha256(content), "size": content.len() })
}

pub fn image(config: &[u8], layers: &[&[u8]]) -> Value {
    let layer = |layer: &&[u8]| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer);
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

/// Reads an answer to its end.
pub fn answer(stream: TcpStream, head: bool) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {line:?}")).parse().unwrap();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    if !head {
        reader.read_to_end(&mut body).unwrap();
        if let Some(length) = headers.get("content-length") {
            assert_eq!(body.len().to_string(), *length, "the body has another length than was said");
        }
    }
    Answer { status, headers, body }
}
