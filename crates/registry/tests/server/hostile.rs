//! Whatever a client says: ranges, manifests, and uploads in any order of requests.

use std::path::Path;

use bytes::Bytes;
use gantry_registry::server::{self, Algorithm, Chunk, Code, Digest, Document, Name, UploadId, Uploads};
use http_body_util::Full;
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_content_range_is_understood_or_refused_and_never_overflows(text in "(bytes[ =]?)?[0-9]{0,21}-?[0-9]{0,21}(/([*]|[0-9]{1,3}))?") {
        if let Some(chunk) = Chunk::parse(&text) {
            prop_assert!(chunk.length > 0 && chunk.offset.checked_add(chunk.length).is_some());
            let last = chunk.offset + chunk.length - 1;
            prop_assert_eq!(Chunk::parse(&format!("{}-{last}", chunk.offset)), Some(chunk));
        }
    }

    #[test]
    fn whatever_is_pushed_as_a_manifest_is_read_without_a_panic_and_is_one_thing(
        words in prop::collection::vec(
            "\"(config|layers|manifests|blobs|mediaType|schemaVersion|subject|digest|size)\"|[\\[\\]{}:,0-9]|null|\"[a-z]{0,5}\"",
            0..40,
        ),
        kind in "(application/vnd.oci.image.(manifest|index).v1[+]json)?",
    ) {
        let text = format!("{{{}}}", words.concat());
        if let Ok(document) = Document::read(text.as_bytes(), Some(&kind)) {
            prop_assert!(document.blobs.is_empty() || document.manifests.is_empty());
        }
    }
}

/// One request to an upload.
#[derive(Debug, Clone)]
enum Step {
    /// Without a range.
    Append(Vec<u8>),
    /// With one, that begins so much beside the upload's end and says so many bytes more than there are.
    Chunk(i64, Vec<u8>, i64),
    FinishRight(Vec<u8>),
    FinishWrong,
    Cancel,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        4 => bytes().prop_map(Step::Append),
        6 => (-1_i64..=1, bytes(), -1_i64..=1).prop_map(|(beside, bytes, more)| Step::Chunk(beside, bytes, more)),
        1 => bytes().prop_map(Step::FinishRight),
        1 => Just(Step::FinishWrong),
        1 => Just(Step::Cancel),
        3 => Just(Step::Restart),
    ]
}

fn body(bytes: &[u8]) -> Full<Bytes> {
    Full::new(Bytes::copy_from_slice(bytes))
}

/// Does the steps beside a model: the bytes that are there; none when the upload has ended.
async fn live_through(steps: Vec<Step>, algorithm: Algorithm) {
    let directory = tempfile::tempdir().unwrap();
    let open = || Uploads::open(directory.path().to_owned()).unwrap();
    let name: Name = "a/b".parse().unwrap();
    let mut uploads = open();
    let id: UploadId = uploads.start(&name, algorithm).await.unwrap().id.clone();
    let mut model = Some(Vec::new());
    for step in steps {
        let found = uploads.find(&name, &id).await;
        let (Some(there), Ok(session)) = (&mut model, &found) else {
            assert!(model.is_none(), "the upload has gone before {step:?}");
            assert_eq!(found.unwrap_err().code, Code::BlobUploadUnknown, "{step:?}");
            continue;
        };
        assert_eq!(session.size().await.unwrap(), there.len() as u64, "before {step:?}");
        match step {
            Step::Append(bytes) => {
                there.extend(&bytes);
                assert_eq!(uploads.append(session, body(&bytes), None).await.unwrap(), there.len() as u64);
            }
            Step::Chunk(beside, bytes, more) => {
                let offset = there.len() as i64 + beside;
                let length = bytes.len() as i64 + more;
                if offset < 0 || length < 1 {
                    continue;
                }
                let chunk = Chunk { offset: offset as u64, length: length as u64 };
                let appended = uploads.append(session, body(&bytes), Some(chunk)).await;
                match (beside, more) {
                    (0, 0) => assert_eq!(appended.unwrap(), (there.len() + bytes.len()) as u64),
                    (0, _) => assert_eq!(appended.unwrap_err().code, Code::SizeInvalid),
                    _ => assert_eq!(appended.unwrap_err().code, Code::RangeInvalid),
                }
                // What came before it was seen to be too little is kept; what is too much is not taken.
                if beside == 0 && more >= 0 {
                    there.extend(&bytes);
                }
            }
            Step::FinishRight(bytes) => {
                there.extend(&bytes);
                let digest = Digest::of(algorithm, there);
                let keep = async |staged: &Path, size: u64| -> server::Result<()> {
                    assert_eq!((std::fs::read(staged).unwrap(), size), (there.clone(), there.len() as u64));
                    Ok(())
                };
                uploads.finish(session, body(&bytes), None, &digest, keep).await.unwrap();
                model = None;
            }
            Step::FinishWrong => {
                let keep = async |_: &Path, _: u64| -> server::Result<()> { panic!("what is wrong is kept") };
                let wrong = Digest::of(Algorithm::Sha512, b"something else");
                let finished = uploads.finish(session, body(b""), None, &wrong, keep).await;
                assert_eq!(finished.unwrap_err().code, Code::DigestInvalid);
                model = None;
            }
            Step::Cancel => {
                uploads.cancel(session).await.unwrap();
                model = None;
            }
            Step::Restart => uploads = open(),
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), usize::from(model.is_some()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_upload_is_what_came_whatever_the_order_of_requests(
        steps in prop::collection::vec(step(), 1..20),
        long in any::<bool>(),
    ) {
        let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(live_through(steps, algorithm));
    }
}
