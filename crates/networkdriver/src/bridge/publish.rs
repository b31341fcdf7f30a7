//! Ports that come to a container, or go, while it is joined.

use tracing::warn;

use super::{Bridge, Held, change_mode, forget, forget_earlier};
use crate::ports::{Lease, short};
use crate::{Error, PublishPort, PublishedPort};

impl Bridge {
    /// Publishes ports of a container that is joined and has none.
    pub(super) fn publish_more(&self, container: &str, ports: &[PublishPort]) -> Result<Vec<PublishedPort>, Error> {
        let mut state = self.lock();
        let wanted = ports.iter().map(|port| self.wanted(port)).collect::<Result<Vec<_>, _>>()?;
        let leases = self.options.ports.take(container, &wanted)?;
        let gone = || Error::Conflict(format!("container {} is not joined to {}", short(container), self.options.name));
        let held = state.held.remove(container).ok_or_else(gone)?;
        let with = Held { ports: leases, ..held };
        let mut shown = self.set_mode(&mut state, &with);
        if let (Ok(()), Some(wall)) = (&shown, &self.options.wall) {
            shown = wall.lock().add(&with.elements()).map_err(Error::from);
        }
        let published = with.ports.iter().flat_map(Lease::ports).collect();
        let held = if shown.is_ok() { with } else { Held { ports: Vec::new(), ..with } };
        let elements = held.elements();
        state.held.insert(container.into(), held);
        drop(state);
        forget_earlier(&elements);
        shown.map(|()| published)
    }

    /// Takes the ports of a container off the host.
    pub(super) fn withdraw_all(&self, container: &str) -> Result<(), Error> {
        let mut state = self.lock();
        let Some(held) = state.held.remove(container) else { return Ok(()) };
        let elements = held.elements();
        let removed = self.close(&elements);
        // They are its own until they lead nowhere.
        let Held { ports: _ports, host_link, addresses } = held;
        let held = Held { ports: Vec::new(), host_link, addresses };
        // The ports are closed also where this fails, and an answer that goes back to where it came from harms nobody.
        if let Some(Err(error)) = (!elements.is_empty()).then(|| change_mode(&mut state, &held, self.mode(&held))) {
            warn!("the ports of container {} are closed, but its link is as it was: {error}", short(container));
        }
        state.held.insert(container.into(), held);
        drop(state);
        removed?;
        forget(&elements);
        Ok(())
    }
}
