//! `networks` and `network_inspect`.

use gantry_api::filters::Filters;
use gantry_api::network::Network;

use crate::error::Result;
use crate::job::{Class, Context, Job};

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
        let dangling = filters.boolean("dangling")?;
        let mut networks = context.engine.networks.all(&context.engine);
        networks.retain(|network| {
            filters.any("name", |name| network.name.contains(name))
                && filters.any("id", |id| network.id.starts_with(id))
                && filters.any("driver", |driver| network.driver == driver)
                && filters.any("scope", |scope| network.scope == scope)
                && filters.any("type", |kind| kind == "builtin")
                && filters.labels(&network.labels)
                && dangling != Some(true)
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

    fn arguments(&self) -> String {
        self.network.clone()
    }

    async fn run(self, context: Context) -> Result<Network> {
        context.engine.networks.get(&context.engine, &self.network)
    }
}
