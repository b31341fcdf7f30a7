//! What names mean to a policy, resolved once: a job that was judged is done to what was judged, and to nothing that came
//! to be called so a moment later.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use gantry_api::container::CreateRequest;
use gantry_api::network::EndpointSettings;

use super::rules::Rules;
use crate::Engine;

/// The containers and networks that a policy knows, by their names. What it does not know keeps its name, and is refused
/// by it.
pub struct Known<'a> {
    engine: &'a Engine,
    rules: Arc<Rules>,
}

impl<'a> Known<'a> {
    pub(super) const fn new(engine: &'a Engine, rules: Arc<Rules>) -> Self {
        Self { engine, rules }
    }

    /// A container by its id.
    pub fn container(&self, name: &mut String) {
        if let Ok(container) = self.rules.container(self.engine, name) {
            container.id().clone_into(name);
        }
    }

    /// A network by its id.
    pub fn network(&self, name: &mut String) {
        if let Ok(network) = self.engine.networks.find_among(self.engine, name, |labels| self.rules.selects(labels)) {
            *name = network.id;
        }
    }

    /// Containers that another one calls by names of its own, as `container:alias`.
    pub fn links(&self, links: Option<&mut Vec<String>>) {
        for link in links.into_iter().flatten() {
            let (name, alias) = link.split_once(':').unwrap_or((link, link));
            let mut id = name.to_owned();
            self.container(&mut id);
            *link = format!("{id}:{}", alias.trim_start_matches('/'));
        }
    }

    /// Another container's namespace.
    fn namespace(&self, mode: &mut String) {
        if let Some(name) = mode.strip_prefix("container:") {
            let mut name = name.to_owned();
            self.container(&mut name);
            *mode = format!("container:{name}");
        }
    }

    /// A network that a container is to be on, or another container's. What every daemon has keeps its name.
    fn place(&self, name: &mut String) {
        if name.contains(':') {
            self.namespace(name);
        } else if !crate::networks::is_predefined(name) {
            self.network(name);
        }
    }

    fn places(&self, places: &mut BTreeMap<String, EndpointSettings>) {
        let said: BTreeSet<String> = places.keys().cloned().collect();
        for name in &said {
            let Some(mut settings) = places.remove(name) else { continue };
            self.links(settings.links.as_mut());
            let mut id = name.clone();
            self.place(&mut id);
            // What is named twice stays so, to be refused.
            let taken = id != *name && (said.contains(&id) || places.contains_key(&id));
            places.insert(if taken { name.clone() } else { id }, settings);
        }
    }

    /// All that a container which is to be made has of others, and of the host without links on the way.
    pub fn request(&self, request: &mut CreateRequest) {
        let host = &mut request.host_config;
        self.place(&mut host.network_mode);
        self.namespace(&mut host.pid_mode);
        self.namespace(&mut host.ipc_mode);
        for other in host.volumes_from.iter_mut().flatten() {
            let (name, mode) = other.split_once(':').map_or((other.as_str(), None), |(name, mode)| (name, Some(mode)));
            let mut name = name.to_owned();
            self.container(&mut name);
            *other = mode.map_or_else(|| name.clone(), |mode| format!("{name}:{mode}"));
        }
        for bind in host.binds.iter_mut().flatten() {
            if let Some((source, rest)) = bind.split_once(':')
                && let Some(real) = self.real(source)
            {
                *bind = format!("{real}:{rest}");
            }
        }
        for mount in host.mounts.iter_mut().flatten().filter(|mount| mount.kind == "bind") {
            if let Some(real) = self.real(&mount.source) {
                mount.source = real;
            }
        }
        self.links(host.links.as_mut());
        if let Some(places) = &mut request.networking_config.endpoints_config {
            self.places(places);
        }
    }

    /// Where a path of the host leads; `None` where it may not be mounted, and is refused as it was asked for, or where
    /// that cannot be written as a bind.
    fn real(&self, path: &str) -> Option<String> {
        let path = super::plain(Path::new(path)).filter(|path| path.is_absolute() && self.rules.lists(path))?;
        let real = gantry_linux::fs::follow(&path).ok().filter(|real| self.rules.lists(real))?;
        let real = real.into_os_string().into_string().ok()?;
        (!real.contains(':')).then_some(real)
    }
}
