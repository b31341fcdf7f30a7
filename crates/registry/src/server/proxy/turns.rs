//! Turns: of those who are about the same thing one is served at a time, and nobody waits for what has another name.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// A lock for each thing that somebody is about.
pub struct Turns<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits until nobody else is about it.
    pub async fn hold(&self, thing: K) -> OwnedMutexGuard<()> {
        self.turn(thing).lock_owned().await
    }

    fn turn(&self, thing: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&thing).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(thing, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    /// The turn, if nobody has it.
    async fn now(turns: &Turns<u32>, thing: u32) -> Option<OwnedMutexGuard<()>> {
        tokio::time::timeout(Duration::ZERO, turns.hold(thing)).await.ok()
    }

    #[tokio::test]
    async fn who_is_about_the_same_thing_waits_and_nobody_else_does() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for thing in 0..1000 {
            held.push(now(&turns, thing).await.expect("nobody has it"));
        }
        assert!(now(&turns, 999).await.is_none());
        held.pop();
        assert!(now(&turns, 999).await.is_some());
        drop(held);
        drop(now(&turns, 0).await);
        assert!(turns.0.lock().unwrap().len() <= 1, "what nobody is about is forgotten");
    }
}
