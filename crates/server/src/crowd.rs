//! How many may be at a door at once: memory, descriptors and threads stay bounded whatever comes, and who crowds one door
//! keeps nobody from another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gantry_api::ErrorKind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Failure, Result};

/// How many may be in their TLS handshake at once; who comes beyond that is sent away, so that those who are known get in.
const ENTERING: usize = 1024;
/// Places that a door has for itself at most.
const OWN: usize = 1024;
/// Archives that are under way at once through all doors: each holds a thread that waits for its client, and the runtime
/// has 512 of them.
const ARCHIVES: usize = 192;
/// Through one door at most.
const ARCHIVES_OF_A_DOOR: usize = 64;
/// Descriptors that a relayed stream has beyond its connection's own.
const RELAY: u32 = 3;
/// How long one more archive waits for its turn.
const TURN: Duration = Duration::from_secs(30);
/// So many at once at a door are a crowd, whose memory the process gives back when most of them have left.
const MANY: usize = 1000;

/// Those at one door.
pub struct Crowd {
    entering: Arc<Semaphore>,
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
    archives: Arc<Semaphore>,
    here: AtomicUsize,
    /// The most that were here at once since memory was given back.
    most: AtomicUsize,
}

/// A place at a door. Whoever has the connection keeps it, also when it is no longer HTTP.
#[derive(Clone)]
pub struct Seat {
    crowd: Arc<Crowd>,
    _place: Arc<OwnedSemaphorePermit>,
}

/// The places of a stream that a job takes over.
pub struct Places {
    _seat: Seat,
    _more: Option<OwnedSemaphorePermit>,
}

impl Crowd {
    /// One for each of so many doors.
    pub fn of(doors: usize) -> Vec<Arc<Self>> {
        // The rest of the descriptors is for containers, layers and the database.
        Self::with(doors, (gantry_transport::descriptor_limit() / 4 * 3).max(64))
    }

    fn with(doors: usize, places: usize) -> Vec<Arc<Self>> {
        let doors = doors.max(1);
        let own = OWN.min(places / (4 * doors)).max(1);
        let shared = Arc::new(Semaphore::new(places.saturating_sub(own * doors)));
        let archives = ARCHIVES_OF_A_DOOR.min(ARCHIVES / doors).max(1);
        let one = |_| {
            Arc::new(Self {
                entering: Arc::new(Semaphore::new(ENTERING)),
                own: Arc::new(Semaphore::new(own)),
                shared: Arc::clone(&shared),
                archives: Arc::new(Semaphore::new(archives)),
                here: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
            })
        };
        (0..doors).map(one).collect()
    }

    /// The next place: one of this door's own, or one that any door may have.
    pub async fn seat(self: &Arc<Self>) -> std::io::Result<Seat> {
        let place = tokio::select! {
            biased;
            own = Arc::clone(&self.own).acquire_owned() => own,
            shared = Arc::clone(&self.shared).acquire_owned() => shared,
        };
        let place = Arc::new(place.map_err(std::io::Error::other)?);
        Ok(Seat { crowd: Arc::clone(self), _place: place })
    }

    /// One more is here.
    pub fn came(&self) {
        let here = self.here.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(here, Ordering::Relaxed);
    }

    /// One has left. True for the one who leaves when a crowd has become few: what they needed can go back to the kernel.
    pub fn left(&self) -> bool {
        let here = self.here.fetch_sub(1, Ordering::Relaxed) - 1;
        let most = self.most.load(Ordering::Relaxed);
        most >= MANY
            && here <= most / 8
            && self.most.compare_exchange(most, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A place in the handshake; none when too many are there.
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.entering).try_acquire_owned().ok()
    }
}

impl Seat {
    /// This place and those that a stream needs besides where it has to be relayed.
    pub fn for_stream(&self, relayed: bool) -> Result<Places> {
        if !relayed {
            return Ok(Places { _seat: self.clone(), _more: None });
        }
        let take = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_many_owned(RELAY).ok();
        let more = take(&self.crowd.shared).or_else(|| take(&self.crowd.own));
        let full = || {
            let why = "too many streams and connections are at this door to relay one more: try again later";
            Failure::new(ErrorKind::Unavailable, why)
        };
        Ok(Places { _seat: self.clone(), _more: Some(more.ok_or_else(full)?) })
    }

    /// Leave to read or write an archive, for as long as the value lives.
    pub async fn archive(&self) -> Result<OwnedSemaphorePermit> {
        self.archive_within(TURN).await
    }

    async fn archive_within(&self, patience: Duration) -> Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.crowd.archives).acquire_owned();
        let busy = || {
            let seconds = patience.as_secs();
            Failure::new(
                ErrorKind::Unavailable,
                format!(
                    "too many archives are read and written through this door, and none ended in {seconds} s: try again later"
                ),
            )
        };
        tokio::time::timeout(patience, turn).await.ok().and_then(std::result::Result::ok).ok_or_else(busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_crowds_one_door_leaves_the_others_their_own_places() {
        let crowds = Crowd::with(2, 64);
        let mut seats = Vec::new();
        while let Ok(seat) = tokio::time::timeout(Duration::from_millis(20), crowds[0].seat()).await {
            seats.push(seat.unwrap());
        }
        assert_eq!(seats.len(), 64 - 8);
        let other = crowds[1].seat().await.unwrap();
        // A place is kept by the last who has it.
        let copy = seats[0].clone();
        drop(seats.remove(0));
        assert!(tokio::time::timeout(Duration::from_millis(20), crowds[0].seat()).await.is_err());
        drop(copy);
        drop(crowds[0].seat().await.unwrap());
        drop(other);
    }

    #[test]
    fn a_crowd_that_has_left_says_so_once_and_a_few_never() {
        let crowd = Crowd::with(1, 64).remove(0);
        let come_and_go = |count: usize| {
            (0..count).for_each(|_| crowd.came());
            (0..count).filter(|_| crowd.left()).count()
        };
        assert_eq!(come_and_go(MANY - 1), 0);
        assert_eq!(come_and_go(MANY), 1);
        assert_eq!(come_and_go(MANY - 1), 0, "the crowd before is forgotten");
        assert_eq!(come_and_go(10 * MANY), 1);
    }

    #[tokio::test]
    async fn who_finds_no_places_for_a_relay_is_refused_before_anything_is_taken_over() {
        let crowds = Crowd::with(1, 64);
        let seat = crowds[0].seat().await.unwrap();
        let mut relayed = Vec::new();
        let refused = loop {
            match seat.for_stream(true) {
                Ok(places) => relayed.push(places),
                Err(refused) => break refused.into_response(),
            }
        };
        assert_eq!((refused.status().as_u16(), relayed.len()), (503, 63 / RELAY as usize));
        // What is given away as it is takes nothing more.
        drop(seat.for_stream(false).unwrap());
        relayed.pop();
        drop(seat.for_stream(true).unwrap());
    }

    #[tokio::test]
    async fn one_archive_more_than_there_is_room_for_waits_and_is_refused() {
        let crowds = Crowd::with(3, 300);
        let seat = crowds[0].seat().await.unwrap();
        let mut all = Vec::new();
        for _ in 0..ARCHIVES_OF_A_DOOR {
            all.push(seat.archive().await.unwrap());
        }
        let refused = seat.archive_within(Duration::from_millis(20)).await.unwrap_err().into_response();
        assert_eq!(refused.status(), 503);
        drop(crowds[1].seat().await.unwrap().archive().await.unwrap());
        all.pop();
        drop(seat.archive().await.unwrap());
    }
}
