//! The servers of the host: read from `resolv.conf`, followed while it changes, however it is replaced.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_linux::fs;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::files;

const PORT: u16 = 53;
/// systemd-resolved on the host's loopback. It knows more than the servers behind it, so it is asked first; they are
/// asked where it does not answer.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
/// More would be asked by nobody's patience.
const MOST: usize = 6;
/// Without a watch, the file is read again after this time.
const OLD: Duration = Duration::from_secs(5);
/// A chain of links that is longer leads nowhere.
const MOST_LINKS: usize = 8;

/// The host's servers, and what tells that they change.
pub struct Servers {
    main: PathBuf,
    behind_stub: PathBuf,
    /// None where the user has as many watches as the kernel allows.
    changes: Option<OwnedFd>,
    read_at: Instant,
    /// Names in the watched directories that mean something.
    names: Vec<OsString>,
    list: Vec<SocketAddr>,
}

impl Servers {
    /// Reads the servers of `main` (`/etc/resolv.conf`), with those of `behind_stub` where it names systemd-resolved.
    #[must_use]
    pub fn open(main: &Path, behind_stub: &Path) -> Self {
        let mut servers = Self {
            main: main.into(),
            behind_stub: behind_stub.into(),
            changes: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok(),
            read_at: Instant::now(),
            names: Vec::new(),
            list: Vec::new(),
        };
        servers.read();
        servers
    }

    /// In the order in which they are asked. Without a watch they are read again when they are old.
    pub fn list(&mut self) -> &[SocketAddr] {
        if self.changes.is_none() && self.read_at.elapsed() > OLD {
            self.read();
        }
        &self.list
    }

    /// Readable when something may have changed.
    #[must_use]
    pub fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.changes.as_ref().map(AsFd::as_fd)
    }

    /// Takes what has changed. Called when the descriptor is readable.
    pub fn follow(&mut self) {
        let Some(changes) = &self.changes else { return };
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(changes, &mut space);
        let mut changed = false;
        loop {
            match reader.next() {
                // An event without a name is of a watched file itself, or of events that were lost.
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes());
                    let ours = |known: &OsString| name == Some(known.as_encoded_bytes());
                    changed |= name.is_none() || self.names.iter().any(ours);
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if changed {
            self.read();
        }
    }

    /// Watches first, so that nothing changes unseen in between.
    fn read(&mut self) {
        self.read_at = Instant::now();
        self.names.clear();
        for path in [self.main.clone(), self.behind_stub.clone()] {
            self.watch(path);
        }
        // While it is being replaced it may be missing for a moment: then the old ones are as good as any.
        let Ok(text) = fs::read_to_string(&self.main) else { return };
        let mut list = parse(&text);
        if list.iter().any(|server| server.ip() == STUB) {
            list.extend(fs::read_to_string(&self.behind_stub).iter().flat_map(|text| parse(text)));
        }
        if list.is_empty() {
            list.extend(files::FALLBACK.iter().filter_map(|text| server(text)));
        }
        let mut unique = Vec::with_capacity(list.len());
        for server in list {
            if !unique.contains(&server) && unique.len() < MOST {
                unique.push(server);
            }
        }
        self.list = unique;
    }

    /// Watches the file, and each directory in which a link on the way to it, or it, may be replaced.
    fn watch(&mut self, mut path: PathBuf) {
        let in_directory = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ONLYDIR;
        let Some(changes) = &self.changes else { return };
        for _ in 0..MOST_LINKS {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
            self.names.push(name.into());
            // A directory that is not there has no file that could change; the links before it are watched.
            let _ = inotify::add_watch(changes, directory, in_directory);
            let Ok(target) = fs::read_link(&path) else { break };
            path = directory.join(target);
        }
        // A file that is mounted over another one changes without its directory.
        let itself = WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        let _ = inotify::add_watch(changes, &path, itself);
    }
}

/// The servers that a `resolv.conf` names.
#[must_use]
pub fn parse(text: &str) -> Vec<SocketAddr> {
    files::values(text, "nameserver").filter_map(|value| server(value.split_whitespace().next()?)).collect()
}

