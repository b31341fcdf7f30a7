//! The daemon's flags, which are Docker's, and `daemon.json` under them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory, Parser};
use gantry_api::hostconfig::Ulimit;
use gantry_engine::{Mirrored, Options, SecurityDefaults};
use gantry_linux::fs;

use super::doors::DoorFlags;

/// What can be logged.
const LOG_LEVELS: [&str; 5] = ["debug", "info", "warn", "error", "fatal"];
/// Where `daemon.json` is looked for when nobody says.
const CONFIG_FILE: &str = "/etc/gantry/daemon.json";

/// The resident process: accepts requests, keeps containers and images.
#[derive(Debug, Clone, Parser)]
#[command(name = "gantry daemon", version, disable_help_subcommand = true)]
pub struct Flags {
    /// Who may come in.
    #[command(flatten)]
    pub doors: DoorFlags,
    /// Directory of images, containers and volumes
    #[arg(long, default_value = "/var/lib/gantry", value_name = "DIR")]
    pub data_root: PathBuf,
    /// Directory of what a reboot may take away: sockets, exit records
    #[arg(long, default_value = "/run/gantry", value_name = "DIR")]
    pub exec_root: PathBuf,
    /// Pid file; gantry.pid in the exec root where not given
    #[arg(short = 'p', long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// File of settings
    #[arg(long, default_value = CONFIG_FILE, value_name = "FILE")]
    pub config_file: PathBuf,
    /// Bridge that containers are connected to; none for no network
    #[arg(short = 'b', long, default_value = "gantry0", value_name = "NAME")]
    pub bridge: String,
    /// Address and subnet of the bridge
    #[arg(long, value_name = "CIDR")]
    pub bip: Option<String>,
    /// Part of the bridge's subnet that containers' addresses are taken from
    #[arg(long, value_name = "CIDR")]
    pub fixed_cidr: Option<String>,
    /// Have IPv6 on the bridge
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ipv6: bool,
    /// IPv6 subnet of the bridge; a random one where not given
    #[arg(long = "fixed-cidr-v6", value_name = "CIDR")]
    pub fixed_cidr_v6: Option<String>,
    /// Let containers on the bridge speak to each other
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub icc: bool,
    /// Block that subnets of networks are taken from: base=10.10.0.0/16,size=24
    #[arg(long, value_name = "POOL")]
    pub default_address_pool: Vec<String>,
    /// MTU of containers' links; that of the route to the outside where not given
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Address that published ports listen on where none is said
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    pub ip: Ipv4Addr,
    /// Load the firewall table
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub iptables: bool,
    /// Put one rule for containers where another firewall drops what is forwarded (DOCKER-USER, ufw-user-forward)
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub firewall_hooks: bool,
    /// Remove what a daemon of these flags (--bridge, --data-root, --exec-root, --pidfile) that does not run any more left in the
    /// host's network, and end
    #[arg(long)]
    pub clear_network: bool,
    /// Turn net.ipv4.ip_forward on when it is off
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ip_forward: bool,
    /// Driver of layers: overlay, btrfs, devmapper or vfs; the environment variable DOCKER_DRIVER says the same
    #[arg(short = 's', long, value_name = "NAME")]
    pub storage_driver: Option<String>,
    /// Option of the driver of layers: dm.basesize=10g, dm.thinpooldev=NAME …
    #[arg(long, value_name = "KEY=VALUE")]
    pub storage_opt: Vec<String>,
    /// Driver of processes: native, or lxc, which needs the package lxc
    #[arg(long, default_value = "native", value_name = "NAME")]
    pub exec_driver: String,
    /// Options of the driver of processes: native.warm=N keeps N supervisors ready
    #[arg(long, value_name = "KEY=VALUE")]
    pub exec_opt: Vec<String>,
    /// Registry that may be spoken to without TLS: host, host:port or CIDR
    #[arg(long, value_name = "REGISTRY")]
    pub insecure_registry: Vec<String>,
    /// Mirror of Docker Hub
    #[arg(long, value_name = "URL")]
    pub registry_mirror: Vec<String>,
    /// Proxy for http, to registries; the environment's HTTP_PROXY where not given
    #[arg(long, value_name = "URL")]
    pub http_proxy: Option<String>,
    /// Proxy for https, to registries; the environment's HTTPS_PROXY where not given
    #[arg(long, value_name = "URL")]
    pub https_proxy: Option<String>,
    /// Hosts, domains and networks that are reached without a proxy; the environment's NO_PROXY where not given
    #[arg(long, value_name = "LIST")]
    pub no_proxy: Option<String>,
    /// DNS server of containers
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// DNS option of containers
    #[arg(long, value_name = "OPTION")]
    pub dns_opt: Vec<String>,
    /// DNS search domain of containers
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Names of containers on the default bridge, too; there, off, the host's servers are copied as they are at the start
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub default_bridge_names: bool,
    /// Log driver of containers: json-file or none
    #[arg(long, default_value = "json-file", value_name = "NAME")]
    pub log_driver: String,
    /// Option of the log driver: max-size, max-file
    #[arg(long, value_name = "KEY=VALUE")]
    pub log_opt: Vec<String>,
    /// Label of the daemon
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Run an init in containers that do not say
    #[arg(long)]
    pub init: bool,
    /// Size of /dev/shm of containers that do not say
    #[arg(long, default_value = "64m", value_name = "BYTES")]
    pub default_shm_size: String,
    /// Resource limit of containers that do not say: nofile=1024:2048
    #[arg(long, value_name = "ULIMIT")]
    pub default_ulimit: Vec<String>,
    /// seccomp profile of containers that do not say: builtin, unconfined or a file
    #[arg(long, default_value = "builtin", value_name = "PROFILE")]
    pub seccomp_profile: String,
    /// Set no-new-privileges for containers that do not say
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub no_new_privileges: bool,
    /// Label containers for SELinux; not supported yet
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub selinux_enabled: bool,
    /// IPC namespace of containers that do not say: private or shareable
    #[arg(long, default_value = "private", value_name = "MODE")]
    pub default_ipc_mode: String,
    /// Cgroup namespace of containers that do not say: private or host
    #[arg(long, default_value = "private", value_name = "MODE")]
    pub default_cgroupns_mode: String,
    /// Users of containers outside: a user or user:group with ranges in /etc/subuid and /etc/subgid, default for dockremap, or
    /// first-last
    #[arg(long, value_name = "USER[:GROUP]")]
    pub userns_remap: Option<String>,
    /// Keep pulled layers compressed, too: pushes and saves read them from there, and they take their space twice
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub keep_compressed_layers: bool,
    /// Mirrors of any registry; only in the configuration file
    #[arg(skip)]
    pub registries: Vec<Mirrored>,
    /// Show debugging output
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// debug, info, warn, error or fatal
    #[arg(short = 'l', long, default_value = "info", value_name = "LEVEL", value_parser = LOG_LEVELS)]
    pub log_level: String,
}

