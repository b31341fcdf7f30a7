//! A container's own user namespace: made on demand, with the network namespace that must belong to it.

use std::os::fd::{AsFd, OwnedFd};

use gantry_linux::ResultExt;
use gantry_linux::mount::{IdMap, attach_within, user_and_network_namespaces};
use gantry_linux::process::{self, CloneFlags};
use libcontainer::config::{Config, Namespace};
use libcontainer::container::Inside;

use super::{Supervisor, SystemResult, open_own_netns, route_socket};
use crate::native::protocol::{self, Done, Kind, Refusal, Tell};

/// The users of the container.
pub struct Users {
    /// The namespace.
    pub namespace: OwnedFd,
    /// User and group 0 of the container as they are outside.
    pub root: (u32, u32),
}

impl Supervisor {
    /// Makes the namespaces and answers the daemon; fails when the daemon cannot be told.
    pub(super) fn answer_map_users(&mut self, id: u64, map: &IdMap, daemon: &OwnedFd) -> SystemResult<()> {
        match self.map_users(map) {
            Ok((netns, route)) => {
                let tell = Tell::Reply { id, result: Ok(Done::Ok) };
                protocol::send(daemon, &tell, &[netns.as_fd(), route.as_fd()])
            }
            Err(refusal) => protocol::send(daemon, &Tell::Reply { id, result: Err(refusal) }, &[]),
        }
    }

    /// From then on the supervisor itself is in the new network namespace, as it was in the one that it was warm with.
    fn map_users(&mut self, map: &IdMap) -> Result<(OwnedFd, OwnedFd), Refusal> {
        let root = map.outside(0, 0).ok_or_else(|| {
            Refusal::new(Kind::Invalid, "the mapping of a user namespace has no user 0 or no group 0")
        })?;
        let (namespace, network) = user_and_network_namespaces(map)?;
        process::setns(&network, CloneFlags::NEWNET, "the container's network")?;
        self.users = Some(Users { namespace, root });
        Ok((open_own_netns()?, route_socket()?))
    }

    /// The users that the configuration wants.
    pub(super) fn users_of(&self, config: &Config) -> Result<Option<&Users>, Refusal> {
        match (&config.namespaces.user, &self.users) {
            (Namespace::Host, None) => Ok(None),
            (Namespace::New, Some(users)) => Ok(Some(users)),
            (Namespace::Path(_), _) => {
                Err(Refusal::new(Kind::Invalid, "a container of the daemon cannot join a user namespace"))
            }
            (Namespace::New, None) => {
                Err(Refusal::new(Kind::System, "the user namespace was not made before the start"))
            }
            (Namespace::Host, Some(_)) => {
                Err(Refusal::new(Kind::System, "a user namespace was made, and the container has none"))
            }
        }
    }
}

impl Users {
    /// What the first process is born in.
    pub fn inside(&self) -> SystemResult<Inside> {
        let user = self.namespace.try_clone().during("duplicate", "user namespace")?;
        Ok(Inside { user, net: open_own_netns()? })
    }

    /// The root, mounted where there are rights over the host's file systems.
    pub fn attach_root(&self, config: &Config) -> SystemResult<OwnedFd> {
        attach_within(&config.root, &self.namespace)
    }
}
