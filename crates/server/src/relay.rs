//! Connections that a job can give away as a descriptor: a plain socket is one; another is relayed through a
//! pair of sockets, whose other end the job has.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use gantry_transport::{Standing, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tracing::debug;

use crate::crowd::Seat;

/// What is relayed at once.
const PIECE: usize = 32 << 10;
/// How long a client may take to go when all was said.
const FAREWELL: Duration = Duration::from_secs(5);
/// A client that takes nothing of what waits for it for so long is given up; people stop their terminals over lunch.
const STALLED: Duration = Duration::from_secs(3600);

/// The socket itself, for a job to give away. Who is relayed keeps the seat, and takes some more.
pub fn into_descriptor(stream: Stream, seat: &Seat) -> io::Result<OwnedFd> {
    match stream {
        Stream::Unix(stream) => stream.into_std().map(Into::into),
        Stream::Tcp(stream) => stream.into_std().map(Into::into),
        stream @ (Stream::Tls(_) | Stream::Ssh(_)) => {
            let seats = seat.for_relay()?;
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
                drop(seats);
            });
            far.into_std().map(Into::into)
        }
    }
}

/// Carries bytes both ways, and each end's end of output to the other. It ends when the job's end is closed, when both
/// have said all, or when the client's connection is broken.
async fn relay(client: Stream, job: UnixStream, patience: Duration) -> io::Result<()> {
    let (job_end, client_end) = (End::watch(job.as_fd())?, End::watch(client.as_fd())?);
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_job, mut to_job) = job.into_split();
    let input = async {
        // A job takes its input when its program does, however long that is.
        match carry(&mut from_client, &mut to_job, Duration::MAX).await {
            // A job that is gone already finds out by itself.
            Ok(()) => drop(to_job.shutdown().await),
            // Bytes that nobody reads would reset the connection, and lose what is on its way to the client.
            Err(Broken::Target(_)) => carry(&mut from_client, &mut tokio::io::sink(), Duration::MAX).await?,
            // A client that broke off has no more use for output.
            Err(Broken::Source(error)) => return Err(error),
        }
        Ok(())
    };
    tokio::pin!(input);
    let mut said_all = false;
    {
        let output = async {
            match carry(&mut from_job, &mut to_client, patience).await {
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
                // Whoever waits for the job to take its input would not notice.
                () = client_end.closed(), if !said_all => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
    }
    if said_all {
        return Ok(());
    }
    tokio::select! {
        ended = &mut input => return ended,
        () = job_end.closed() => {}
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
        }
        patient(patience, to.flush()).await.map_err(Broken::Target)?;
    }
}

async fn patient<T>(patience: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let stalled = |_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("the client took nothing for {patience:?}")));
    tokio::time::timeout(patience, step).await.unwrap_or_else(stalled)
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
}
