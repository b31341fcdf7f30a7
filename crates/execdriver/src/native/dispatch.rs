//! One thread that listens to every supervisor: answers, exits, new warm ones.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gantry_linux::ResultExt;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};

use super::link::{Due, Link};

/// Told what happens on the connections of warm supervisors; called on the thread of the [`Dispatch`].
pub trait Listener: Send + Sync {
    /// Something was received, or the connection has ended.
    fn changed(&self, link: &Arc<Link>);
}

type Watched = (Arc<Link>, Option<Weak<dyn Listener>>);

/// The thread and what it listens to.
pub struct Dispatch {
    epoll: OwnedFd,
    wake: OwnedFd,
    next: AtomicU64,
    links: Mutex<HashMap<u64, Watched>>,
}

const WAKE: u64 = 0;

impl Dispatch {
    /// Starts the thread.
    pub fn start() -> Result<Arc<Self>, gantry_linux::Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).during("make", "epoll")?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).during("make", "eventfd")?;
        let data = epoll::EventData::new_u64(WAKE);
        epoll::add(&epoll, &wake, data, epoll::EventFlags::IN).during("watch", "eventfd")?;
        let dispatch =
            Arc::new(Self { epoll, wake, next: AtomicU64::new(WAKE + 1), links: Mutex::new(HashMap::new()) });
        let shared = Arc::clone(&dispatch);
        std::thread::Builder::new().name("supervisors".into()).spawn(move || shared.run()).during("start", "thread")?;
        Ok(dispatch)
    }

    /// Ends the thread.
    pub fn stop(&self) {
        // An eventfd takes a number unless it is full, and then the thread wakes as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn links(&self) -> MutexGuard<'_, HashMap<u64, Watched>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to a connection until it ends.
    pub fn add(&self, link: &Arc<Link>, listener: Option<Weak<dyn Listener>>) -> Result<(), gantry_linux::Error> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        self.links().insert(token, (Arc::clone(link), listener));
        self.watch(link, token).inspect_err(|_| {
            self.links().remove(&token);
        })
    }

    fn watch(&self, link: &Link, token: u64) -> Result<(), gantry_linux::Error> {
        let added = epoll::add(&self.epoll, link.socket(), epoll::EventData::new_u64(token), epoll::EventFlags::IN);
        added.during("watch", "supervisor")
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot listen to supervisors any more");
                    return;
                }
            }
            for event in events.drain(..) {
                let token = event.data.u64();
                if token == WAKE {
                    return;
                }
                self.serve(token);
            }
        }
    }

    fn serve(&self, token: u64) {
        let Some((link, listener)) = self.links().get(&token).map(|(link, to)| (Arc::clone(link), to.clone())) else {
            return;
        };
        let mut due = Due::default();
        if !link.receive(&mut due) {
            // Epoll forgets a socket by itself when its last descriptor is closed.
            let _ = epoll::delete(&self.epoll, link.socket());
            if link.reconnect() && self.watch(&link, token).is_ok() {
                tracing::warn!("a supervisor had ended its connection, which is made anew");
            } else {
                self.links().remove(&token);
                link.close(&mut due);
            }
        }
        if let Some(listener) = listener.as_ref().and_then(Weak::upgrade) {
            listener.changed(&link);
        }
        due.run();
    }
}
