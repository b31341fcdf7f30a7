//! The firewall that all bridges of a daemon share, and the thread that watches over it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gantry_linux::fs;
use libcontainer::network::firewall::{Changed, Firewall, Obstacle, Options, Stop, Watch};
use tracing::{info, warn};

use crate::Error;

const FORWARD4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// How a daemon's firewall is to be.
#[derive(Debug, Clone)]
pub struct WallOptions {
    /// Names its tables: the daemon's own bridge.
    pub name: String,
    /// Turn on the host's forwarding where it is off. The firewall then drops what the host would forward between links
    /// of which none is a bridge.
    pub ip_forward: bool,
    /// Put one rule where another firewall of the host drops what is forwarded and has a chain for such rules.
    pub hooks: bool,
    /// Do without tables that others cannot flush, as on kernels before 6.9.
    pub shared: bool,
}

/// A daemon's firewall. The watching thread ends with the last of its owners.
#[derive(Debug, Clone)]
pub struct Wall {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    firewall: Arc<Mutex<Firewall>>,
    ip_forward: bool,
    owned: bool,
    watching: Option<(Stop, JoinHandle<()>)>,
}

impl Wall {
    /// Loads the tables or takes over what is there, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Tables that belong to another daemon; the kernel's refusals.
    pub fn open(options: &WallOptions) -> Result<Self, Error> {
        let forwarding = |path| Ok::<_, Error>(options.ip_forward && is_off(path)?);
        let of_host = Options {
            forwarding: forwarding(FORWARD4)?,
            // Only turned on once a bridge has IPv6.
            forwarding6: forwarding(FORWARD6)?,
            hooks: options.hooks,
            shared: options.shared,
        };
        let firewall = Firewall::load(&options.name, of_host).map_err(|error| taken(&options.name, error))?;
        tell_of_orphans(&options.name);
        let (owned, (watch, stop)) = (firewall.is_owned(), Watch::open(&firewall)?);
        let firewall = Arc::new(Mutex::new(firewall));
        let mut attention = Attention::default();
        attention.look(&firewall)?;
        if !owned {
            info!(
                "this kernel (before 6.9) cannot keep nftables tables from a foreign flush: they are watched and healed, and \
                 until then datagrams of containers may reach the host's loopback, where ports can be published"
            );
        }
        if of_host.forwarding {
            forward()?;
        }
        let watched = Arc::clone(&firewall);
        let thread = std::thread::Builder::new()
            .name("firewall".into())
            .spawn(move || keep(watch, &watched, attention))
            .map_err(|error| gantry_linux::Error::new("start", "thread that watches the firewall", error))?;
        let shared = Shared { firewall, ip_forward: options.ip_forward, owned, watching: Some((stop, thread)) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The firewall, for as long as nobody else may have it.
    pub fn lock(&self) -> MutexGuard<'_, Firewall> {
        lock(&self.shared.firewall)
    }

    /// Looks at the other firewalls of the host: what blocks and is not to be helped, for a person to read.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn attend(&self) -> Result<Vec<String>, Error> {
        attend(&self.shared.firewall)
    }

    /// What the other firewalls of the host drop of what ours lets through for a bridge.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn obstacles(&self, bridge: &str) -> Result<Vec<Obstacle>, Error> {
        let outlook = self.lock().outlook();
        Ok(outlook.obstacles(bridge)?)
    }

    /// Whether the tables stay when somebody flushes all.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.shared.owned
    }

    /// Has the host forward IPv6, where it is to.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn forward6(&self) -> Result<(), Error> {
        if self.shared.ip_forward && is_off(FORWARD6)? {
            keep_advertised_routes()?;
            fs::write(FORWARD6, "1")?;
        }
        Ok(())
    }

    /// Removes the tables and rules of this daemon from when it had another name. What they kept the host from forwarding
    /// ours keep it from now on.
    ///
    /// # Errors
    /// Tables that belong to another daemon; the kernel's refusals.
    pub fn replace(&self, before: &str) -> Result<(), Error> {
        let mut before = hold(before)?;
        self.lock().take_guard(&before)?;
        Ok(before.delete()?)
    }

    /// Deletes the tables and all else of the firewall. For when no bridge is left.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn remove(&self) -> Result<(), Error> {
        Ok(self.lock().delete()?)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.watching.take() {
            drop(stop);
            if thread.join().is_err() {
                warn!("the thread that watched the firewall had panicked");
            }
        }
    }
}

