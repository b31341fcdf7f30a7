//! Networks: the three that every daemon has, those that people define, and what each looks like.

mod copy;
mod define;
mod doctor;
pub mod links;
pub mod names;
mod places;
mod publish;
mod rescue;
mod settings;
mod show;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use gantry_api::ErrorKind;
use gantry_api::network::NetworkCreate;
use gantry_graph::{Durability, Graph};
use gantry_networkdriver::{Addresses, Definition, Error as DriverError, NetworkDriver, Pool};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::options::{Drivers, Options};

pub use doctor::examine;
pub use places::{addresses, announce, connect, disconnect, finish, join, leave, restore};
pub use publish::{parse_ports, port_map, protocol_name};
pub use settings::{check_mac, check_shared, validate};

/// Kind of the networks' entities.
const KIND: &str = "network";
/// The entity below which network names are edges.
const NAMES: &str = "networks";
/// Names that are not given to others.
const PREDEFINED: [&str; 4] = ["bridge", "host", "none", "default"];

/// What is kept of a network that a person defined.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Document {
    /// Unique among networks.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// As asked for.
    pub attachable: bool,
    /// As asked for.
    pub labels: BTreeMap<String, String>,
    /// Options of the address management, as asked for.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// What it is made by.
    pub definition: Definition,
}

/// A network that a person defined.
struct UserNetwork {
    document: Document,
    /// Or why it could not be taken up.
    driver: std::result::Result<Arc<dyn NetworkDriver>, String>,
}

/// A network that was asked for.
#[derive(Clone)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its 64 digits.
    pub id: String,
    user: Option<Arc<UserNetwork>>,
}

type Known = BTreeMap<String, Arc<UserNetwork>>;

/// All networks. Readers take a snapshot and never wait for a change.
pub struct Networks {
    created: Timestamp,
    /// Makes the predefined networks' ids: the same for the same daemon.
    seed: String,
    graph: Graph,
    known: RwLock<Arc<Known>>,
    data_root: PathBuf,
    /// Held by whoever makes or removes a network.
    changes: Mutex<()>,
    /// Networks whose descriptions cannot be read.
    unreadable: bool,
}