impl Flags {
    /// Puts the settings of `daemon.json` under the flags; a setting that is in both is an error, as in Docker.
    ///
    /// # Errors
    /// A file that cannot be read, a key that does not exist, a value of the wrong type.
    pub fn with_config_file(mut self, matches: &ArgMatches) -> Result<Self> {
        let command = Self::command();
        let known = |id: &str| command.get_arguments().any(|argument| argument.get_id() == id);
        let given = |id: &str| known(id) && matches.value_source(id) == Some(ValueSource::CommandLine);
        let text = match fs::read(&self.config_file) {
            Ok(text) => text,
            Err(error) if error.is_not_found() && !given("config_file") => return Ok(self),
            Err(error) => return Err(error.into()),
        };
        let unable = || format!("unable to configure the daemon with file {}", self.config_file.display());
        let settings: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&text).with_context(unable)?;
        let mut conflicts = Vec::new();
        for (key, value) in &settings {
            let id = id_of(key);
            if given(&id) {
                let flag: Vec<_> = matches
                    .get_raw(&id)
                    .into_iter()
                    .flatten()
                    .map(|value| value.to_string_lossy().into_owned())
                    .collect();
                let list = value.is_array() || value.is_object();
                let flag = if list { format!("[{}]", flag.join(" ")) } else { flag.join(" ") };
                conflicts.push(format!("{key}: (from flag: {flag}, from file: {})", spoken(value)));
            }
        }
        if !conflicts.is_empty() {
            bail!(
                "{}: the following directives are specified both as a flag and in the configuration file: {}",
                unable(),
                conflicts.join(", ")
            );
        }
        for (key, value) in settings {
            self.set(&id_of(&key), value).with_context(|| {
                format!("unable to configure the daemon with file {}: {key}", self.config_file.display())
            })?;
        }
        Ok(self)
    }

    fn set(&mut self, id: &str, value: serde_json::Value) -> Result<()> {
        use serde_json::from_value as read;
        let Some(value) = self.doors.set(id, value)? else { return Ok(()) };
        match id {
            "data_root" => self.data_root = read(value)?,
            "exec_root" => self.exec_root = read(value)?,
            "pidfile" => self.pidfile = Some(read(value)?),
            "bridge" => self.bridge = read(value)?,
            "bip" => self.bip = Some(read(value)?),
            "fixed_cidr" => self.fixed_cidr = Some(read(value)?),
            "ipv6" => self.ipv6 = read(value)?,
            "fixed_cidr_v6" => self.fixed_cidr_v6 = Some(read(value)?),
            "icc" => self.icc = read(value)?,
            "mtu" => self.mtu = Some(read(value)?),
            "default_address_pool" => {
                let pools: Vec<serde_json::Value> = read(value)?;
                let flag = |pool: &serde_json::Value| {
                    format!("base={},size={}", pool["base"].as_str().unwrap_or_default(), pool["size"])
                };
                self.default_address_pool = pools.iter().map(flag).collect();
            }
            "ip" => self.ip = read(value)?,
            "iptables" => self.iptables = read(value)?,
            "ip_forward" => self.ip_forward = read(value)?,
            "firewall_hooks" => self.firewall_hooks = read(value)?,
            "storage_driver" => self.storage_driver = Some(read(value)?),
            "storage_opt" => self.storage_opt = read(value)?,
            "exec_driver" => self.exec_driver = read(value)?,
            "exec_opt" => self.exec_opt = read(value)?,
            "insecure_registry" => self.insecure_registry = read(value)?,
            "registry_mirror" => self.registry_mirror = read(value)?,
            "registries" => self.registries = read(value)?,
            "keep_compressed_layers" => self.keep_compressed_layers = read(value)?,
            "proxies" => {
                let proxies: BTreeMap<String, String> = read(value)?;
                for (name, address) in proxies {
                    match name.as_str() {
                        "http-proxy" => self.http_proxy = Some(address),
                        "https-proxy" => self.https_proxy = Some(address),
                        "no-proxy" => self.no_proxy = Some(address),
                        other => bail!("there is no such setting: {other}"),
                    }
                }
            }
            "dns" => self.dns = read(value)?,
            "dns_opt" => self.dns_opt = read(value)?,
            "dns_search" => self.dns_search = read(value)?,
            "default_bridge_names" => self.default_bridge_names = read(value)?,
            "log_driver" => self.log_driver = read(value)?,
            "log_opt" => {
                let map: BTreeMap<String, String> = read(value)?;
                self.log_opt = map.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
            }
            "default_ulimit" => {
                let map: BTreeMap<String, Ulimit> = read(value)?;
                let flag = |(name, limit): (String, Ulimit)| format!("{name}={}:{}", limit.soft, limit.hard);
                self.default_ulimit = map.into_iter().map(flag).collect();
            }
            "label" => self.label = read(value)?,
            "init" => self.init = read(value)?,
            "userns_remap" => self.userns_remap = Some(read(value)?),
            "default_shm_size" => self.default_shm_size = read(value)?,
            "seccomp_profile" => self.seccomp_profile = read(value)?,
            "no_new_privileges" => self.no_new_privileges = read(value)?,
            "selinux_enabled" => self.selinux_enabled = read(value)?,
            "default_ipc_mode" => self.default_ipc_mode = read(value)?,
            "default_cgroupns_mode" => self.default_cgroupns_mode = read(value)?,
            "debug" => self.debug = read(value)?,
            "log_level" => {
                self.log_level = read(value)?;
                if !LOG_LEVELS.contains(&self.log_level.as_str()) {
                    bail!("want one of {}", LOG_LEVELS.join(", "));
                }
            }
            _ => bail!("the following directives don't match any configuration option"),
        }
        Ok(())
    }

    /// Where the pid file is.
    #[must_use]
    pub fn pidfile(&self) -> PathBuf {
        self.pidfile.clone().unwrap_or_else(|| self.exec_root.join("gantry.pid"))
    }

    /// How much is logged.
    #[must_use]
    pub fn log_filter(&self) -> String {
        let level = if self.debug { "debug" } else { self.log_level.as_str() };
        let level = if level == "fatal" { "error" } else { level };
        format!("{level},hyper=warn,reqwest=warn,rustls=warn,hickory=warn")
    }

    /// How many supervisors are kept warm.
    ///
    /// # Errors
    /// An option that does not exist.
    pub fn warm(&self) -> Result<usize> {
        let mut warm = 2;
        for option in &self.exec_opt {
            match option.split_once('=') {
                Some(("native.warm", number)) => {
                    warm = number.parse().with_context(|| format!("--exec-opt {option}: no number"))?;
                }
                // Docker's; only this driver is there.
                Some(("native.cgroupdriver", "cgroupfs")) => {}
                Some(("native.cgroupdriver", other)) => {
                    bail!("--exec-opt: cgroup driver {other} is not supported: use cgroupfs")
                }
                _ => bail!("--exec-opt {option}: there is no such option"),
            }
        }
        Ok(warm)
    }

    /// The engine's settings.
    ///
    /// # Errors
    /// A value that is none.
    pub fn engine_options(&self) -> Result<Options> {
        if !matches!(self.log_driver.as_str(), "json-file" | "none") {
            bail!("--log-driver {}: there are json-file and none", self.log_driver);
        }
        let pair = |text: &String| match text.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => bail!("--log-opt {text}: write it as key=value"),
        };
        if self.selinux_enabled {
            bail!("--selinux-enabled: SELinux labels are not supported yet; leave it out");
        }
        let security = SecurityDefaults::new(&self.seccomp_profile, self.no_new_privileges);
        Ok(Options {
            security: security.context("--seccomp-profile")?,
            ipc_mode: one_of("--default-ipc-mode", &self.default_ipc_mode, ["private", "shareable"])?,
            cgroupns_mode: one_of("--default-cgroupns-mode", &self.default_cgroupns_mode, ["private", "host"])?,
            data_root: self.data_root.clone(),
            exec_root: self.exec_root.clone(),
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            default_bridge_names: self.default_bridge_names,
            dns_options: self.dns_opt.clone(),
            log_driver: self.log_driver.clone(),
            log_options: self.log_opt.iter().map(pair).collect::<Result<_>>()?,
            labels: self.label.clone(),
            insecure_registries: self.insecure_registry.clone(),
            registry_mirrors: self.registry_mirror.clone(),
            registries: self.registries.clone(),
            keep_compressed_layers: self.keep_compressed_layers,
            http_proxy: proxy(self.http_proxy.as_ref(), "HTTP_PROXY"),
            https_proxy: proxy(self.https_proxy.as_ref(), "HTTPS_PROXY"),
            no_proxy: proxy(self.no_proxy.as_ref(), "NO_PROXY"),
            publish_address: self.ip,
            init: self.init,
            shm_size: bytes(&self.default_shm_size)?,
            ulimits: self.default_ulimit.iter().map(|text| ulimit(text)).collect::<Result<_>>()?,
            userns_remap: super::remap::mapping(self.userns_remap.as_deref())?,
            audit_log: self.doors.audit_log.clone(),
            debug: self.debug,
            hosts: self.doors.addresses(&self.exec_root),
        })
    }
}

