//! A daemon on another machine, by the system's ssh: `system dial-stdio` over there joins ssh's standard streams with the
//! daemon's socket. Keys, agents, jump hosts and known hosts are ssh's own business.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;

use crate::{Endpoint, Error, Result, SshTarget};

/// How much of what ssh complains about is kept.
const COMPLAINT_LIMIT: usize = 4096;
/// How long ssh may take to say why it ended.
const COMPLAINT: Duration = Duration::from_secs(2);

/// A connection through ssh, which ends with it.
#[derive(Debug)]
pub struct SshStream {
    stream: UnixStream,
    child: Arc<Child>,
    complaint: Complaint,
}

/// What ssh says on its standard error.
#[derive(Debug, Clone)]
pub struct Complaint {
    text: Arc<Mutex<Vec<u8>>>,
    ended: watch::Receiver<bool>,
}

/// Starts ssh. Whether it gets through is known when something comes back.
pub fn dial(endpoint: &Endpoint, target: &SshTarget) -> Result<SshStream> {
    let open = || {
        let (near, far) = UnixStream::pair()?;
        let far: OwnedFd = far.into_std().and_then(|far| far.set_nonblocking(false).map(|()| far))?.into();
        let mut command = Command::new("ssh");
        command.args(arguments(target)).stdin(far.try_clone()?).stdout(far).stderr(Stdio::piped());
        // Ctrl-C is for the container. A process in the background must not ask for a password: BatchMode.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let complaint = Complaint::listen(child.stderr.take());
        Ok(SshStream { stream: near, child: Arc::new(child), complaint })
    };
    open().map_err(|error: io::Error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => "there is no program ssh: install it (openssh-client)".to_owned(),
            _ => format!("cannot run ssh: {}", crate::error::reason(&error)),
        };
        Error::Handshake { endpoint: endpoint.clone(), reason }
    })
}

fn arguments(target: &SshTarget) -> Vec<String> {
    let mut all: Vec<String> = ["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30"].map(str::to_owned).to_vec();
    if let Some(user) = &target.user {
        all.extend(["-l".to_owned(), user.clone()]);
    }
    if let Some(port) = target.port {
        all.extend(["-p".to_owned(), port.to_string()]);
    }
    let host = target.socket.as_ref().map(|path| format!(" --host unix://{path}")).unwrap_or_default();
    let dial = format!("{host} system dial-stdio");
    // Whichever of both is installed over there.
    let script = format!("if command -v gantry >/dev/null; then exec gantry{dial}; else exec docker{dial}; fi");
    all.extend(["--".to_owned(), target.host.clone(), format!("exec sh -c \"{script}\"")]);
    all
}

impl Complaint {
    fn listen(stderr: Option<ChildStderr>) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let (end, ended) = watch::channel(false);
        if let Some(mut stderr) = stderr {
            let text = Arc::clone(&text);
            tokio::spawn(async move {
                let mut piece = [0; 1024];
                while let Ok(length @ 1..) = stderr.read(&mut piece).await {
                    let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = COMPLAINT_LIMIT.saturating_sub(text.len());
                    text.extend_from_slice(&piece[..length.min(room)]);
                }
                // Nobody may be waiting for it.
                let _ = end.send(true);
            });
        }
        Self { text, ended }
    }

    /// Why a connection came to nothing, in one sentence.
    pub async fn explain(mut self, target: &SshTarget) -> String {
        // What was said until then is all that there is.
        let _ = tokio::time::timeout(COMPLAINT, self.ended.wait_for(|ended| *ended)).await;
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let said = String::from_utf8_lossy(&text);
        let said: Vec<&str> =
            said.lines().map(|line| line.trim().trim_end_matches('.')).filter(|line| !line.is_empty()).collect();
        let said = if said.is_empty() { "ssh ended without a word".to_owned() } else { said.join("; ") };
        let host = &target.host;
        format!(
            "{said}: see that 'ssh {host} true' works without a question, that gantry or docker is installed there, and \
             that the user there may use the daemon's socket"
        )
    }
}

impl SshStream {
    pub(crate) fn complaint(&self) -> Complaint {
        self.complaint.clone()
    }

    pub(crate) fn socket_mut(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.stream
    }

    /// Two halves; ssh ends with the last of them.
    pub(crate) fn into_split(self) -> (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>) {
        let (read, write) = self.stream.into_split();
        let held = |child: &Arc<Child>| Arc::clone(child);
        (Box::new(Held { half: read, _child: held(&self.child) }), Box::new(Held { half: write, _child: self.child }))
    }
}

impl AsFd for SshStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Half a connection, and the process that carries it.
struct Held<T> {
    half: T,
    _child: Arc<Child>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Held<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Held<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.half).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_told_where_and_what_and_nothing_that_could_be_an_option() {
        let Ok(Endpoint::Ssh(target)) = "ssh://ann@build.example:2222/run/x.sock".parse() else { panic!("no target") };
        let all = arguments(&target);
        let (options, rest) = all.split_at(all.iter().position(|argument| argument == "--").unwrap());
        assert_eq!(options[5..], ["-l", "ann", "-p", "2222"]);
        assert_eq!(rest[1], "build.example");
        assert!(rest[2].contains("exec gantry --host unix:///run/x.sock system dial-stdio;"), "{}", rest[2]);
    }
}
