//! A bad line to a registry: a proxy that cuts each connection after so many bytes, is no faster than it is told to be, does
//! something of the test's at a byte, and counts what came through.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Bytes that are handed on at once.
const PIECE: usize = 32 << 10;

/// What the test does when so many bytes came through.
type Action = (u64, Box<dyn FnOnce() + Send>);

/// The proxy.
pub struct Cutter {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    to: String,
    cut: u64,
    /// Bytes each second, of each connection.
    speed: u64,
    total: AtomicU64,
    actions: Mutex<Vec<Action>>,
    ended: AtomicBool,
}

impl Cutter {
    /// Between whoever asks here and `to`, cut after `cut` bytes of each connection, `speed` bytes a second at most.
    pub fn start(to: &str, cut: u64, speed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen for the proxy")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            to: to.to_owned(),
            cut,
            speed,
            total: AtomicU64::new(0),
            actions: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.ended.load(Ordering::Acquire) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // A line that breaks is what this is for.
                std::thread::spawn(move || client.and_then(|client| shared.serve(client)));
            }
        });
        Ok(Self { port, shared, thread: Some(thread) })
    }

    /// `127.0.0.1:port/name`.
    #[must_use]
    pub fn name(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// Bytes that came through to clients.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.shared.total.load(Ordering::Relaxed)
    }

    /// Does something when so many bytes have come through.
    pub fn when(&self, total: u64, action: impl FnOnce() + Send + 'static) {
        self.shared.actions.lock().unwrap_or_else(PoisonError::into_inner).push((total, Box::new(action)));
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // It sees that it has ended when somebody comes.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(&self.to)?;
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        let up = std::thread::spawn(move || io::copy(&mut &from, &mut &to).map(|_| to.shutdown(Shutdown::Write)));
        let outcome = self.hand_on(&server, &client);
        for stream in [&client, &server] {
            // The other end may have closed it.
            drop(stream.shutdown(Shutdown::Both));
        }
        up.join().ok();
        outcome
    }

    fn hand_on(&self, mut server: &TcpStream, mut client: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut left = self.cut;
        let mut due = Instant::now();
        while left > 0 {
            let most = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
            let length = server.read(&mut buffer[..most])?;
            if length == 0 {
                return Ok(());
            }
            client.write_all(&buffer[..length])?;
            left -= length as u64;
            let total = self.total.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
            self.act(total);
            // What was not used of the time is gone. A line's speed: nobody waits for anything here.
            due = due.max(Instant::now()) + Duration::from_secs_f64(length as f64 / self.speed as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    fn act(&self, total: u64) {
        let due = {
            let mut actions = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
            let index = actions.iter().position(|(at, _)| *at <= total);
            index.map(|index| actions.swap_remove(index).1)
        };
        if let Some(action) = due {
            action();
        }
    }
}
