//! How much one caller may ask for: token buckets by address and by user.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_transport::Peer;
use http::header::{HeaderValue, RETRY_AFTER};
use serde::Deserialize;
use tokio::sync::MutexGuard;

use super::config::Size;
use super::locks::Locks;
use super::{Code, Failure, Result};

/// The most callers that are told apart. Beyond it those that asked for nothing lately are forgotten.
const CALLERS: usize = 1 << 16;

/// The section `limits` of the configuration. 0 is no limit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitSettings {
    /// Requests of one address per second, over time.
    pub requests_per_second: u32,
    /// Requests of one address at once.
    pub burst: u32,
    /// Requests of one user per second, over time, from wherever.
    pub user_requests_per_second: u32,
    /// Requests of one user at once.
    pub user_burst: u32,
    /// Wrong passwords and tokens of one address per minute.
    pub failed_logins_per_minute: u32,
    /// The largest body of one request.
    pub request_bytes: Size,
    /// Connections of one address at once; half of what the server takes in all unless set.
    pub connections: Option<usize>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            requests_per_second: 0,
            burst: 0,
            user_requests_per_second: 0,
            user_burst: 0,
            failed_logins_per_minute: 30,
            request_bytes: Size(0),
            connections: None,
        }
    }
}

/// All buckets.
pub struct Limits {
    addresses: Buckets<IpAddr>,
    users: Buckets<String>,
    failures: Buckets<IpAddr>,
    /// Whose password is being checked: the next one of that address waits, and then meets what became of it.
    turns: Locks,
}

/// Buckets that fill again with time.
struct Buckets<K> {
    /// Per second; 0: never empty.
    rate: f64,
    size: f64,
    table: Mutex<HashMap<K, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Limits {
    /// Full buckets of these sizes.
    #[must_use]
    pub fn new(settings: &LimitSettings) -> Self {
        let failures = f64::from(settings.failed_logins_per_minute);
        Self {
            addresses: Buckets::new(settings.requests_per_second.into(), settings.burst.into()),
            users: Buckets::new(settings.user_requests_per_second.into(), settings.user_burst.into()),
            failures: Buckets::new(failures / 60.0, failures),
            turns: Locks::default(),
        }
    }

    /// One request from there.
    ///
    /// # Errors
    /// 429, with the seconds to wait.
    pub fn request(&self, peer: &Peer) -> Result<()> {
        let Some(address) = address(peer) else { return Ok(()) };
        self.addresses.take(address, Instant::now()).map_err(|pause| too_many("requests from this address", pause))
    }

    /// One request of this user.
    ///
    /// # Errors
    /// 429, with the seconds to wait.
    pub fn user(&self, user: &str) -> Result<()> {
        self.users.take(user.to_owned(), Instant::now()).map_err(|pause| too_many("requests of this user", pause))
    }

    /// Waits until no other password from that address is being checked.
    pub async fn turn(&self, peer: &Peer) -> Option<MutexGuard<'_, ()>> {
        match address(peer) {
            Some(address) => Some(self.turns.hold(address).await),
            None => None,
        }
    }

    /// Whether that address may try a password or token.
    ///
    /// # Errors
    /// 429, when too many were wrong.
    pub fn may_log_in(&self, peer: &Peer) -> Result<()> {
        let Some(address) = address(peer) else { return Ok(()) };
        let pause = self.failures.pause(&address, Instant::now());
        pause.map_or(Ok(()), |pause| Err(too_many("wrong passwords or tokens from this address", pause)))
    }

    /// A wrong password or token came from there.
    pub fn failed(&self, peer: &Peer) {
        if let Some(address) = address(peer) {
            // It is answered by its own refusal; the next one meets the empty bucket.
            let _ = self.failures.take(address, Instant::now());
        }
    }
}

/// Whom a connection counts for.
fn address(peer: &Peer) -> Option<IpAddr> {
    let Peer::Remote { address, .. } = peer else { return None };
    Some(caller(address.ip()))
}

