//! The person's terminal: raw mode that is undone on every way out, size, signals, detach keys.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::termios::{OptionalActions, Termios};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Result};
use crate::printer::Output;

/// Height and width in cells.
pub type Size = (u16, u16);

/// Raw mode, until it is dropped.
pub struct RawMode {
    before: Option<Termios>,
}

impl RawMode {
    /// Sets standard input raw, if it is a terminal.
    pub fn enter() -> Result<Self> {
        let stdin = rustix::stdio::stdin();
        if !rustix::termios::isatty(stdin) {
            return Ok(Self { before: None });
        }
        let before = rustix::termios::tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // On a terminal that was hung up there is nothing to restore.
            let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Asks for a line that is not shown while it is typed.
pub async fn secret(prompt: &str) -> Result<String> {
    let stdin = rustix::stdio::stdin();
    let before = rustix::termios::tcgetattr(stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
    // Also when the person gives up: a terminal that shows nothing is of no use to anybody.
    let mut signals = Signals::catch()?;
    rustix::termios::tcsetattr(stdin, OptionalActions::Flush, &silent)?;
    let restored = RawMode { before: Some(before) };
    Output::Out.write(prompt.as_bytes())?;
    let typed = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        line = typed => line.map_err(io::Error::other)??,
        (_, number) = signals.next() => {
            drop(restored);
            Output::Out.write(b"\n")?;
            return Err(Failure::silent(128 + u8::try_from(number).unwrap_or(0)));
        }
    };
    drop(restored);
    Output::Out.write(b"\n")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin())
}

/// The size of the terminal that output goes to.
pub fn size() -> Option<Size> {
    let of = |fd: BorrowedFd<'_>| rustix::termios::tcgetwinsize(fd).ok();
    let size = of(rustix::stdio::stdout()).or_else(|| of(rustix::stdio::stdin()))?;
    (size.ws_row != 0 || size.ws_col != 0).then_some((size.ws_row, size.ws_col))
}

/// Refuses `-it` where standard input is no terminal.
pub fn check_input(attach_stdin: bool, tty: bool) -> Result<()> {
    if attach_stdin && tty && !stdin_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    Ok(())
}

/// Tells when the terminal changed its size.
pub fn resizes() -> io::Result<Signal> {
    signal(SignalKind::window_change())
}

/// Signals that a container's process gets through us: number and name.
const PROXIED: [(i32, &str); 7] =
    [(1, "HUP"), (2, "INT"), (3, "QUIT"), (10, "USR1"), (12, "USR2"), (14, "ALRM"), (15, "TERM")];

/// Signals sent to us, as they come.
pub struct Signals {
    signals: Vec<(&'static str, i32, Signal)>,
}

impl Signals {
    /// Begins to catch them.
    pub fn catch() -> io::Result<Self> {
        let mut signals = Vec::with_capacity(PROXIED.len());
        for (number, name) in PROXIED {
            signals.push((name, number, signal(SignalKind::from_raw(number))?));
        }
        Ok(Self { signals })
    }

    /// The next one: name and number.
    pub async fn next(&mut self) -> (&'static str, i32) {
        std::future::poll_fn(|cx| {
            for (name, number, signal) in &mut self.signals {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready((*name, *number));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// The keys that leave a container running and give the terminal back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// `ctrl-p,ctrl-q`, `ctrl-\`, `a,b`; an empty text means the default.
    pub fn parse(text: &str) -> Result<Self> {
        let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
        let keys = text.split(',').map(key).collect::<Option<Vec<_>>>();
        let keys = keys.ok_or_else(|| Failure::new(format!("invalid detach keys ({text}) provided")))?;
        Ok(Self { keys, matched: 0 })
    }

    /// What of `input` is for the container, and whether the sequence was completed. A sequence that is begun is held
    /// back until it is clear that it is none.
    pub fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len());
        for byte in input {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys[0] == *byte);
            if self.matched == 0 {
                out.push(*byte);
            } else if self.keys.len() == 1 {
                return (out, true);
            }
        }
        (out, false)
    }
}

fn key(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        [b'c', b't', b'r', b'l', b'-', letter] => match letter {
            b'a'..=b'z' => Some(letter - b'a' + 1),
            b'@' => Some(0),
            b'[' => Some(27),
            b'\\' => Some(28),
            b']' => Some(29),
            b'^' => Some(30),
            b'_' => Some(31),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads_and_what_is_none_is_passed_on() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"\x11"), (vec![], true));
        assert_eq!(keys.filter(b"\x10x"), (b"\x10x".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11z"), (vec![], true));
    }

    #[test]
    fn detach_keys_are_named_as_docker_names_them() {
        assert_eq!(DetachKeys::parse("ctrl-@,a,ctrl-_").unwrap().keys, [0, b'a', 31]);
        assert_eq!(DetachKeys::parse("foo").unwrap_err().message, "invalid detach keys (foo) provided");
    }
}
