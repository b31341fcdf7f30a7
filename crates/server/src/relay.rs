//! Connections that a job can give away as a descriptor: a plain socket is one; another is relayed through a
//! pair of sockets, whose other end the job has.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gantry_transport::{Standing, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tracing::debug;

use crate::crowd::Places;

/// What is relayed at once.
const PIECE: usize = 32 << 10;
/// How long a client may take to go when all was said.
const FAREWELL: Duration = Duration::from_secs(5);
/// A client that takes nothing of what waits for it for so long is given up; people stop their terminals over lunch.
const STALLED: Duration = Duration::from_secs(3600);

/// Whether a stream's bytes have to be carried, since no descriptor has them as they are.
pub const fn is_relayed(stream: &Stream) -> bool {
    matches!(stream, Stream::Tls(_) | Stream::Ssh(_))
}

/// The socket itself, for a job to give away. Who is relayed keeps the places that were taken for that.
pub fn into_descriptor(stream: Stream, places: Places) -> io::Result<OwnedFd> {
    match stream {
        Stream::Unix(stream) => stream.into_std().map(Into::into),
        Stream::Tcp(stream) => stream.into_std().map(Into::into),
        stream @ (Stream::Tls(_) | Stream::Ssh(_)) => {
            let (near, far) = UnixStream::pair()?;
            tokio::spawn(async move {
                let standing = stream.standing();
                let ended = tokio::select! {
                    ended = relay(stream, near, STALLED) => ended,
                    reason = Standing::lost(standing) => Err(io::Error::other(reason)),
                };
                if let Err(error) = ended {
                    debug!("an encrypted stream ended: {error}");
                }
                drop(places);
            });
            far.into_std().map(Into::into)
        }
    }
}

/// Carries bytes both ways, and each end's end of output to the other. It ends when the job's end is closed, when both
/// have said all, when the client's connection is broken, or when the client is gone and the job takes nothing of what it
/// left for so long as `patience`.
async fn relay(client: Stream, job: UnixStream, patience: Duration) -> io::Result<()> {
    let (job_end, client_end) = (End::watch(job.as_fd())?, End::watch(client.as_fd())?);
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_job, mut to_job) = job.into_split();
    let (taken, ignored) = (AtomicU64::new(0), AtomicU64::new(0));
    let input = async {
        // A job takes its input when its program does, however long that is.
        match carry(&mut from_client, &mut to_job, Duration::MAX, &taken).await {
            // A job that is gone already finds out by itself.
            Ok(()) => drop(to_job.shutdown().await),
            // Bytes that nobody reads would reset the connection, and lose what is on its way to the client.
            Err(Broken::Target(_)) => carry(&mut from_client, &mut tokio::io::sink(), Duration::MAX, &ignored).await?,
            // A client that broke off has no more use for output.
            Err(Broken::Source(error)) => return Err(error),
        }
        Ok(())
    };
    tokio::pin!(input);
    let mut said_all = false;
    {
        let output = async {
            match carry(&mut from_job, &mut to_client, patience, &ignored).await {
                // A job that left input unread ends with a reset, after its last byte.
                Ok(()) | Err(Broken::Source(_)) => to_client.shutdown().await,
                Err(Broken::Target(error)) => Err(error),
            }
        };
        tokio::pin!(output);
        loop {
            tokio::select! {
                ended = &mut input, if !said_all => {
                    ended?;
                    said_all = true;
                }
                ended = &mut output => {
                    ended?;
                    break;
                }
                // Whoever waits for the job, to take its input or to say something, would not notice.
                () = client_end.closed() => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
    }
    if said_all {
        return Ok(());
    }
    // A client that has heard all and said all looks as one that is gone does: what it said is the job's all the same.
    let left = async {
        client_end.closed().await;
        stalled(&taken, patience).await;
    };
    tokio::select! {
        ended = &mut input => return ended,
        () = job_end.closed() => {}
        () = client_end.broken() => return Err(io::ErrorKind::ConnectionReset.into()),
        () = left => {
            let reason = format!("the client is gone, and the job took nothing of what it left for {patience:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
    }
    // The client has it all, and a moment to go.
    tokio::time::timeout(FAREWELL, input).await.unwrap_or(Ok(()))
}

/// Which end failed.
enum Broken {
    Source(io::Error),
    Target(io::Error),
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Source(error) | Broken::Target(error) => error,
        }
    }
}

async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    patience: Duration,
    carried: &AtomicU64,
) -> Result<(), Broken> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await.map_err(Broken::Source)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &piece[..length];
        while !rest.is_empty() {
            let taken = patient(patience, to.write(rest)).await.map_err(Broken::Target)?;
            if taken == 0 {
                return Err(Broken::Target(io::ErrorKind::WriteZero.into()));
            }
            rest = &rest[taken..];
            carried.fetch_add(taken as u64, Ordering::Relaxed);
        }
        patient(patience, to.flush()).await.map_err(Broken::Target)?;
    }
}

async fn patient<T>(patience: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let stalled = |_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("the client took nothing for {patience:?}")));
    tokio::time::timeout(patience, step).await.unwrap_or_else(stalled)
}