fn lock(firewall: &Mutex<Firewall>) -> MutexGuard<'_, Firewall> {
    firewall.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nobody waits for the firewall while the chains of others are listed, unless it changes each time meanwhile.
fn attend(firewall: &Mutex<Firewall>) -> Result<Vec<String>, Error> {
    const LOOKS: usize = 4;
    for _ in 0..LOOKS {
        let outlook = lock(firewall).outlook();
        let seen = outlook.look()?;
        if let Some(obstacles) = lock(firewall).attend(seen)? {
            return Ok(obstacles);
        }
    }
    let mut firewall = lock(firewall);
    let seen = firewall.outlook().look()?;
    Ok(firewall.attend(seen)?.unwrap_or_default())
}

/// How often other firewalls are looked at while they change all the time: each look lists all their chains.
const REST: Duration = Duration::from_secs(1);

/// What was seen of other firewalls, and what is to be looked at.
#[derive(Debug, Default)]
struct Attention {
    /// What a person has been told.
    told: Vec<String>,
    /// When the last look was.
    last: Option<Instant>,
    /// Something has changed since.
    wanted: bool,
    /// When the tables could not be brought back, where they are still to be.
    failed: Option<Instant>,
}

impl Attention {
    /// When the next look is due, where one is wanted.
    fn due(&self, now: Instant) -> Option<Instant> {
        self.wanted.then(|| self.last.map_or(now, |last| (last + REST).max(now)))
    }

    /// When healing is to be tried again, where it failed.
    fn heal_due(&self, now: Instant) -> Option<Instant> {
        self.failed.map(|failed| (failed + REST).max(now))
    }

    /// When there is something to do, also where nobody changes anything any more.
    fn next(&self, now: Instant) -> Option<Instant> {
        self.due(now).into_iter().chain(self.heal_due(now)).min()
    }

    fn heal(&mut self, firewall: &Mutex<Firewall>) -> Result<(), Error> {
        let start = Instant::now();
        let healed = lock(firewall).heal();
        self.failed = healed.is_err().then(Instant::now);
        healed?;
        let milliseconds = start.elapsed().as_millis();
        warn!(milliseconds, "somebody changed the firewall's nftables tables: they are as they were");
        Ok(())
    }

    fn look(&mut self, firewall: &Mutex<Firewall>) -> Result<(), Error> {
        let found = attend(firewall);
        (self.last, self.wanted) = (Some(Instant::now()), false);
        for obstacle in self.news(found?) {
            warn!("published ports and what containers send may not get through: {obstacle}");
        }
        Ok(())
    }

    /// What has not been told yet.
    fn news(&mut self, found: Vec<String>) -> Vec<String> {
        let news = found.iter().filter(|obstacle| !self.told.contains(obstacle)).cloned().collect();
        self.told = found;
        news
    }
}

/// Until nobody has the firewall any more: heals what others change.
fn keep(mut watch: Watch, firewall: &Mutex<Firewall>, mut attention: Attention) {
    loop {
        let changed = match watch.wait(attention.next(Instant::now())) {
            Ok(Some(changed)) => changed,
            Ok(None) => return,
            Err(error) => {
                warn!("the firewall is not watched any more: {error}");
                return;
            }
        };
        if let Err(error) = answer(firewall, changed, &mut attention) {
            warn!("somebody changed nftables tables, and the firewall could not be brought back: {error}");
        }
    }
}

fn answer(firewall: &Mutex<Firewall>, changed: Changed, attention: &mut Attention) -> Result<(), Error> {
    attention.wanted |= changed.others;
    let now = Instant::now();
    if changed.ours || attention.heal_due(now).is_some_and(|due| due <= now) {
        attention.heal(firewall)?;
    }
    let now = Instant::now();
    if attention.due(now).is_some_and(|due| due <= now) { attention.look(firewall) } else { Ok(()) }
}

