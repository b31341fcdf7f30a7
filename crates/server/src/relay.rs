//! Connections that a job can give away as a descriptor: a plain socket is one; another is relayed through a
//! pair of sockets, whose other end the job has.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use gantry_transport::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tracing::debug;

/// What is relayed at once.
const PIECE: usize = 32 << 10;
/// How long a client may take to go when all was said.
const FAREWELL: Duration = Duration::from_secs(5);

/// The socket itself, for a job to give away.
pub fn into_descriptor(stream: Stream) -> io::Result<OwnedFd> {
    match stream {
        Stream::Unix(stream) => stream.into_std().map(Into::into),
        Stream::Tcp(stream) => stream.into_std().map(Into::into),
        stream @ (Stream::Tls(_) | Stream::Ssh(_)) => {
            let (near, far) = UnixStream::pair()?;
            tokio::spawn(async move {
                if let Err(error) = relay(stream, near).await {
                    debug!("an encrypted stream ended: {error}");
                }
            });
            far.into_std().map(Into::into)
        }
    }
}

/// Carries bytes both ways, and each end's end of output to the other. It ends when the job's end is closed, or when both
/// have said all.
async fn relay(client: Stream, job: UnixStream) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_job, mut to_job) = job.into_split();
    let input = async {
        match carry(&mut from_client, &mut to_job).await {
            // A job that is gone already finds out by itself.
            Ok(()) => drop(to_job.shutdown().await),
            // Bytes that nobody reads would reset the connection, and lose what is on its way to the client.
            Err(Broken::Target(_)) => carry(&mut from_client, &mut tokio::io::sink()).await?,
            // A client that broke off has no more use for output.
            Err(Broken::Source(error)) => return Err(error),
        }
        Ok(())
    };
    tokio::pin!(input);
    let mut said_all = false;
    {
        let output = async {
            match carry(&mut from_job, &mut to_client).await {
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
            }
        }
    }
    if said_all {
        return Ok(());
    }
    tokio::select! {
        ended = &mut input => return ended,
        () = closed(from_job.as_ref()) => {}
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

async fn carry(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> Result<(), Broken> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await.map_err(Broken::Source)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&piece[..length]).await.map_err(Broken::Target)?;
        to.flush().await.map_err(Broken::Target)?;
    }
}

/// Resolves when nobody has the other end any more, not when it has only said all.
async fn closed(end: &UnixStream) {
    while let Ok(ready) = end.ready(Interest::WRITABLE).await {
        if ready.is_write_closed() {
            return;
        }
        // It can be written to, and stays so: forget that, to be woken when it changes.
        let _ = end.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }
}
