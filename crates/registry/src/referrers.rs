//! What refers to a manifest: signatures, bills of materials. Registries list that, or, where they do not know such lists, have an index
//! under a tag in their place, which whoever pushes keeps (OCI distribution 1.1).

use gantry_api::reference::Digest;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::bounded;
use crate::manifest::{DOCUMENT_LIMIT, OCI_INDEX, digest_of};
use crate::session::Session;
use crate::tags::next;
use crate::{Descriptor, Document, Error, Result};

/// Pages of a list that are read.
const PAGES: usize = 8;
const SUBJECT: &str = "list of referrers";

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Session {
    /// What refers to a manifest, as far as it is told at once.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let (mut found, mut query) = (Vec::new(), None);
        for _ in 0..PAGES {
            let query_part = query.map_or_else(String::new, |query| format!("?{query}"));
            let path = format!("referrers/{subject}{query_part}");
            let answer = match self.patiently(|| self.send(Method::GET, &path, 0)).await {
                Ok(answer) => answer,
                Err(error) if knows_no_lists(&error) => {
                    let index = self.referrers_index(subject).await?;
                    return index.map_or_else(|| Ok(Vec::new()), |raw| Ok(read(&raw)?.manifests));
                }
                Err(error) => return Err(error),
            };
            query = next(answer.url(), answer.headers());
            found.extend(read(&bounded(answer, DOCUMENT_LIMIT, SUBJECT).await?)?.manifests);
            if query.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// The index that stands in place of the list; `None` where there is none yet.
    pub async fn referrers_index(&self, subject: &Digest) -> Result<Option<Vec<u8>>> {
        let path = format!("manifests/{}", tag_of(subject));
        let answer = match self.patiently(|| self.send(Method::GET, &path, 0)).await {
            Ok(answer) => answer,
            Err(Error::ManifestUnknown { .. } | Error::NameUnknown { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        bounded(answer, DOCUMENT_LIMIT, SUBJECT).await.map(Some)
    }
}

/// The tag of the index that stands in place of a list.
pub fn tag_of(subject: &Digest) -> String {
    subject.as_str().replace(':', "-")
}

/// The index with one referrer more, as it is to be stored; `None` where it has it.
pub fn with_referrer(index: Option<&[u8]>, referrer: &Value) -> Result<Option<Document>> {
    let invalid = |reason: String| Error::invalid(SUBJECT, reason);
    let mut index = match index {
        Some(raw) => serde_json::from_slice(raw).map_err(|error| invalid(error.to_string()))?,
        None => json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
    };
    let is_other = || invalid("what has its tag is no index, and is left as it is".to_owned());
    let entries = index.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(is_other)?;
    if entries.iter().any(|entry| entry["digest"] == referrer["digest"]) {
        return Ok(None);
    }
    entries.push(referrer.clone());
    let raw = serde_json::to_vec(&index).map_err(|error| invalid(error.to_string()))?;
    let descriptor = Descriptor { media_type: OCI_INDEX.to_owned(), digest: digest_of(&raw), size: raw.len() as u64 };
    Ok(Some(Document { descriptor, raw }))
}

fn read(raw: &[u8]) -> Result<List> {
    serde_json::from_slice(raw).map_err(|error| Error::invalid(SUBJECT, error.to_string()))
}

/// Whether it is the answer of a registry that does not know the path.
fn knows_no_lists(error: &Error) -> bool {
    let unknown = [StatusCode::BAD_REQUEST, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
    match error {
        Error::BlobUnknown { .. } | Error::NameUnknown { .. } | Error::ManifestUnknown { .. } => true,
        Error::Status { status, .. } => unknown.contains(status),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referrer_is_added_once_and_what_else_the_index_says_stays() {
        let subject = digest_of(b"subject");
        assert_eq!(tag_of(&subject), format!("sha256-{}", subject.hex()));
        let one = json!({"mediaType": "m", "digest": digest_of(b"one"), "size": 3, "artifactType": "a"});
        let first = with_referrer(None, &one).unwrap().unwrap();
        assert!(with_referrer(Some(&first.raw), &one).unwrap().is_none());
        let mut index: Value = serde_json::from_slice(&first.raw).unwrap();
        index["annotations"] = json!({"of": "others"});
        let two = json!({"mediaType": "m", "digest": digest_of(b"two"), "size": 3});
        let second = with_referrer(Some(index.to_string().as_bytes()), &two).unwrap().unwrap();
        let index: Value = serde_json::from_slice(&second.raw).unwrap();
        assert_eq!((&index["manifests"], &index["annotations"]["of"]), (&json!([one, two]), &json!("others")));
        for other in ["{}", r#"{"layers":[]}"#, r#"{"manifests":1}"#, "no"] {
            with_referrer(Some(other.as_bytes()), &one).unwrap_err();
        }
    }
}
