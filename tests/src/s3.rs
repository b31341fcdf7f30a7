//! A bucket on loopback, in this process: as much of S3's protocol as the registry speaks, and failures where a test wants them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

/// The key that opens it.
pub const KEY: &str = "gantry-test-key";
/// What it is called.
pub const BUCKET: &str = "images";
/// S3 refuses smaller parts but for the last one.
const LEAST_PART: usize = 5 << 20;
/// Keys in one answer: few, so that lists have pages.
const PAGE: usize = 3;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// The object's name; empty for the bucket itself.
    pub key: String,
    /// Its query.
    pub query: BTreeMap<String, String>,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An answer with this status.
    Status(u16),
    /// The connection is closed without one.
    Cut,
    /// An answer as MinIO's when there is no space.
    Full,
}

/// Says of a request whether something goes wrong with it.
pub type Rule = Box<dyn Fn(&Request) -> Option<Fault> + Send + Sync>;

#[derive(Clone)]
struct Object {
    bytes: Arc<Vec<u8>>,
    written: SystemTime,
}

struct Upload {
    key: String,
    began: SystemTime,
    parts: BTreeMap<usize, Vec<u8>>,
}

#[derive(Default)]
struct State {
    objects: Mutex<BTreeMap<String, Object>>,
    uploads: Mutex<HashMap<String, Upload>>,
    rule: Mutex<Option<Rule>>,
    connections: Mutex<Vec<TcpStream>>,
    next: AtomicU64,
    stopped: AtomicBool,
}

