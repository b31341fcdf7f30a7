//! Seats: how many connections of one address are served at once, so that one machine does not take all that a server has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::failure::Failure;
use super::limits::too_many_connections;

/// Connections of one address that are told at once that there are too many; yet further ones are closed without a word.
const TOLD: usize = 16;

/// Who has how many.
#[derive(Debug, Default)]
pub struct Seats(Mutex<HashMap<IpAddr, Taken>>);

#[derive(Debug, Default)]
struct Taken {
    served: usize,
    told: usize,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    address: IpAddr,
    /// More than so many are not served: it is told so, and closed.
    beyond: Option<usize>,
}

impl Seats {
    /// A place for one more of this address, of which at most `limit` are served; none when too many are being told already.
    pub fn take(self: &Arc<Self>, address: IpAddr, limit: usize) -> Option<Seat> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.entry(address).or_default();
        let beyond = if taken.served < limit {
            taken.served += 1;
            None
        } else if taken.told < TOLD {
            taken.told += 1;
            Some(limit)
        } else {
            return None;
        };
        Some(Seat { seats: Arc::clone(self), address, beyond })
    }
}

impl Seat {
    /// What is answered to whatever is asked here, where it is one too many.
    pub fn refusal(&self) -> Option<Failure> {
        self.beyond.map(too_many_connections)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(taken) = all.get_mut(&self.address) else { return };
        let count = if self.beyond.is_some() { &mut taken.told } else { &mut taken.served };
        *count = count.saturating_sub(1);
        if taken.served == 0 && taken.told == 0 {
            all.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_seats_and_is_told_of_a_few_more_and_leaves_nothing_behind() {
        let seats = Arc::new(Seats::default());
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut served: Vec<_> = (0..3).map(|_| seats.take(one, 3).unwrap()).collect();
        assert!(served.iter().all(|seat| seat.refusal().is_none()));
        let told: Vec<_> = (0..TOLD).map(|_| seats.take(one, 3).unwrap()).collect();
        assert!(told.iter().all(|seat| seat.refusal().is_some_and(|failure| failure.status == 429)));
        assert!(seats.take(one, 3).is_none());
        assert!(seats.take(other, 3).unwrap().refusal().is_none(), "others are served");
        // Those that are told take nobody's place.
        served.pop();
        assert!(seats.take(one, 3).unwrap().refusal().is_none());
        drop((served, told));
        assert!(seats.0.lock().unwrap().is_empty());
    }
}
