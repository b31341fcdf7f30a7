//! What names mean to a policy, resolved once: a job that was judged is done to what was judged, and to nothing that came
//! to be called so a moment later.

use std::path::Path;
use std::sync::Arc;

use gantry_api::container::CreateRequest;

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
        if let Ok(network) = self.engine.networks.find(self.engine, name) {
            *name = network.id;
        }
    }

    /// All that a container which is to be made has of others, and of the host without links on the way.
    pub fn request(&self, request: &mut CreateRequest) {
        let host = &mut request.host_config;
        for mode in [&mut host.network_mode, &mut host.pid_mode, &mut host.ipc_mode] {
            if let Some(name) = mode.strip_prefix("container:") {
                let mut name = name.to_owned();
                self.container(&mut name);
                *mode = format!("container:{name}");
            }
        }
        for other in host.volumes_from.iter_mut().flatten() {
            let (name, mode) = other.split_once(':').map_or((other.as_str(), None), |(name, mode)| (name, Some(mode)));
            let mut name = name.to_owned();
            self.container(&mut name);
            *other = mode.map_or_else(|| name.clone(), |mode| format!("{name}:{mode}"));
        }
        for bind in host.binds.iter_mut().flatten() {
            if let Some((source, rest)) = bind.split_once(':')
                && let Some(real) = real(source)
            {
                *bind = format!("{real}:{rest}");
            }
        }
        for mount in host.mounts.iter_mut().flatten().filter(|mount| mount.kind == "bind") {
            if let Some(real) = real(&mount.source) {
                mount.source = real;
            }
        }
        for link in host.links.iter_mut().flatten() {
            let (name, alias) = link.split_once(':').unwrap_or((link, link));
            let mut id = name.to_owned();
            self.container(&mut id);
            *link = format!("{id}:{}", alias.trim_start_matches('/'));
        }
    }
}

/// Where a path of the host leads; `None` where that is nothing yet, or cannot be written as a bind.
fn real(path: &str) -> Option<String> {
    let path = super::plain(Path::new(path)).filter(|path| path.is_absolute())?;
    let real = gantry_linux::fs::canonicalize(&path).ok()?.into_os_string().into_string().ok()?;
    (!real.contains(':')).then_some(real)
}
