//! Bodies: whole ones, and those that a job still writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The body of an answer.
pub enum Body {
    /// Known as a whole.
    Whole(Full<Bytes>),
    /// Written by a job. Dropping it tells the job that the client is gone.
    Streamed(mpsc::Receiver<Bytes>),
    /// The same, of which half is worth nothing: when the job fails the connection is broken off, so that the client
    /// does not take what it has for the whole.
    Checked(mpsc::Receiver<Bytes>, JoinHandle<gantry_engine::Result<()>>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Whole(Full::from(bytes))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Streamed(receiver) => receiver.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Checked(receiver, task) => {
                if let Some(bytes) = ready!(receiver.poll_recv(cx)) {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                let failure = match ready!(Pin::new(&mut *task).poll(cx)) {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(panic) => Some(panic.to_string()),
                };
                // Asked only once: both a failure and the end are the last answer.
                Poll::Ready(failure.map(|message| Err(io::Error::other(message))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(_) | Self::Checked(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(_) | Self::Checked(..) => SizeHint::default(),
        }
    }
}