/// What was given, else what the environment says, in capitals or not.
fn proxy(given: Option<&String>, variable: &str) -> String {
    let environment = || std::env::var(variable).or_else(|_| std::env::var(variable.to_lowercase())).ok();
    given.cloned().or_else(environment).unwrap_or_default()
}

/// The flag of a key of `daemon.json`.
fn id_of(key: &str) -> String {
    match key {
        "insecure-registries" => "insecure_registry".to_owned(),
        "registry-mirrors" => "registry_mirror".to_owned(),
        "labels" => "label".to_owned(),
        "dns-opts" => "dns_opt".to_owned(),
        "log-opts" => "log_opt".to_owned(),
        "exec-opts" => "exec_opt".to_owned(),
        "storage-opts" => "storage_opt".to_owned(),
        "default-address-pools" => "default_address_pool".to_owned(),
        "default-ulimits" => "default_ulimit".to_owned(),
        other => DoorFlags::id(other).map_or_else(|| other.replace('-', "_"), str::to_owned),
    }
}

/// A value as Docker's messages show it: `[a b]`.
fn spoken(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => {
            format!("[{}]", items.iter().map(spoken).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

fn one_of(flag: &str, value: &str, known: [&str; 2]) -> Result<String> {
    if !known.contains(&value) {
        bail!("{flag} {value}: there are {}", known.join(" and "));
    }
    Ok(value.to_owned())
}

fn bytes(text: &str) -> Result<i64> {
    let size = gantry_graphdriver::size(text).and_then(|size| i64::try_from(size).ok());
    size.with_context(|| format!("--default-shm-size {text}: want a number with k, m or g"))
}

fn ulimit(text: &str) -> Result<Ulimit> {
    let (name, values) =
        text.split_once('=').with_context(|| format!("--default-ulimit {text}: write it as name=soft:hard"))?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |value: &str| value.parse::<i64>().with_context(|| format!("--default-ulimit {text}: no number"));
    Ok(Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn parse(args: &[&str], json: Option<&str>) -> Result<Flags> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("daemon.json");
        if let Some(json) = json {
            fs::write(&file, json)?;
        }
        let mut all = vec!["daemon".to_owned()];
        if json.is_some() {
            all.push(format!("--config-file={}", file.display()));
        }
        all.extend(args.iter().map(ToString::to_string));
        let matches = Flags::command().try_get_matches_from(all)?;
        Flags::from_arg_matches(&matches)?.with_config_file(&matches)
    }

    #[test]
    fn settings_come_from_flags_or_from_the_file_and_not_from_both() {
        let flags = parse(&["--mtu", "1400"], Some(r#"{"data-root": "/x", "log-opts": {"max-size": "1m"}}"#)).unwrap();
        assert_eq!(
            (flags.mtu, flags.data_root.to_str(), flags.log_opt[0].as_str()),
            (Some(1400), Some("/x"), "max-size=1m")
        );
        let both = parse(&["--mtu", "1400", "-H", "fd://"], Some(r#"{"mtu": 1500, "hosts": ["unix:///x"]}"#));
        let message = both.unwrap_err().to_string();
        let says = "the following directives are specified both as a flag and in the configuration file: \
            hosts: (from flag: [fd://], from file: [unix:///x]), mtu: (from flag: 1400, from file: 1500)";
        assert!(message.ends_with(says), "{message}");
        assert!(parse(&[], Some(r#"{"nonsense": 1}"#)).is_err());
        assert!(parse(&[], Some("{")).is_err());
        let flags = parse(&[], Some(r#"{"storage-opts": ["dm.fs=xfs", "dm.basesize=1g"]}"#)).unwrap();
        assert_eq!(flags.storage_opt, ["dm.fs=xfs", "dm.basesize=1g"]);
        let flags = parse(&[], Some(r#"{"default-address-pools": [{"base": "10.1.0.0/16", "size": 24}]}"#)).unwrap();
        assert_eq!(flags.default_address_pool, ["base=10.1.0.0/16,size=24"]);
        let flags = parse(&[], Some(r#"{"userns-remap": "100000-165535"}"#)).unwrap();
        assert_eq!(flags.engine_options().unwrap().userns_remap.unwrap().uids, [(0, 100_000, 65536)]);
    }

    #[test]
    fn the_policy_of_containers_can_be_set_in_the_file() {
        let json = r#"{"seccomp-profile": "unconfined", "no-new-privileges": true, "default-ipc-mode": "shareable",
            "default-cgroupns-mode": "host", "selinux-enabled": false}"#;
        let options = parse(&[], Some(json)).unwrap().engine_options().unwrap();
        assert_eq!((options.security.seccomp_name.as_str(), options.security.no_new_privileges), ("unconfined", true));
        assert_eq!((options.ipc_mode.as_str(), options.cgroupns_mode.as_str()), ("shareable", "host"));
        for wrong in
            [r#"{"selinux-enabled": true}"#, r#"{"default-cgroupns-mode": "x"}"#, r#"{"seccomp-profile": "/x"}"#]
        {
            assert!(parse(&[], Some(wrong)).unwrap().engine_options().is_err(), "{wrong}");
        }
    }

    #[test]
    fn truth_flags_take_a_value() {
        assert!(!parse(&["--ip-forward=false"], None).unwrap().ip_forward);
        assert!(parse(&["--iptables"], None).unwrap().iptables);
    }
}
