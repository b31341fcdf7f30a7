//! The writing half of the fake registry: sessions, mounts, manifests, and what may go wrong with them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Mutex;

use bytes::Bytes;
use gantry_api::reference::Digest;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::fake::{Reply, Seen};
use crate::image::digest;

/// Media type and bytes.
type Manifest = (String, Vec<u8>);

/// What was pushed, and how uploads misbehave.
#[derive(Default)]
pub struct Uploads {
    /// By repository and digest.
    pub blobs: Mutex<HashMap<(String, Digest), Vec<u8>>>,
    /// By repository and tag or digest.
    pub manifests: Mutex<HashMap<(String, String), Manifest>>,
    sessions: Mutex<HashMap<String, Vec<u8>>>,
    /// The next PATCHes break off after so many bytes; `None` lets one through.
    pub cuts: Mutex<VecDeque<Option<usize>>>,
    /// The next PATCHes say that they took so many bytes fewer, and did.
    pub forgets: Mutex<VecDeque<usize>>,
    /// Sessions are gone when a PATCH broke off.
    pub forgetful: Mutex<bool>,
    /// A manifest is listed among what refers to its subject.
    pub lists_referrers: Mutex<bool>,
    /// Blobs are not mounted.
    pub mounts_nothing: Mutex<bool>,
}