/// A host that forwards takes no router's advertisements any more, and forgets the default route that it has from one,
/// unless its link is told to take them all the same (`accept_ra` 2).
fn keep_advertised_routes() -> Result<(), Error> {
    const LINKS: &str = "/proc/sys/net/ipv6/conf";
    for link in fs::list(LINKS)?.iter().filter(|link| !["all", "default", "lo"].iter().any(|other| link == other)) {
        let accept = format!("{LINKS}/{}/accept_ra", link.to_string_lossy());
        match fs::read_to_string(&accept) {
            Ok(text) if text.trim() == "1" => fs::write(&accept, "2")?,
            Ok(_) => {}
            // The link is gone.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Has the host forward IPv4.
pub fn forward() -> Result<(), Error> {
    if is_off(FORWARD4)? {
        fs::write(FORWARD4, "1")?;
    }
    Ok(())
}

/// Whether the kernel's setting of that path is 0.
pub(crate) fn is_off(path: &str) -> Result<bool, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim() == "0"),
        // A kernel without IPv6, a link that has just gone.
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes the tables of a daemon that does not run into our hands, for them to be deleted.
pub fn hold(name: &str) -> Result<Firewall, Error> {
    Firewall::load(name, Options::default()).map_err(|error| taken(name, error))
}

/// Another daemon's socket owns the table.
fn taken(name: &str, error: gantry_linux::Error) -> Error {
    if error.errno() == libc::EPERM { held(name) } else { error.into() }
}

/// The tables are in the hands of another daemon.
pub fn held(name: &str) -> Error {
    Error::Conflict(format!(
        "nftables table {name} belongs to another daemon that runs: stop that one, or give this one its own --bridge"
    ))
}

/// Whether the host forwards IPv4, and IPv6.
pub fn forwards() -> Result<(bool, bool), Error> {
    Ok((is_on(FORWARD4)?, is_on(FORWARD6)?))
}

/// Has the host forward IPv4, or IPv6, no more.
pub fn stop_forwarding(ipv6: bool) -> Result<(), Error> {
    Ok(fs::write(if ipv6 { FORWARD6 } else { FORWARD4 }, "0")?)
}

fn is_on(path: &str) -> Result<bool, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim() != "0"),
        // A kernel without IPv6.
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Warns of tables that nobody has in his hands.
fn tell_of_orphans(own: &str) {
    let orphans = Firewall::orphans(own).unwrap_or_else(|error| {
        warn!("look for what daemons that do not run left in the host's firewall: {error}");
        Vec::new()
    });
    for table in orphans {
        warn!(
            table,
            "a daemon that does not run left its firewall here, which every packet passes: should it not come back, \
             gantry daemon --clear-network with its --bridge, --data-root, --exec-root and --pidfile removes it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_others_change_they_are_looked_at_once_a_second_and_told_of_once() {
        let start = Instant::now();
        let mut attention = Attention { wanted: true, ..Attention::default() };
        assert_eq!(attention.due(start), Some(start), "the first time at once");
        (attention.last, attention.wanted) = (Some(start), false);
        assert_eq!(attention.due(start), None);
        attention.wanted = true;
        assert_eq!(attention.due(start + REST / 2), Some(start + REST));
        assert_eq!(attention.due(start + REST * 2), Some(start + REST * 2));
        let found = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(attention.news(found(&["a", "b"])), ["a", "b"]);
        assert_eq!(attention.news(found(&["b", "c"])), ["c"]);
        assert_eq!(attention.news(found(&["b", "a"])), ["a"], "what went and came again is news");
    }

    #[test]
    fn tables_that_could_not_be_brought_back_are_tried_again_after_a_second_beside_what_else_is_due() {
        let start = Instant::now();
        let mut attention = Attention::default();
        assert_eq!(attention.next(start), None);
        attention.failed = Some(start);
        assert_eq!(attention.next(start), Some(start + REST));
        assert_eq!(attention.next(start + REST * 2), Some(start + REST * 2));
        attention.wanted = true;
        assert_eq!(attention.next(start), Some(start), "a look that is wanted does not wait for it");
        (attention.last, attention.failed) = (Some(start + REST), None);
        assert_eq!(attention.next(start), Some(start + REST * 2));
    }
}
