//! The tables of drivers, and the doors: what the flags name becomes what the engine uses.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use gantry_engine::Drivers;
use gantry_execdriver::ExecDriver;
use gantry_execdriver::lxc::Lxc;
use gantry_execdriver::native::{Native, NativeOptions};
use gantry_linux::fs;
use gantry_networkdriver::{
    Addresses, Cidr, Cleared, DefaultBridge, Host, NetworkDriver, NetworkDrivers, NetworkOptions, NoNetwork, Pool,
    Subnet,
};
use gantry_transport::DEFAULT_SOCKET;
use tracing::warn;

use super::flags::Flags;

/// Opens every driver that the flags name.
///
/// # Errors
/// A driver that does not exist or cannot work here.
pub fn drivers(flags: &Flags) -> Result<Drivers> {
    let exec = exec_driver(flags)?;
    let name = flags.storage_driver.clone().or_else(|| std::env::var("DOCKER_DRIVER").ok());
    let options = gantry_graphdriver::Options::parse(&flags.storage_opt)?;
    let (graph, graph_reason) = gantry_graphdriver::open_with(&flags.data_root, name.as_deref(), &options)?;
    tracing::info!(driver = graph.name(), reason = graph_reason, "the graphdriver");
    let networks = NetworkDrivers::new(network_options(flags)?).context("set up the firewall")?;
    let bridge: Option<Arc<dyn NetworkDriver>> = match flags.bridge.as_str() {
        "none" => None,
        name => {
            let bridge = networks
                .default_bridge(own_bridge(flags, name)?)
                .with_context(|| format!("set up the bridge {name}"))?;
            Some(Arc::new(bridge))
        }
    };
    Ok(Drivers { graph, graph_reason, exec, bridge, host: Arc::new(Host), none: Arc::new(NoNetwork), networks })
}

/// Takes back what a daemon of these flags left in the host's network. None runs or starts meanwhile: the pid file is held, and
/// the data root is, whatever its pid file was called.
///
/// # Errors
/// A data root that is not there or in use; as [`gantry_networkdriver::clear`].
pub fn clear_network(flags: &Flags) -> Result<()> {
    let options = network_options(flags)?;
    let root = &flags.data_root;
    if !root.is_dir() {
        bail!(
            "no data root {}, by which a daemon is told from others: give the daemon's own by --data-root; where that is gone, \
             make it as an empty directory",
            root.display()
        );
    }
    let _held = gantry_graphdriver::hold(root)?;
    let cleared = gantry_networkdriver::clear(&options).context("clear the host's network")?;
    let Cleared { bridges, tables, forwarding, forwarding6 } = cleared;
    if bridges.is_empty() && tables.is_empty() {
        tracing::info!(firewall = options.owner, "a daemon of these flags left nothing in the host's network");
        return Ok(());
    }
    let (bridges, tables) = (bridges.join(", "), tables.join(", "));
    tracing::info!(bridges, tables, "removed: the next daemon makes them anew");
    for (family, _) in [("IPv4", forwarding), ("IPv6", forwarding6)].into_iter().filter(|(_, ended)| *ended) {
        tracing::info!("the host does not forward {family} any more, which that daemon had turned on");
    }
    Ok(())
}

fn exec_driver(flags: &Flags) -> Result<Arc<dyn ExecDriver>> {
    let options = NativeOptions {
        exec_root: flags.exec_root.clone(),
        cgroup_parent: format!("/gantry/{}", short_hash(&flags.exec_root)),
        warm: flags.warm()?,
        executable: "/proc/self/exe".into(),
    };
    match flags.exec_driver.as_str() {
        "native" => Ok(Arc::new(Native::new(options)?)),
        "lxc" => {
            let lxc = Lxc::new(options)?;
            tracing::info!(version = lxc.version(), "containers are made by LXC");
            Ok(Arc::new(lxc))
        }
        other => bail!("no such execdriver: {other}; there are native and lxc"),
    }
}

/// A few digits that differ between exec roots (FNV-1a).
fn short_hash(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{:012x}", hash & 0xffff_ffff_ffff)
}

fn own_bridge(flags: &Flags, name: &str) -> Result<DefaultBridge> {
    let bip: Option<Cidr> = flags.bip.as_deref().map(str::parse).transpose().context("--bip")?;
    let mut ipv4 = bip.map_or(Addresses::Any, Addresses::from);
    if let Some(text) = &flags.fixed_cidr {
        let range: Subnet = text.parse().context("--fixed-cidr")?;
        let Addresses::Of(pool) = &mut ipv4 else {
            bail!("--fixed-cidr {range}: give the subnet that it lies in by --bip")
        };
        if range.prefix < pool.subnet.prefix || !pool.subnet.contains(range.address) {
            bail!("--fixed-cidr {range}: it does not lie in {}, which --bip gives", pool.subnet);
        }
        pool.range = Some(range.masked());
    }
    let ipv6 = match &flags.fixed_cidr_v6 {
        None if flags.ipv6 => Addresses::Any,
        None => Addresses::None,
        Some(_) if !flags.ipv6 => bail!("--fixed-cidr-v6: give --ipv6 as well"),
        Some(text) => {
            let subnet: Subnet = text.parse().context("--fixed-cidr-v6")?;
            if subnet.address.is_ipv4() || subnet.prefix > 126 {
                bail!("--fixed-cidr-v6 {subnet}: want an IPv6 subnet with room");
            }
            Addresses::Of(Pool::new(subnet))
        }
    };
    Ok(DefaultBridge { name: name.to_owned(), ipv4, ipv6, icc: flags.icc })
}

fn network_options(flags: &Flags) -> Result<NetworkOptions> {
    let pools = flags.default_address_pool.iter().map(|text| Ok(text.parse()?)).collect::<Result<_>>();
    Ok(NetworkOptions {
        // Without a bridge of its own, by its place. A name that begins with a digit is none to `nft`.
        owner: match flags.bridge.as_str() {
            "none" => format!("gantry-{}", short_hash(&flags.exec_root)),
            bridge => bridge.to_owned(),
        },
        home: short_hash(&flags.data_root),
        mtu: flags.mtu,
        publish_address: flags.ip,
        firewall: flags.iptables,
        ip_forward: flags.ip_forward,
        firewall_hooks: flags.firewall_hooks,
        pools: pools.context("--default-address-pool")?,
    })
}

/// The link at Docker's own socket; removed with the daemon.
pub struct DockerSocket(PathBuf);

impl Drop for DockerSocket {
    fn drop(&mut self) {
        // A link that stays is stale, and the next daemon replaces it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Puts a link where Docker's clients look, when the default daemon serves its default socket and that place is free.
pub fn link_docker_socket(flags: &Flags) -> Option<DockerSocket> {
    let default = PathBuf::from("/run/gantry/gantry.sock");
    if !flags.doors.hosts.is_empty() || flags.exec_root.join("gantry.sock") != default {
        return None;
    }
    let place = PathBuf::from(DEFAULT_SOCKET);
    match fs::read_link(&place) {
        Ok(target) if target == default => fs::remove_file(&place).ok()?,
        Ok(_) => return None,
        Err(_) if fs::symlink_metadata(&place).is_ok() => return None,
        Err(_) => {}
    }
    match fs::symlink(&default, &place) {
        Ok(()) => Some(DockerSocket(place)),
        Err(error) => {
            warn!("link {} to the daemon's socket: {error}", place.display());
            None
        }
    }
}
