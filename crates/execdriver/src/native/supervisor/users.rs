//! A container's own user namespace: made on demand, with the network namespace that must belong to it.

use std::os::fd::{AsFd, OwnedFd};

use gantry_linux::mount::{attach_within, user_and_network_namespaces};
use gantry_linux::process::{self, Clone, CloneFlags};
use gantry_linux::{ResultExt, socket};
use libcontainer::config::{Config, Namespace};
use libcontainer::container::Inside;

use super::start::open_namespace;
use super::{Supervisor, SystemResult, open_names, open_own_netns};
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
    pub(super) fn answer_map_users(&mut self, id: u64, users: &crate::Users, daemon: &OwnedFd) -> SystemResult<()> {
        match self.map_users(users) {
            Ok(()) => self.tell_inside(daemon, &Tell::Reply { id, result: Ok(Done::Ok) }),
            Err(refusal) => protocol::send(daemon, &Tell::Reply { id, result: Err(refusal) }, &[]),
        }
    }

    /// From then on the supervisor itself is in the new network namespace, as it was in the one that it was warm with.
    fn map_users(&mut self, users: &crate::Users) -> Result<(), Refusal> {
        let none = "the mapping of a user namespace has no user 0 or no group 0";
        let root = users.map.outside(0, 0).ok_or_else(|| Refusal::new(Kind::Invalid, none))?;
        let (namespace, network) = match &users.of {
            None => user_and_network_namespaces(&users.map)?,
            Some(path) => {
                let namespace = open_namespace(path)?;
                let network = network_within(&namespace)?;
                (namespace, network)
            }
        };
        process::setns(&network, CloneFlags::NEWNET, "the container's network")?;
        self.users = Some(Users { namespace, root });
        self.names = open_names();
        Ok(())
    }

    /// The users that the configuration wants.
    pub(super) fn users_of(&self, config: &Config) -> Result<Option<&Users>, Refusal> {
        let own = config.namespaces.user != Namespace::Host;
        match &self.users {
            Some(users) if own => Ok(Some(users)),
            None if !own => Ok(None),
            _ => {
                let why = "what was prepared and what is started differ in whether there is a user namespace";
                Err(Refusal::new(Kind::System, why))
            }
        }
    }
}

/// A network namespace that belongs to a user namespace that is there already, made by a process that enters that one.
fn network_within(user: &OwnedFd) -> Result<OwnedFd, Refusal> {
    let (ours, theirs) = socket::pair()?;
    let made = |theirs: &OwnedFd| {
        process::setns(user, CloneFlags::NEWUSER, "another container's users")?;
        process::unshare(CloneFlags::NEWNET)?;
        socket::send(theirs, &[], &[open_own_netns()?.as_fd()])
    };
    match process::clone(CloneFlags::NONE)? {
        Clone::Child => {
            let sent = made(&theirs);
            if let Err(error) = &sent {
                // Then the supervisor sees the end of the stream.
                let _ = socket::send(&theirs, error.to_string().as_bytes(), &[]);
            }
            process::exit_now(i32::from(sent.is_err()))
        }
        Clone::Parent(pid) => {
            drop(theirs);
            let packet = socket::receive(&ours)?.unwrap_or_default();
            process::wait_for(pid)?;
            packet.fds.into_iter().next().ok_or_else(|| {
                let why = String::from_utf8_lossy(&packet.data);
                Refusal::new(Kind::System, format!("make a network namespace in another container's users: {why}"))
            })
        }
    }
}

impl Users {
    /// What the first process is born in.
    pub fn inside(&self, config: &Config) -> SystemResult<Inside> {
        let user = self.namespace.try_clone().during("duplicate", "user namespace")?;
        let own_network = config.namespaces.net == Namespace::New;
        Ok(Inside { user, net: own_network.then(open_own_netns).transpose()? })
    }

    /// The root, mounted where there are rights over the host's file systems.
    pub fn attach_root(&self, config: &Config) -> SystemResult<OwnedFd> {
        attach_within(&config.root, &self.namespace)
    }
}