impl Uploads {
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        self.blobs.lock().unwrap().get(&(repository.to_owned(), digest.clone())).cloned()
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) {
        self.blobs.lock().unwrap().insert((repository.to_owned(), digest(bytes)), bytes.to_vec());
    }

    pub fn manifest(&self, repository: &str, tag: &str) -> Option<Manifest> {
        self.manifests.lock().unwrap().get(&(repository.to_owned(), tag.to_owned())).cloned()
    }

    /// What a request for this half is answered; `None` for others.
    pub async fn answer(&self, seen: &Seen, body: Incoming) -> io::Result<Option<Reply>> {
        let Some((repository, rest)) = split(&seen.path) else { return Ok(None) };
        if let Some(reply) = self.stored(&repository, &rest, seen) {
            return Ok(Some(reply));
        }
        Ok(Some(match (seen.method.as_str(), rest.as_str()) {
            ("POST", "blobs/uploads/") => self.begin(&repository, seen),
            ("GET", _) if rest.starts_with("blobs/uploads/") => self.progress(&repository, &rest),
            ("PATCH", _) => self.patch(&repository, &rest, body).await?,
            ("PUT", _) if rest.starts_with("blobs/uploads/") => {
                let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
                self.finish(&repository, &rest, seen, &bytes)
            }
            ("PUT", _) => {
                let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
                self.put_manifest(&repository, &rest, seen, &bytes)
            }
            _ => return Ok(None),
        }))
    }

    fn stored(&self, repository: &str, rest: &str, seen: &Seen) -> Option<Reply> {
        if !matches!(seen.method.as_str(), "GET" | "HEAD") {
            return None;
        }
        if let Some(digest) = rest.strip_prefix("blobs/").and_then(|text| text.parse::<Digest>().ok()) {
            return self.blob(repository, &digest).map(|bytes| Reply::new(200, bytes));
        }
        let (kind, bytes) = self.manifest(repository, rest.strip_prefix("manifests/")?)?;
        Some(Reply::new(200, bytes).header("content-type", kind))
    }

    fn begin(&self, repository: &str, seen: &Seen) -> Reply {
        let query: HashMap<String, String> = pairs(&seen.query);
        if let (Some(mount), Some(from)) = (query.get("mount"), query.get("from"))
            && let Ok(digest) = mount.parse::<Digest>()
            && !*self.mounts_nothing.lock().unwrap()
            && let Some(bytes) = self.blob(from, &digest)
        {
            self.put_blob(repository, &bytes);
            return Reply::new(201, "").header("location", format!("/v2/{repository}/blobs/{digest}"));
        }
        let mut sessions = self.sessions.lock().unwrap();
        let id = format!("session-{}", sessions.len());
        sessions.insert(id.clone(), Vec::new());
        Reply::new(202, "").header("location", location(repository, &id, 0))
    }

    fn progress(&self, repository: &str, rest: &str) -> Reply {
        let id = id(rest);
        match self.sessions.lock().unwrap().get(id) {
            Some(bytes) => Reply::new(204, "")
                .header("range", format!("0-{}", bytes.len().saturating_sub(1)))
                .header("location", location(repository, id, bytes.len())),
            None => Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
        }
    }

    async fn patch(&self, repository: &str, rest: &str, mut body: Incoming) -> io::Result<Reply> {
        let id = id(rest).to_owned();
        if !self.sessions.lock().unwrap().contains_key(&id) {
            return Ok(Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"));
        }
        let cut = self.cuts.lock().unwrap().pop_front().flatten();
        let mut taken = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
            let keep = cut.map_or(data.len(), |cut| data.len().min(cut - taken));
            taken += keep;
            if let Some(bytes) = self.sessions.lock().unwrap().get_mut(&id) {
                bytes.extend_from_slice(&data[..keep]);
            }
            if cut == Some(taken) {
                if *self.forgetful.lock().unwrap() {
                    self.sessions.lock().unwrap().remove(&id);
                }
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
        let forgotten = self.forgets.lock().unwrap().pop_front().unwrap_or(0);
        let mut sessions = self.sessions.lock().unwrap();
        let bytes = sessions.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        bytes.truncate(bytes.len() - forgotten);
        Ok(Reply::new(202, "")
            .header("range", format!("0-{}", bytes.len().saturating_sub(1)))
            .header("location", location(repository, &id, bytes.len())))
    }

    fn finish(&self, repository: &str, rest: &str, seen: &Seen, last: &Bytes) -> Reply {
        let Some(mut bytes) = self.sessions.lock().unwrap().remove(id(rest)) else {
            return Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
        };
        bytes.extend_from_slice(last);
        let wanted = pairs(&seen.query).remove("digest").unwrap_or_default();
        if digest(&bytes).as_str() != wanted {
            return Reply::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
        }
        self.put_blob(repository, &bytes);
        Reply::new(201, "").header("location", format!("/v2/{repository}/blobs/{wanted}"))
    }

    /// As registries do that look: what a manifest names must be there.
    fn put_manifest(&self, repository: &str, rest: &str, seen: &Seen, raw: &Bytes) -> Reply {
        let Some(tag) = rest.strip_prefix("manifests/") else { return Reply::new(404, "") };
        let kind = seen.header("content-type").unwrap_or_default().to_owned();
        let parsed: serde_json::Value = serde_json::from_slice(raw).unwrap();
        let named = |key: &str| parsed[key].as_array().cloned().unwrap_or_default();
        let digest_in = |value: &serde_json::Value| value["digest"].as_str().unwrap().to_owned();
        for blob in named("layers").iter().chain(parsed.get("config")) {
            if self.blob(repository, &digest_in(blob).parse().unwrap()).is_none() {
                return Reply::error(400, "MANIFEST_BLOB_UNKNOWN", &format!("no {}", digest_in(blob)));
            }
        }
        for manifest in &named("manifests") {
            if self.manifest(repository, &digest_in(manifest)).is_none() {
                return Reply::error(400, "MANIFEST_BLOB_UNKNOWN", &format!("no {}", digest_in(manifest)));
            }
        }
        let digest = digest(raw);
        let mut manifests = self.manifests.lock().unwrap();
        for name in [tag.to_owned(), digest.to_string()] {
            manifests.insert((repository.to_owned(), name), (kind.clone(), raw.to_vec()));
        }
        let reply = Reply::new(201, "").header("docker-content-digest", digest.to_string());
        match parsed["subject"]["digest"].as_str().filter(|_| *self.lists_referrers.lock().unwrap()) {
            Some(subject) => reply.header("oci-subject", subject),
            None => reply,
        }
    }
}

fn location(repository: &str, id: &str, state: usize) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}?_state={state}")
}

fn id(rest: &str) -> &str {
    rest.strip_prefix("blobs/uploads/").unwrap_or_default()
}

/// Repository and the rest of a path.
fn split(path: &str) -> Option<(String, String)> {
    let path = path.strip_prefix("/v2/")?;
    let at = path.find("/blobs/").or_else(|| path.find("/manifests/"))?;
    Some((path[..at].to_owned(), path[at + 1..].to_owned()))
}

fn pairs(query: &str) -> HashMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://x/?{query}")).unwrap();
    url.query_pairs().into_owned().collect()
}