fn server(text: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = text.split_once('%') else { return Some((text.parse::<IpAddr>().ok()?, PORT).into()) };
    let scope = zone.parse().ok().or_else(|| {
        let any = rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
        rustix::net::netdevice::name_to_index(any, zone).ok()
    })?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    struct Place {
        directory: tempfile::TempDir,
        servers: Servers,
    }

    impl Place {
        fn new(text: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join("run")).unwrap();
            fs::write(directory.path().join("resolv.conf"), text).unwrap();
            let path = |name| directory.path().join(name);
            let servers = Servers::open(&path("resolv.conf"), &path("run/behind.conf"));
            Self { directory, servers }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn listed(&mut self) -> Vec<String> {
            self.servers.list().iter().map(ToString::to_string).collect()
        }

        fn after_change(&mut self, wanted: &[&str]) {
            while self.listed() != wanted {
                let changes = self.servers.changes().unwrap();
                let mut ready = [PollFd::from_borrowed_fd(changes, PollFlags::IN)];
                let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
                assert_ne!(poll(&mut ready, Some(&patience)).unwrap(), 0, "never {wanted:?}");
                self.servers.follow();
            }
        }
    }

    #[test]
    fn servers_are_read_in_their_order_with_zones_and_without_repetition() {
        assert_eq!(
            parse("# nameserver 1.1.1.1\nnameserver 192.0.2.1\nnameserver fe80::1%7 x\nnameserver what\n"),
            ["192.0.2.1:53".parse().unwrap(), SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 7))]
        );
        let mut place = Place::new("nameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n");
        assert_eq!(place.listed(), ["192.0.2.1:53", "192.0.2.2:53"]);
        assert_eq!(Place::new("").listed(), ["8.8.8.8:53", "8.8.4.4:53"]);
    }

    #[test]
    fn a_zone_may_be_a_links_name() {
        let SocketAddr::V6(found) = server("fe80::1%lo").unwrap() else { panic!("not IPv6") };
        assert_eq!(found.scope_id(), 1);
        assert_eq!(server("fe80::1%no-such-link"), None);
    }

    #[test]
    fn a_file_that_is_rewritten_renamed_or_linked_elsewhere_is_followed() {
        let mut place = Place::new("nameserver 192.0.2.1\n");
        fs::write(place.path("resolv.conf"), "nameserver 192.0.2.2\n").unwrap();
        place.after_change(&["192.0.2.2:53"]);
        fs::write(place.path("new"), "nameserver 192.0.2.3\n").unwrap();
        fs::rename(place.path("new"), place.path("resolv.conf")).unwrap();
        place.after_change(&["192.0.2.3:53"]);
        fs::write(place.path("run/managed.conf"), "nameserver 192.0.2.4\n").unwrap();
        fs::symlink("run/managed.conf", place.path("link")).unwrap();
        fs::rename(place.path("link"), place.path("resolv.conf")).unwrap();
        place.after_change(&["192.0.2.4:53"]);
        // Now what it leads to is replaced.
        fs::write(place.path("run/new"), "nameserver 192.0.2.5\n").unwrap();
        fs::rename(place.path("run/new"), place.path("run/managed.conf")).unwrap();
        place.after_change(&["192.0.2.5:53"]);
        fs::remove_file(place.path("run/managed.conf")).unwrap();
        fs::write(place.path("run/managed.conf"), "nameserver 192.0.2.6\n").unwrap();
        place.after_change(&["192.0.2.6:53"]);
    }

    #[test]
    fn without_a_watch_the_file_is_read_again_when_it_is_old() {
        let mut place = Place::new("nameserver 192.0.2.1\n");
        place.servers.changes = None;
        fs::write(place.path("resolv.conf"), "nameserver 192.0.2.2\n").unwrap();
        assert_eq!(place.listed(), ["192.0.2.1:53"]);
        place.servers.read_at -= 2 * OLD;
        assert_eq!(place.listed(), ["192.0.2.2:53"]);
    }

    #[test]
    fn resolved_is_asked_first_and_those_behind_it_where_it_does_not_answer() {
        let mut place = Place::new("nameserver 127.0.0.53\n");
        assert_eq!(place.listed(), ["127.0.0.53:53"]);
        fs::write(place.path("run/behind.conf"), "nameserver 192.0.2.1\n").unwrap();
        place.after_change(&["127.0.0.53:53", "192.0.2.1:53"]);
    }
}
