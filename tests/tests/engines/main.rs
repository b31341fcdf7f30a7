//! `gantry runtime` below other engines: podman, Docker's daemon and containerd, of this machine's distribution and of
//! Debian sid, make their containers with it. Neither runc nor crun can run where these tests do.

mod containerd;
mod docker;
mod engine;
mod podman;
mod promises;
mod sid;
mod system;

use std::path::PathBuf;

use gantry_tests::skip;
use system::System;

/// Where an engine comes from.
#[derive(Debug, Clone, Copy)]
enum Origin {
    /// Installed on this machine by `cargo xtask test`.
    Machine,
    /// A system made by debootstrap.
    Sid,
}

impl Origin {
    /// A system that has `program`; `None`, said loudly, where it cannot be had.
    fn system(self, program: &str) -> Option<System> {
        let lower = match self {
            Self::Machine => PathBuf::from("/"),
            Self::Sid => match sid::tree() {
                Ok(tree) => tree,
                Err(error) => {
                    skip(&format!("{program} OF DEBIAN SID: no sid system can be made: {error}"));
                    return None;
                }
            },
        };
        let system = System::over(&lower).unwrap_or_else(|error| panic!("{error:?}"));
        if !system.has(program) {
            skip(&format!(
                "{program} OF {}: not installed; `cargo xtask test` installs it where apt has it",
                system.name
            ));
            return None;
        }
        Some(system)
    }
}

/// A test for this machine's engine and one for sid's.
macro_rules! of_both {
    ($($name:ident: $test:expr;)+) => { $(
        mod $name {
            use super::*;

            #[test]
            fn of_this_machine() {
                $test(Origin::Machine);
            }

            #[test]
            fn of_debian_sid() {
                $test(Origin::Sid);
            }
        }
    )+ };
}

of_both! {
    podman_runs_execs_stops_kills_and_removes: |from| podman::with(from, promises::life);
    podman_gives_a_terminal: |from| podman::with(from, promises::terminal);
    podman_limits_pauses_updates_and_measures: |from| podman::with(from, promises::limits);
    podman_hands_over_what_a_person_asked_for: |from| podman::with(from, promises::flags);
    docker_runs_execs_stops_kills_and_removes: |from| docker::with(from, promises::life);
    docker_gives_a_terminal: |from| docker::with(from, promises::terminal);
    docker_limits_pauses_updates_and_measures: |from| docker::with(from, promises::limits);
    docker_hands_over_what_a_person_asked_for: |from| docker::with(from, promises::flags);
    docker_connects_by_its_hook_and_knows_both_ways_to_name_a_runtime: docker::names_and_network;
    ctr_runs_execs_kills_and_removes: containerd::life;
    ctr_pauses_limits_and_measures: containerd::limits;
    ctr_gives_a_terminal: containerd::terminal;
}