/// Resolves when nothing was carried for so long.
async fn stalled(carried: &AtomicU64, patience: Duration) {
    loop {
        let before = carried.load(Ordering::Relaxed);
        tokio::time::sleep(patience).await;
        if carried.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

/// An end of a connection, watched on a descriptor of its own, so that waiting here takes nobody's word that it can be
/// read or written. Of the socket, whatever its kind, only the readiness is asked.
struct End(UnixStream);

impl End {
    fn watch(end: BorrowedFd<'_>) -> io::Result<Self> {
        UnixStream::from_std(end.try_clone_to_owned()?.into()).map(Self)
    }

    /// Resolves when nobody has the other end any more, not when it has only said all.
    async fn closed(&self) {
        while let Ok(ready) = self.0.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                return;
            }
            // It can be written to, and stays so: forget that, to be woken when it changes.
            let _ = self.0.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }

    /// Resolves when the connection has failed, not when both ends have said all.
    async fn broken(&self) {
        // It is told as an error or, where even that fails, as nothing more to wait for.
        let _ = self.0.ready(Interest::ERROR).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relay, the client's end and the job's.
    fn relayed(patience: Duration) -> (tokio::task::JoinHandle<io::Result<()>>, UnixStream, UnixStream) {
        let (client, served) = UnixStream::pair().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        (tokio::spawn(relay(Stream::Unix(served), near, patience)), client, far)
    }

    #[tokio::test]
    async fn input_goes_on_when_the_job_has_said_all() {
        let (relay, client, mut job) = relayed(STALLED);
        job.write_all(b"said").await.unwrap();
        job.shutdown().await.unwrap();
        let (mut answers, mut input) = client.into_split();
        let mut said = String::new();
        answers.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "said");
        // More than fits into the sockets on the way, so that the relay has to wait for the job again and again.
        let writing = tokio::spawn(async move {
            input.write_all(&vec![b'x'; 8 << 20]).await.unwrap();
            input.shutdown().await.unwrap();
        });
        let mut taken = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), job.read_to_end(&mut taken)).await.expect("no stall").unwrap();
        assert_eq!(taken.len(), 8 << 20);
        writing.await.unwrap();
        relay.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (relay, _client, mut job) = relayed(Duration::from_millis(50));
        let error = loop {
            if job.write_all(&vec![b'x'; 1 << 20]).await.is_err() {
                break relay.await.unwrap().unwrap_err();
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_noticed_while_the_job_takes_no_input() {
        let (relay, mut client, mut job) = relayed(STALLED);
        let filled = async { while client.write_all(&vec![b'x'; 1 << 20]).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_millis(200), filled).await.is_err());
        drop(client);
        let ended = tokio::time::timeout(Duration::from_secs(5), relay).await.expect("it is noticed").unwrap();
        assert!(ended.is_err(), "{ended:?}");
        let mut rest = Vec::new();
        job.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.is_empty());
    }

    /// Sends more than fits into the sockets on the way; how much went in.
    async fn fill(client: &mut UnixStream) -> usize {
        let mut sent = 0;
        let piece = vec![b'x'; 1 << 16];
        while let Ok(wrote) = tokio::time::timeout(Duration::from_millis(200), client.write(&piece)).await {
            sent += wrote.unwrap();
        }
        sent
    }

    #[tokio::test]
    async fn a_client_that_breaks_off_is_noticed_by_a_job_that_has_said_all_and_takes_no_input() {
        let (relay, mut client, mut job) = relayed(STALLED);
        job.write_all(b"said").await.unwrap();
        job.shutdown().await.unwrap();
        client.readable().await.unwrap();
        fill(&mut client).await;
        // It has not read what was said: the connection is reset.
        drop(client);
        let ended = tokio::time::timeout(Duration::from_secs(5), relay).await.expect("it is noticed").unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn what_a_client_left_is_the_jobs_when_it_comes_to_take_it() {
        let (relay, mut client, mut job) = relayed(STALLED);
        job.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        let sent = fill(&mut client).await;
        drop(client);
        let mut taken = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), job.read_to_end(&mut taken)).await.expect("no stall").unwrap();
        assert_eq!(taken.len(), sent);
        relay.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_a_client_left_does_not_wait_for_ever() {
        let (relay, mut client, mut job) = relayed(Duration::from_millis(50));
        job.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        fill(&mut client).await;
        drop(client);
        let ended = tokio::time::timeout(Duration::from_secs(20), relay).await.expect("it is given up").unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_goes_after_its_input_is_noticed_while_the_job_says_nothing() {
        let (relay, mut client, mut job) = relayed(STALLED);
        client.write_all(b"input").await.unwrap();
        client.shutdown().await.unwrap();
        let mut taken = Vec::new();
        job.read_to_end(&mut taken).await.unwrap();
        assert_eq!(taken, b"input");
        drop(client);
        let ended = tokio::time::timeout(Duration::from_secs(5), relay).await.expect("it is noticed").unwrap();
        assert!(ended.is_err(), "{ended:?}");
    }
}
