//! `networks`, `network_inspect`, `network_create`, `network_remove`, `network_connect` and `network_disconnect`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gantry_api::filters::Filters;
use gantry_api::network::{EndpointSettings, Network, NetworkCreated};

use crate::container::Container;
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::networks::{self, Document};
use crate::policy::{Known, Subject};

/// Lists networks.
pub struct Networks {
    /// As the query says them.
    pub filters: Option<String>,
}

impl Job for Networks {
    const NAME: &'static str = "networks";
    const DOC: &'static str = "lists networks";
    const CLASS: Class = Class::Read;
    type Output = Vec<Network>;

    async fn run(self, context: Context) -> Result<Vec<Network>> {
        let known = ["dangling", "driver", "id", "label", "name", "scope", "type"];
        let filters = Filters::parse(self.filters.as_deref(), &known)?;
        let (names, ids) = (filters.matcher("name")?, filters.matcher("id")?);
        let dangling = filters.boolean("dangling")?;
        if let Some(kind) = filters.get("type").find(|kind| !matches!(*kind, "builtin" | "custom")) {
            return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
        }
        let unused: BTreeSet<String> =
            context.engine.networks.unused(&context.engine).into_iter().map(|network| network.name).collect();
        let mut networks = context.engine.networks.all(&context.engine);
        networks.retain(|network| {
            (networks::is_predefined(&network.name) || context.environment.shows(&network.labels))
                && names.matches(&network.name)
                && ids.matches(&network.id)
                && filters.any("driver", |driver| network.driver == driver)
                && filters.any("scope", |scope| network.scope == scope)
                && filters.any("type", |kind| (kind == "builtin") == networks::is_predefined(&network.name))
                && filters.labels(&network.labels)
                && dangling.is_none_or(|dangling| unused.contains(&network.name) == dangling)
        });
        for network in &mut networks {
            // Lists do not say who is on a network.
            network.containers.clear();
        }
        Ok(networks)
    }
}

/// Shows a network.
pub struct NetworkInspect {
    /// Name or id.
    pub network: String,
}

impl Job for NetworkInspect {
    const NAME: &'static str = "network_inspect";
    const DOC: &'static str = "shows a network";
    const CLASS: Class = Class::Read;
    type Output = Network;

    fn subject(&self) -> Subject<'_> {
        Subject::Network(&self.network)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.network(&mut self.network);
    }

    fn arguments(&self) -> String {
        self.network.clone()
    }

    async fn run(self, context: Context) -> Result<Network> {
        let mut network = context.engine.networks.get(&context.engine, &self.network)?;
        let is_shown = |id: &String| {
            let container = context.engine.containers.get(id);
            container.is_ok_and(|container| context.environment.shows(&container.record().labels()))
        };
        network.containers.retain(|id, _| is_shown(id));
        Ok(network)
    }
}

/// Makes a network.
pub struct NetworkCreate {
    /// What was asked for.
    pub request: gantry_api::network::NetworkCreate,
}

impl Job for NetworkCreate {
    const NAME: &'static str = "network_create";
    const DOC: &'static str = "makes a network";
    const CLASS: Class = Class::Change;
    type Output = NetworkCreated;

    fn subject(&self) -> Subject<'_> {
        Subject::NewNetwork(&self.request)
    }

    fn arguments(&self) -> String {
        self.request.name.clone()
    }

    async fn run(self, context: Context) -> Result<NetworkCreated> {
        let engine = context.engine;
        blocking(move || {
            let (document, warning) = engine.networks.create(&engine, self.request)?;
            tell(&engine, &document, "create");
            Ok(NetworkCreated { id: document.definition.id, warning })
        })
        .await
    }
}

/// Removes a network that no container is on.
pub struct NetworkRemove {
    /// Name or id.
    pub network: String,
}

impl Job for NetworkRemove {
    const NAME: &'static str = "network_remove";
    const DOC: &'static str = "removes a network";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Network(&self.network)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.network(&mut self.network);
    }

    fn arguments(&self) -> String {
        self.network.clone()
    }

    async fn run(self, context: Context) -> Result<()> {
        let engine = context.engine;
        blocking(move || remove(&engine, &self.network)).await
    }
}

/// Removes a network, and tells everybody.
pub(super) fn remove(engine: &Engine, network: &str) -> Result<()> {
    let document = engine.networks.remove(engine, network)?;
    tell(engine, &document, "destroy");
    Ok(())
}

fn tell(engine: &Engine, document: &Document, action: &str) {
    let Document { name, definition, .. } = document;
    let attributes =
        BTreeMap::from([("name".to_owned(), name.clone()), ("type".to_owned(), definition.driver.clone())]);
    engine.events.publish("network", action, &definition.id, attributes);
}

/// Puts a container on a network.
pub struct NetworkConnect {
    /// Name or id.
    pub network: String,
    /// Name or id.
    pub container: String,
    /// What is asked of its place there.
    pub settings: EndpointSettings,
}

impl Job for NetworkConnect {
    const NAME: &'static str = "network_connect";
    const DOC: &'static str = "puts a container on a network";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Place {
            network: &self.network,
            container: &self.container,
            links: self.settings.links.as_deref().unwrap_or_default(),
        }
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.network(&mut self.network);
        known.container(&mut self.container);
        known.links(self.settings.links.as_mut());
    }

    fn arguments(&self) -> String {
        format!("{} {}", self.network, self.container)
    }

    async fn run(self, context: Context) -> Result<()> {
        let Self { network, container, settings } = self;
        change(context.engine, &container, move |engine, container| {
            networks::connect(engine, container, &network, settings)
        })
        .await
    }
}

/// Takes a container off a network.
pub struct NetworkDisconnect {
    /// Name or id.
    pub network: String,
    /// Name or id.
    pub container: String,
}

impl Job for NetworkDisconnect {
    const NAME: &'static str = "network_disconnect";
    const DOC: &'static str = "takes a container off a network";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Place { network: &self.network, container: &self.container, links: &[] }
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.network(&mut self.network);
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        format!("{} {}", self.network, self.container)
    }

    async fn run(self, context: Context) -> Result<()> {
        let Self { network, container } = self;
        change(context.engine, &container, move |engine, container| networks::disconnect(engine, container, &network))
            .await
    }
}

/// Changes the networks of a container, one change at a time.
async fn change(
    engine: Arc<Engine>,
    name: &str,
    change: impl FnOnce(&Engine, &Container) -> Result<()> + Send + 'static,
) -> Result<()> {
    let container = engine.containers.get(name)?;
    let _guard = container.operation.lock().await;
    let subject = Arc::clone(&container);
    blocking(move || change(&engine, &subject)).await
}
