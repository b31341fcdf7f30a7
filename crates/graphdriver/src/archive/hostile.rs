//! Hostile archives