/// Whom an address counts for: of IPv6 the network, for whoever has one address there has all of them.
pub(super) fn caller(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// 429 to a connection beyond those of one address.
pub(super) fn too_many_connections(limit: usize) -> Failure {
    too_many(&format!("connections from this address: {limit} are served at once"), Duration::from_secs(1))
}

fn too_many(what: &str, pause: Duration) -> Failure {
    let seconds = pause.as_secs_f64().ceil().max(1.0);
    let message = format!("too many {what}; try again in {seconds} s");
    let value = HeaderValue::try_from(format!("{seconds}")).expect("a number");
    Failure::new(Code::TooManyRequests, message).header(RETRY_AFTER, value)
}

impl<K: Hash + Eq> Buckets<K> {
    fn new(rate: f64, size: f64) -> Self {
        Self { rate, size: size.max(rate).max(1.0), table: Mutex::default() }
    }

    fn now(&self, bucket: Option<&Bucket>, now: Instant) -> f64 {
        let Some(Bucket { left, at }) = bucket else { return self.size };
        (left + now.saturating_duration_since(*at).as_secs_f64() * self.rate).min(self.size)
    }

    /// How long until there is something in it again.
    fn wait(&self, left: f64) -> Option<Duration> {
        // A day is as good as never, and safe to compute with.
        (left < 1.0).then(|| Duration::from_secs_f64(((1.0 - left) / self.rate).min(86400.0)))
    }

    fn pause(&self, key: &K, now: Instant) -> Option<Duration> {
        if self.rate <= 0.0 {
            return None;
        }
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait(self.now(table.get(key), now))
    }

    fn take(&self, key: K, now: Instant) -> std::result::Result<(), Duration> {
        if self.rate <= 0.0 {
            return Ok(());
        }
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.now(table.get(&key), now);
        if let Some(pause) = self.wait(left) {
            return Err(pause);
        }
        if table.len() >= CALLERS && !table.contains_key(&key) {
            table.retain(|_, bucket| self.now(Some(bucket), now) < self.size);
            // Still that many: to forget all is better than to grow, or to refuse who comes now.
            if table.len() >= CALLERS {
                table.clear();
            }
        }
        table.insert(key, Bucket { left: left - 1.0, at: now });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Remote { address: text.parse().unwrap(), subject: None }
    }

    #[test]
    fn a_bucket_lets_a_burst_through_then_its_rate_and_says_how_long_to_wait() {
        let buckets = Buckets::new(2.0, 3.0);
        let start = Instant::now();
        for _ in 0..3 {
            buckets.take("a", start).unwrap();
        }
        let pause = buckets.take("a", start).unwrap_err();
        assert_eq!(pause, Duration::from_millis(500));
        assert!(buckets.take("a", start + Duration::from_millis(499)).is_err());
        buckets.take("a", start + pause).unwrap();
        buckets.take("b", start).unwrap();
        // Rest does not save up more than the burst.
        let late = start + Duration::from_secs(3600);
        assert_eq!((0..9).filter(|_| buckets.take("a", late).is_ok()).count(), 3);
    }

    #[test]
    fn no_limit_is_none_and_a_time_that_goes_backwards_is_no_gift() {
        let buckets = Buckets::new(0.0, 0.0);
        assert!((0..1000).all(|_| buckets.take(1, Instant::now()).is_ok()));
        let buckets = Buckets::new(1.0, 1.0);
        let now = Instant::now();
        buckets.take(1, now + Duration::from_secs(9)).unwrap();
        assert!(buckets.take(1, now).is_err());
    }

    #[test]
    fn callers_are_addresses_and_of_ipv6_networks() {
        let limits = Limits::new(&LimitSettings { requests_per_second: 1, ..LimitSettings::default() });
        limits.request(&peer("192.0.2.1:1")).unwrap();
        let failure = limits.request(&peer("192.0.2.1:2")).unwrap_err();
        assert_eq!(failure.status.as_u16(), 429);
        assert_eq!(failure.headers, [(RETRY_AFTER, HeaderValue::from_static("1"))]);
        limits.request(&peer("192.0.2.2:1")).unwrap();
        limits.request(&peer("[2001:db8::1]:1")).unwrap();
        assert!(limits.request(&peer("[2001:db8::2]:1")).is_err());
        assert!(limits.request(&peer("[::ffff:192.0.2.1]:1")).is_err(), "the same address in other clothes");
    }

    #[test]
    fn the_table_of_callers_does_not_grow_without_end() {
        let buckets = Buckets::new(0.001, 1.0);
        let now = Instant::now();
        for key in 0..CALLERS + 10 {
            buckets.take(key, now).unwrap();
        }
        assert!(buckets.table.lock().unwrap().len() <= CALLERS);
    }

    #[test]
    fn wrong_passwords_are_counted_and_right_ones_are_not() {
        let limits = Limits::new(&LimitSettings { failed_logins_per_minute: 2, ..LimitSettings::default() });
        let peer = peer("192.0.2.1:1");
        for _ in 0..5 {
            limits.may_log_in(&peer).unwrap();
        }
        limits.failed(&peer);
        limits.failed(&peer);
        assert_eq!(limits.may_log_in(&peer).unwrap_err().status.as_u16(), 429);
    }
}