/// A bucket. It goes when this is dropped.
pub struct Bucket {
    port: u16,
    state: Arc<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bucket {
    /// An empty one.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        let accepting = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.stopped.load(Ordering::Acquire) {
                    return;
                }
                lock(&accepting.connections).extend(stream.try_clone());
                let state = Arc::clone(&accepting);
                // A client that goes away ends its connection, which is no fault.
                std::thread::spawn(move || state.serve(stream).ok());
            }
        });
        Ok(Self { port, state })
    }

    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What goes wrong from now on.
    pub fn fail(&self, rule: Option<Rule>) {
        *lock(&self.state.rule) = rule;
    }

    /// The names of everything that is there.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        lock(&self.state.objects).keys().cloned().collect()
    }

    /// Uploads in parts that were neither completed nor given up.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        lock(&self.state.uploads).len()
    }

    /// Puts something there behind everybody's back.
    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        self.state.put(key, bytes, SystemTime::now());
    }

    /// Makes something older.
    pub fn age(&self, key: &str, by: Duration) {
        if let Some(object) = lock(&self.state.objects).get_mut(key) {
            object.written -= by;
        }
    }

    /// Removes something behind everybody's back.
    pub fn remove(&self, key: &str) {
        lock(&self.state.objects).remove(key);
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Release);
        // Wakes whoever accepts; who cannot be reached does not wait either.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        for connection in lock(&self.state.connections).drain(..) {
            connection.shutdown(Shutdown::Both).ok();
        }
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn of(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn xml(text: String) -> Self {
        Self { body: text.into_bytes(), ..Self::of(200) }.with("Content-Type", "application/xml".to_owned())
    }

    fn error(status: u16, code: &str) -> Self {
        let text = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
        Self { status, ..Self::xml(text) }
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        while let Some(request) = read(&mut reader)? {
            let fault = lock(&self.rule).as_ref().and_then(|rule| rule(&request));
            let answer = match fault {
                Some(Fault::Cut) => return stream.shutdown(Shutdown::Both),
                Some(Fault::Status(status)) => Answer::error(status, "Refused"),
                Some(Fault::Full) => Answer::error(507, "XMinioStorageFull"),
                None => self.answer(&request),
            };
            let Answer { status, headers, body } = answer;
            let mut head = format!("HTTP/1.1 {status} X\r\n");
            if !headers.iter().any(|(name, _)| *name == "Content-Length") {
                head += &format!("Content-Length: {}\r\n", body.len());
            }
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            // In one piece, or the kernel waits between the two.
            let mut bytes = format!("{head}\r\n").into_bytes();
            if request.method != "HEAD" {
                bytes.extend(body);
            }
            stream.write_all(&bytes)?;
        }
        Ok(())
    }

    fn answer(&self, request: &Request) -> Answer {
        let says = |name: &str| request.headers.get(name).map_or("", String::as_str);
        if !says("authorization").contains(&format!("Credential={KEY}/")) {
            return Answer::error(403, "InvalidAccessKeyId");
        }
        if says("x-amz-content-sha256") != hex(&request.body) {
            return Answer::error(400, "XAmzContentSHA256Mismatch");
        }
        let upload = request.query.get("uploadId");
        match (request.method.as_str(), request.key.as_str(), upload) {
            ("GET", "", _) => self.list(&request.query),
            ("PUT", key, None) => {
                self.put(key, request.body.clone(), SystemTime::now());
                Answer::of(200).with("ETag", etag(&request.body))
            }
            ("GET" | "HEAD", key, None) => self.get(key, request),
            ("DELETE", key, None) => {
                lock(&self.objects).remove(key);
                Answer::of(204)
            }
            ("POST", key, None) if request.query.contains_key("uploads") => self.begin(key),
            ("PUT", _, Some(id)) => self.part(id, request),
            ("POST", _, Some(id)) => self.complete(id, &request.body),
            ("DELETE", _, Some(id)) => {
                lock(&self.uploads).remove(id);
                Answer::of(204)
            }
            _ => Answer::error(501, "NotImplemented"),
        }
    }

    fn put(&self, key: &str, bytes: Vec<u8>, written: SystemTime) {
        lock(&self.objects).insert(key.to_owned(), Object { bytes: Arc::new(bytes), written });
    }

    fn get(&self, key: &str, request: &Request) -> Answer {
        let Some(object) = lock(&self.objects).get(key).cloned() else { return Answer::error(404, "NoSuchKey") };
        let size = object.bytes.len();
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let described =
            |answer: Answer| answer.with("ETag", etag(&object.bytes)).with("Last-Modified", http_date(object.written));
        let Some((first, last)) = range else {
            let answer = Answer { body: object.bytes.to_vec(), ..Answer::of(200) };
            return described(answer).with("Content-Length", size.to_string());
        };
        let (first, last) =
            (first.parse().unwrap_or(0), last.parse().unwrap_or(usize::MAX).min(size.saturating_sub(1)));
        if first >= size || first > last {
            return Answer::error(416, "InvalidRange");
        }
        let body = object.bytes[first..=last].to_vec();
        described(Answer { body, ..Answer::of(206) }).with("Content-Range", format!("bytes {first}-{last}/{size}"))
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Answer {
        let says = |name: &str| query.get(name).map_or("", String::as_str);
        let (prefix, after) = (says("prefix"), says("continuation-token"));
        let mut entries = BTreeMap::new();
        for (key, object) in &*lock(&self.objects) {
            let Some(rest) = key.strip_prefix(prefix) else { continue };
            match rest.split_once('/').filter(|_| says("delimiter") == "/") {
                Some((folder, _)) => drop(entries.insert(format!("{prefix}{folder}/"), None)),
                None => drop(entries.insert(key.clone(), Some(object.clone()))),
            }
        }
        let mut later = entries.into_iter().filter(|(name, _)| name.as_str() > after);
        let page: Vec<_> = later.by_ref().take(PAGE).collect();
        let mut text = format!("<ListBucketResult><Name>{BUCKET}</Name><KeyCount>{}</KeyCount>", page.len());
        let more = later.next().is_some();
        text += &format!("<IsTruncated>{more}</IsTruncated>");
        if let (true, Some((last, _))) = (more, page.last()) {
            text += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
        }
        for (name, object) in page {
            text += &match object {
                None => format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"),
                Some(object) => format!(
                    "<Contents><Key>{name}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
                    iso_date(object.written),
                    etag(&object.bytes),
                    object.bytes.len()
                ),
            };
        }
        Answer::xml(text + "</ListBucketResult>")
    }

    fn begin(&self, key: &str) -> Answer {
        let id = format!("upload-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let upload = Upload { key: key.to_owned(), began: SystemTime::now(), parts: BTreeMap::new() };
        lock(&self.uploads).insert(id.clone(), upload);
        Answer::xml(format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
    }

    fn part(&self, id: &str, request: &Request) -> Answer {
        let number = request.query.get("partNumber").and_then(|number| number.parse().ok());
        match (lock(&self.uploads).get_mut(id), number) {
            (Some(upload), Some(number)) => {
                let tag = etag(&request.body);
                upload.parts.insert(number, request.body.clone());
                Answer::of(200).with("ETag", tag)
            }
            _ => Answer::error(404, "NoSuchUpload"),
        }
    }

    /// The object is as old as the beginning of its upload, as at AWS.
    fn complete(&self, id: &str, wanted: &[u8]) -> Answer {
        let Some(upload) = lock(&self.uploads).remove(id) else { return Answer::error(404, "NoSuchUpload") };
        let wanted = String::from_utf8_lossy(wanted).replace("&quot;", "\"");
        let tags: BTreeSet<_> = upload.parts.values().map(|part| etag(part)).collect();
        if wanted.matches("<PartNumber>").count() != upload.parts.len() || !tags.iter().all(|tag| wanted.contains(tag))
        {
            return Answer::error(400, "InvalidPart");
        }
        let last = upload.parts.len();
        if upload.parts.iter().any(|(number, part)| *number != last && part.len() < LEAST_PART) {
            return Answer::error(400, "EntityTooSmall");
        }
        let bytes = upload.parts.into_values().flatten().collect::<Vec<u8>>();
        let tag = etag(&bytes);
        self.put(&upload.key, bytes, upload.began);
        Answer::xml(format!("<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"))
    }
}

/// The next request of a connection; none when there is no more.
fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut headers = HashMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = pairs.map(|(name, value)| (decoded(name), decoded(value))).collect();
    let path = decoded(path);
    let key = path.strip_prefix(&format!("/{BUCKET}")).unwrap_or(&path).trim_start_matches('/').to_owned();
    Ok(Some(Request { method, key, query, headers, body }))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits = if byte == b'%' { rest.next().zip(rest.next()) } else { None };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
        bytes.push(digits.map_or(byte, |(high, low)| digit(high) << 4 | digit(low)));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", &hex(bytes)[..32])
}

fn formatted(time: SystemTime, format: &str) -> String {
    // Of a clock beyond the years that there are it does not matter what is said.
    jiff::Timestamp::try_from(time).unwrap_or_default().strftime(format).to_string()
}

fn http_date(time: SystemTime) -> String {
    formatted(time, "%a, %d %b %Y %H:%M:%S GMT")
}

fn iso_date(time: SystemTime) -> String {
    formatted(time, "%Y-%m-%dT%H:%M:%S.000Z")
}
