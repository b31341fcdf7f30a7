//! Other engines and ours: podman, Docker's daemon and containerd, of this machine's distribution and of Debian sid, make
//! their containers with `gantry runtime`, and their images are ours and ours theirs. Neither runc nor crun can run where
//! these tests do.

mod containerd;
mod docker;
mod engine;
mod images;
mod podman;
mod promises;
mod registry;
mod system;

use std::path::PathBuf;

use gantry_tests::{sid, skip};
use system::{Cgroups, System};

/// The kinds of archives that podman saves.
const PODMAN_FORMATS: [&[&str]; 2] = [&["--format", "docker-archive"], &["--format", "oci-archive"]];

/// Where an engine comes from.
#[derive(Debug, Clone, Copy)]
enum Origin {
    /// Installed on this machine by `cargo xtask test`.
    Machine,
    /// A system made by debootstrap.
    Sid,
    /// The same, where only cgroup version 2 is to be seen.
    SidWithCgroup2,
}

impl Origin {
    /// A system that has `program`; `None`, said loudly, where it cannot be had.
    fn system(self, program: &str) -> Option<System> {
        let cgroups = if matches!(self, Self::SidWithCgroup2) { Cgroups::Version2 } else { Cgroups::AsHere };
        let lower = match self {
            Self::Machine => PathBuf::from("/"),
            Self::Sid | Self::SidWithCgroup2 => match sid::tree() {
                Ok(tree) => tree,
                Err(error) => {
                    skip(&format!("{program} OF DEBIAN SID: no sid system can be made: {error}"));
                    return None;
                }
            },
        };
        let system = System::over(&lower, cgroups).unwrap_or_else(|error| panic!("{error:?}"));
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
    podman_pauses: |from| podman::with(from, promises::pause);
    podman_limits_updates_and_measures: |from| podman::with(from, promises::limits);
    podman_hands_over_what_a_person_asked_for: |from| podman::with(from, promises::flags);
    podman_maps_users: |from| podman::with(from, |podman| promises::users(podman, &podman::MAPPED));
    podman_serves_a_plain_user: |from| podman::with_plain_user(from, promises::life);
    docker_runs_execs_stops_kills_and_removes: |from| docker::with(from, promises::life);
    docker_gives_a_terminal: |from| docker::with(from, promises::terminal);
    docker_pauses: |from| docker::with(from, promises::pause);
    docker_limits_updates_and_measures: |from| docker::with(from, promises::limits);
    docker_hands_over_what_a_person_asked_for: |from| docker::with(from, promises::flags);
    docker_maps_users: |from| docker::with_remapped_users(from, |docker| promises::users(docker, &[]));
    docker_connects_by_its_hook_and_knows_both_ways_to_name_a_runtime: docker::names_and_network;
    docker_finds_its_containers_again_after_a_kill_9: docker::live_restore;
    docker_and_ours_exchange_images: |from| docker::with(from, |docker| images::exchange(docker, &[&[]]));
    docker_and_ours_exchange_images_by_our_registry: |from| docker::with(from, registry::exchange);
    podman_and_ours_exchange_images: |from| podman::with(from, |podman| images::exchange(podman, &PODMAN_FORMATS));
    skopeo_reads_and_writes_images_of_ours: images::skopeo;
    ctr_runs_execs_kills_and_removes: containerd::life;
    ctr_pauses_limits_and_measures: containerd::limits;
    ctr_gives_a_terminal: containerd::terminal;
    ctr_maps_users: containerd::users;
}

#[test]
fn docker_runs_execs_stops_kills_and_removes_with_cgroup_2_only() {
    docker::with(Origin::SidWithCgroup2, promises::life);
}

#[test]
fn docker_pauses_with_cgroup_2_only() {
    docker::with(Origin::SidWithCgroup2, promises::pause);
}

#[test]
fn podman_runs_execs_stops_kills_and_removes_with_cgroup_2_only() {
    podman::with(Origin::SidWithCgroup2, promises::life);
}