impl Networks {
    /// Takes up the networks that an earlier daemon of these options had. One that cannot be made again is kept, and says
    /// why when it is used.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open(graph: Graph, options: &Options, drivers: &Drivers) -> Result<Self> {
        graph.db().write(Durability::Process, |tx| tx.make_directory(&format!("/{NAMES}")))?;
        if graph.was_rescued() {
            rescue::find_again(&graph, &options.data_root)?;
        }
        let entities = graph.db().entities(KIND)?;
        if !graph.was_rescued() {
            copy::forget_others(|id| entities.iter().any(|entity| entity.id == id), &options.data_root);
            backed_up(&graph, &options.data_root);
        }
        let (mut known, mut unreadable) = (Known::new(), false);
        for entity in entities {
            copy::is_there(&entity.id, &options.data_root);
            let document: Document = match serde_json::from_str(&entity.properties) {
                Ok(document) => document,
                Err(error) => {
                    warn!("the description of network {} cannot be read and was left alone: {error}", entity.id);
                    unreadable = true;
                    continue;
                }
            };
            copy::keep(&document, &options.data_root);
            let driver = drivers.networks.open(&document.definition).map_err(|error| error.to_string());
            if let Err(error) = &driver {
                warn!("take up network {}: {error}", document.name);
            }
            known.insert(document.name.clone(), Arc::new(UserNetwork { document, driver }));
        }
        Ok(Self {
            created: Timestamp::now(),
            seed: options.data_root.to_string_lossy().into_owned(),
            graph,
            data_root: options.data_root.clone(),
            known: RwLock::new(Arc::new(known)),
            changes: Mutex::default(),
            unreadable,
        })
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, change: impl FnOnce(&mut Known)) {
        let mut known = Known::clone(&self.known());
        change(&mut known);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }

    /// Called once after every container was taken up: removes what belongs to nobody.
    pub fn restored(&self, engine: &Engine) {
        let known = self.known();
        let mut bridges = Vec::new();
        let own = engine.drivers.bridge.iter();
        for driver in own.chain(known.values().filter_map(|network| network.driver.as_ref().ok())) {
            bridges.push(driver.info().bridge);
            if let Err(error) = driver.restored() {
                warn!("clean the network of bridge {}: {error}", driver.info().bridge);
            }
        }
        // What could not be taken up is not known by its bridge.
        if !self.unreadable
            && known.values().all(|network| network.driver.is_ok())
            && let Err(error) = engine.drivers.networks.sweep(&bridges)
        {
            warn!("remove bridges of networks that are gone: {error}");
        }
    }

    /// 64 digits that name a thing of this daemon.
    #[must_use]
    pub fn derived_id(&self, name: &str) -> String {
        Sha256::digest(format!("{}\0{name}", self.seed)).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The id of the network of that name; empty when there is none.
    #[must_use]
    pub fn id(&self, name: &str) -> String {
        if PREDEFINED.contains(&name) {
            return self.derived_id(name);
        }
        self.known().get(name).map(|network| network.document.definition.id.clone()).unwrap_or_default()
    }

    /// The id of a container's place on a network.
    #[must_use]
    pub fn endpoint_id(&self, container: &str, network: &str) -> String {
        self.derived_id(&format!("endpoint {container} {}", self.id(network)))
    }

    /// The host's address on the daemon's own bridge.
    #[must_use]
    #[allow(clippy::unused_self, reason = "reads as a question to the networks")]
    pub fn gateway(&self, engine: &Engine) -> Option<Ipv4Addr> {
        match engine.drivers.bridge.as_ref()?.info().ipv4?.gateway() {
            std::net::IpAddr::V4(gateway) => Some(gateway),
            std::net::IpAddr::V6(_) => None,
        }
    }

    /// The driver of the network of that name.
    ///
    /// # Errors
    /// A network that is not there, or could not be taken up.
    pub fn driver(&self, engine: &Engine, name: &str) -> Result<Arc<dyn NetworkDriver>> {
        match name {
            "bridge" => engine
                .drivers
                .bridge
                .clone()
                .ok_or_else(|| Error::not_found("network bridge not found: the daemon runs with --bridge none")),
            "host" => Ok(Arc::clone(&engine.drivers.host)),
            "none" => Ok(Arc::clone(&engine.drivers.none)),
            _ => match self.known().get(name).map(|network| &network.driver) {
                Some(Ok(driver)) => Ok(Arc::clone(driver)),
                Some(Err(why)) => Err(Error::system(format!("network {name} could not be set up: {why}"))),
                None => Err(no_network(name)),
            },
        }
    }

    /// A network by id, name, or the beginning of its id.
    ///
    /// # Errors
    /// When there is none, or several begin so.
    pub fn find(&self, engine: &Engine, term: &str) -> Result<Found> {
        self.find_among(engine, term, |_| true)
    }

    /// The same among the predefined ones and those whose labels say that they are `there`: the others neither answer nor
    /// make a beginning ambiguous.
    ///
    /// # Errors
    /// As [`Networks::find`].
    pub fn find_among(
        &self,
        engine: &Engine,
        term: &str,
        there: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> Result<Found> {
        let known = self.known();
        let own = engine.drivers.bridge.is_some();
        let predefined = ["bridge", "host", "none"].into_iter().filter(|name| *name != "bridge" || own);
        let predefined = predefined.map(|name| Found { name: name.to_owned(), id: self.derived_id(name), user: None });
        let shown = known.values().filter(|network| there(&network.document.labels));
        let user = shown.map(|network| Found {
            name: network.document.name.clone(),
            id: network.document.definition.id.clone(),
            user: Some(Arc::clone(network)),
        });
        let mut begin = Vec::new();
        let mut named = None;
        for found in predefined.chain(user) {
            if found.id == term {
                return Ok(found);
            }
            if found.name == term {
                named = Some(found);
            } else if !term.is_empty() && found.id.starts_with(term) {
                begin.push(found);
            }
        }
        match (named, begin.len()) {
            (Some(found), _) => Ok(found),
            (None, 0) => Err(no_network(term)),
            (None, 1) => Ok(begin.remove(0)),
            (None, count) => Err(Error::invalid(format!(
                "network {term} is ambiguous ({count} matches found based on ID prefix): give more of its digits"
            ))),
        }
    }

    /// Makes a network; its id, and what the caller should know.
    ///
    /// # Errors
    /// What is wrong with the request, in Docker's words; what the kernel refuses. Nothing is left then.
    pub fn create(&self, engine: &Engine, request: NetworkCreate) -> Result<(Document, String)> {
        let (mut document, warning) = define::document(request)?;
        let drivers = &engine.drivers.networks;
        drivers.check(&document.definition)?;
        let _guard = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.known().contains_key(&document.name) {
            return Err(Error::conflict(format!("network with name {} already exists", document.name)));
        }
        self.refuse_overlaps(engine, &document.definition)?;
        self.refuse_same_bridge(engine, &document.definition)?;
        let known = self.known();
        let others = known.values().map(|network| (network.document.name.as_str(), &network.document.definition));
        drivers.check_beside(&document.definition, others).map_err(refused)?;
        let driver = drivers.open(&document.definition).map_err(refused)?;
        let info = driver.info();
        let settle = |pool: Option<Pool>| pool.map_or(Addresses::None, Addresses::Of);
        (document.definition.ipv4, document.definition.ipv6) = (settle(info.ipv4), settle(info.ipv6));
        document.definition.found = driver.found();
        if let Err(error) = self.record(&document) {
            if let Err(second) = driver.remove() {
                warn!("undo the failed create of network {}: {second}", document.name);
            }
            return Err(error);
        }
        let network = UserNetwork { document: document.clone(), driver: Ok(driver) };
        self.publish(|known| drop(known.insert(document.name.clone(), Arc::new(network))));
        Ok((document, warning))
    }

    fn record(&self, document: &Document) -> Result<()> {
        write(&self.graph, document, false)?;
        copy::keep(document, &self.data_root);
        Ok(())
    }

    fn refuse_overlaps(&self, engine: &Engine, wanted: &Definition) -> Result<()> {
        let known = self.known();
        let own = engine.drivers.bridge.as_ref().map(|bridge| ("bridge", bridge.info()));
        let own = own.into_iter().flat_map(|(name, info)| [(name, info.ipv4), (name, info.ipv6)]);
        let users = known.values().flat_map(|network| {
            let Document { name, definition, .. } = &network.document;
            [(name.as_str(), definition.ipv4.pool().cloned()), (name.as_str(), definition.ipv6.pool().cloned())]
        });
        let taken: Vec<_> = own.chain(users).filter_map(|(name, pool)| Some((name, pool?.subnet))).collect();
        for pool in [&wanted.ipv4, &wanted.ipv6].into_iter().filter_map(|addresses| addresses.pool()) {
            if let Some((name, subnet)) = taken.iter().find(|(_, subnet)| subnet.overlaps(pool.subnet)) {
                return Err(Error::forbidden(format!(
                    "invalid pool request: Pool overlaps with other one on this address space: network {name} has {subnet}: \
                     choose another subnet"
                )));
            }
        }
        Ok(())
    }

    fn refuse_same_bridge(&self, engine: &Engine, wanted: &Definition) -> Result<()> {
        let Some(wanted) = engine.drivers.networks.bridge_name(wanted)? else { return Ok(()) };
        let known = self.known();
        let own = engine.drivers.bridge.iter();
        let mut others = own.chain(known.values().filter_map(|network| network.driver.as_ref().ok()));
        if others.any(|other| other.info().bridge == wanted) {
            return Err(Error::forbidden(format!("network with bridge {wanted} exists already: give another name")));
        }
        Ok(())
    }

    /// Removes a network that no container is on.
    ///
    /// # Errors
    /// Docker's: one that is predefined, one with containers; what the kernel refuses.
    pub fn remove(&self, engine: &Engine, term: &str) -> Result<Document> {
        let _guard = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.find(engine, term)?;
        let Some(network) = found.user else {
            return Err(Error::forbidden(format!("{} is a pre-defined network and cannot be removed", found.name)));
        };
        let in_use = |holders: &str| {
            Error::forbidden(format!(
                "error while removing network: network {} has active endpoints ({holders}): disconnect or stop the \
                 containers first",
                found.name
            ))
        };
        let holders = self.holders(engine, &found.name);
        if !holders.is_empty() {
            return Err(in_use(&holders.join(", ")));
        }
        if let Ok(driver) = &network.driver {
            driver.remove().map_err(|error| match error {
                DriverError::Conflict(holders) => in_use(&holders),
                other => Error::from(other).context("error while removing network"),
            })?;
        }
        let document = network.document.clone();
        if let Err(error) = self.graph.db().write(Durability::Process, |tx| tx.purge(&document.definition.id)) {
            // It stays: then also in the kernel.
            let driver = engine.drivers.networks.open(&document.definition).map_err(|error| error.to_string());
            self.publish(|known| drop(known.insert(found.name, Arc::new(UserNetwork { document, driver }))));
            return Err(error.into());
        }
        copy::forget(&document.definition.id, &self.data_root);
        self.publish(|known| drop(known.remove(&found.name)));
        Ok(document)
    }

    /// The containers on a network, as Docker names them.
    fn holders(&self, engine: &Engine, name: &str) -> Vec<String> {
        let records = engine.containers.all().into_iter().map(|container| container.record());
        let on_it = records.filter(|record| record.endpoints.contains_key(name));
        on_it
            .map(|record| {
                let id = self.endpoint_id(&record.id, name);
                format!("name:\"{}\" id:\"{}\"", record.name, id.get(..12).unwrap_or(&id))
            })
            .collect()
    }

    /// The names of networks that a person defined and no container uses.
    #[must_use]
    pub fn unused(&self, engine: &Engine) -> Vec<Document> {
        let known = self.known();
        let unused = known.values().filter(|network| self.holders(engine, &network.document.name).is_empty());
        unused.map(|network| network.document.clone()).collect()
    }
}

/// Called after each backup of the database: what it does not know of removed networks needs no saying any more.
pub fn backed_up(graph: &Graph, data_root: &Path) {
    copy::forget_removed(|path| graph.is_younger_than_the_backup(path), data_root);
}

/// Writes a network down. A name that is taken is an error, or with `again` given to it.
fn write(graph: &Graph, document: &Document, again: bool) -> Result<()> {
    let text = serde_json::to_string(document).map_err(|error| Error::system(error.to_string()))?;
    let id = &document.definition.id;
    let path = gantry_graph::join(&format!("/{NAMES}"), &document.name);
    Ok(graph.db().write(Durability::Process, |tx| {
        tx.put_entity(id, KIND, &text)?;
        if again { tx.replace(&path, id).map(drop) } else { tx.set(&path, id) }
    })?)
}

/// Whether the network is one that every daemon has.
#[must_use]
pub fn is_predefined(name: &str) -> bool {
    PREDEFINED.contains(&name)
}

fn no_network(name: &str) -> Error {
    Error::not_found(format!("network {name} not found"))
}

/// What the driver refuses of a new network, by Docker's statuses.
fn refused(error: DriverError) -> Error {
    let kind = match &error {
        DriverError::Conflict(_) => ErrorKind::Forbidden,
        DriverError::Exhausted(_) => ErrorKind::InvalidParameter,
        _ => return error.into(),
    };
    Error { kind, message: error.to_string() }
}
