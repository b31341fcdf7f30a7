//! One layer's blob: streamed, hashed as it comes, taken up again where it broke off, and declared whole only when it is.

use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, Response, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::backoff::Backoff;
use crate::http::{network, shown};
use crate::manifest::finish;
use crate::pipe::Writer;
use crate::progress::LayerReport;
use crate::session::Session;
use crate::{Descriptor, Error, Result};

/// Attempts that bring nothing.
const ATTEMPTS: u32 = 5;

struct Download<'a> {
    session: &'a Session,
    descriptor: &'a Descriptor,
    report: &'a LayerReport,
    writer: &'a Writer,
    hash: Sha256,
    received: u64,
}

enum End {
    /// The answer ended.
    Answer,
    /// Nobody reads any more.
    Reader,
}

/// Downloads `descriptor` into `writer`. False when its reader went away.
pub async fn blob(session: &Session, descriptor: &Descriptor, report: &LayerReport, writer: Writer) -> Result<bool> {
    let mut download = Download { session, descriptor, report, writer: &writer, hash: Sha256::new(), received: 0 };
    let mut backoff = Backoff::new(session.pause(), ATTEMPTS);
    while download.received < descriptor.size {
        let before = download.received;
        let error = match download.attempt().await {
            Ok(End::Reader) => return Ok(false),
            Ok(End::Answer) if download.received == descriptor.size => break,
            Ok(End::Answer) => download.truncated(),
            Err(error) => error,
        };
        if download.received > before {
            backoff.reset();
        }
        let pause = backoff.pause(error)?;
        if pause.as_secs() > 0 {
            let unit = if pause.as_secs() == 1 { "second" } else { "seconds" };
            report.state(format!("Retrying in {} {unit}", pause.as_secs()));
        }
        tokio::time::sleep(pause).await;
    }
    let found = finish(download.hash);
    if found != descriptor.digest {
        let subject = "filesystem layer";
        return Err(Error::Digest { subject, expected: descriptor.digest.clone(), found: found.to_string() });
    }
    report.exactly("Downloading", descriptor.size);
    Ok(writer.verified().await)
}

impl Download<'_> {
    async fn attempt(&mut self) -> Result<End> {
        let path = format!("blobs/{}", self.descriptor.digest);
        let mut answer = self.session.send(Method::GET, &path, self.received).await?;
        // A registry that does not know ranges sends all of it again.
        let mut skip = if self.received == 0 || is_continued(&answer, self.received)? { 0 } else { self.received };
        let url = answer.url().clone();
        while let Some(mut chunk) = answer.chunk().await.map_err(|error| network(&Method::GET, &url, &error))? {
            if skip > 0 {
                let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
                skip -= known as u64;
                drop(chunk.split_to(known));
            }
            if chunk.is_empty() {
                continue;
            }
            self.received += chunk.len() as u64;
            if self.received > self.descriptor.size {
                return Err(self.too_long());
            }
            self.hash.update(&chunk);
            if !self.writer.data(chunk).await {
                return Ok(End::Reader);
            }
            self.report.so_far("Downloading", self.received);
        }
        Ok(End::Answer)
    }

    fn truncated(&self) -> Error {
        let reason = format!("unexpected EOF after {} of {} bytes", self.received, self.descriptor.size);
        let url = shown(&self.session.url(&format!("blobs/{}", self.descriptor.digest)));
        Error::Network { method: "Get", url, reason }
    }

    fn too_long(&self) -> Error {
        let found = format!("more than the {} bytes that the manifest says", self.descriptor.size);
        Error::Digest { subject: "filesystem layer", expected: self.descriptor.digest.clone(), found }
    }
}

/// Whether the answer goes on at byte `from`, rather than beginning anew.
fn is_continued(answer: &Response, from: u64) -> Result<bool> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(false);
    }
    let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let start =
        range.strip_prefix("bytes ").and_then(|rest| rest.split('-').next()).and_then(|n| n.parse::<u64>().ok());
    if start == Some(from) {
        return Ok(true);
    }
    Err(Error::invalid("answer of the registry", format!("byte {from} was asked for, and it sent range {range:.80?}")))
}
