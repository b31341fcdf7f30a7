//! A bad line to a registry: a proxy that cuts each connection after so many bytes, is no faster than it is told to be, does
//! something of the test's at a byte, and counts what came through either way.

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
    address: String,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// One direction: what came through, and what the test does at which byte.
#[derive(Default)]
struct Flow {
    total: AtomicU64,
    actions: Mutex<Vec<Action>>,
}

struct Shared {
    to: String,
    cut: u64,
    /// Bytes each second, of each connection.
    speed: u64,
    /// To clients.
    down: Flow,
    /// To the server.
    up: Flow,
    ended: AtomicBool,
}

impl Cutter {
    /// Between whoever asks here and `to`, cut after `cut` bytes of each connection, `speed` bytes a second at most.
    pub fn start(to: &str, cut: u64, speed: u64) -> Result<Self> {
        Self::listen("127.0.0.1", to, cut, speed)
    }

    /// At another address of this machine, as fast as it goes.
    pub fn start_at(address: &str, to: &str) -> Result<Self> {
        Self::listen(address, to, u64::MAX, 1 << 40)
    }

    fn listen(address: &str, to: &str, cut: u64, speed: u64) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).with_context(|| format!("listen for the proxy at {address}"))?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            to: to.to_owned(),
            cut,
            speed,
            down: Flow::default(),
            up: Flow::default(),
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
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// `127.0.0.1:port/name`.
    #[must_use]
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// `http://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes that came through to clients.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.shared.down.total.load(Ordering::Relaxed)
    }

    /// Bytes that came through to the server.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.up.total.load(Ordering::Relaxed)
    }

    /// Does something when so many bytes have come through to clients.
    pub fn when(&self, total: u64, action: impl FnOnce() + Send + 'static) {
        self.shared.down.at(total, action);
    }

    /// Does something when so many bytes have come through to the server.
    pub fn when_sent(&self, total: u64, action: impl FnOnce() + Send + 'static) {
        self.shared.up.at(total, action);
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // It sees that it has ended when somebody comes.
        drop(TcpStream::connect(&self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(&self.to)?;
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        std::thread::scope(|scope| {
            scope.spawn(move || self.hand_up(&from, &to).and_then(|()| to.shutdown(Shutdown::Write)));
            let outcome = self.hand_on(&server, &client);
            for stream in [&client, &server] {
                // The other end may have closed it.
                drop(stream.shutdown(Shutdown::Both));
            }
            outcome
        })
    }

    fn hand_up(&self, mut client: &TcpStream, mut server: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        loop {
            let length = client.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            server.write_all(&buffer[..length])?;
            self.up.add(length as u64);
        }
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
            self.down.add(length as u64);
            // What was not used of the time is gone. A line's speed: nobody waits for anything here.
            due = due.max(Instant::now()) + Duration::from_secs_f64(length as f64 / self.speed as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}

impl Flow {
    fn at(&self, total: u64, action: impl FnOnce() + Send + 'static) {
        self.actions.lock().unwrap_or_else(PoisonError::into_inner).push((total, Box::new(action)));
    }

    fn add(&self, length: u64) {
        let total = self.total.fetch_add(length, Ordering::Relaxed) + length;
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
