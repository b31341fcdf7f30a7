//! What variables stand for while instructions are applied, and how much they may bring.

use std::cell::Cell;
use std::collections::HashMap;

use crate::error::{Error, Result};

/// What all instructions of a request may make out of what was written: each `ENV A=$A$A` doubles the variable.
const LIMIT: usize = 1 << 20;

/// An environment that each of many instructions reads and changes.
pub(super) struct Variables {
    pairs: Vec<String>,
    /// By name; of several the last one counts.
    places: HashMap<String, usize>,
    left: Cell<usize>,
}

impl Variables {
    pub(super) fn new(pairs: Vec<String>) -> Self {
        let name = |pair: &String| pair.split_once('=').map_or(pair.as_str(), |(name, _)| name).to_owned();
        let places = pairs.iter().enumerate().map(|(place, pair)| (name(pair), place)).collect();
        Self { pairs, places, left: Cell::new(LIMIT) }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs[*self.places.get(name)?].split_once('=').map(|(_, value)| value)
    }

    pub(super) fn set(&mut self, name: String, value: &str) {
        let pair = format!("{name}={value}");
        match self.places.get(&name) {
            Some(place) => self.pairs[*place] = pair,
            None => {
                self.places.insert(name, self.pairs.len());
                self.pairs.push(pair);
            }
        }
    }

    /// Counts what more than was written comes into the configuration.
    ///
    /// # Errors
    /// It has become too much.
    pub(super) fn spend(&self, amount: usize) -> Result<()> {
        let left = self.left.get().checked_sub(amount).ok_or_else(|| {
            Error::invalid(format!(
                "the changes make a configuration that is too large: variables and ports may add {LIMIT} bytes"
            ))
        })?;
        self.left.set(left);
        Ok(())
    }

    /// The environment as a configuration has it.
    pub(super) fn into_pairs(self) -> Vec<String> {
        self.pairs
    }
}
