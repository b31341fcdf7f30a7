//! How much power a container may have: what is asked for when it is made, and what it has when it is used.

use std::path::Path;

use gantry_api::container::CreateRequest;
use gantry_api::hostconfig::{HostConfig, Mount};

use super::rules::Rules;
use super::{Refusal, plain};
use crate::Engine;
use crate::container::Record;
use crate::files::LONGEST_CHAIN;
use crate::jobs::usual_cgroup_namespace;
use crate::spec::security;

type Verdict = std::result::Result<(), Refusal>;

impl Rules {
    pub(super) fn new_container(&self, engine: &Engine, request: &CreateRequest) -> Verdict {
        self.labelled(request.config.labels.clone().unwrap_or_default())?;
        for (name, settings) in request.networking_config.endpoints_config.iter().flatten() {
            self.mode(engine, "network", name, LONGEST_CHAIN)?;
            self.network(engine, name)?;
            self.links(engine, settings.links.as_deref().unwrap_or_default())?;
        }
        self.power(engine, &request.host_config, None)?;
        if request.host_config.cgroupns_mode.is_empty()
            && usual_cgroup_namespace(engine, &request.host_config) == "host"
            && !self.host_namespaces
        {
            return Err(Refusal::new(
                "the host's cgroup namespace, which it gets here unless it asks for --cgroupns private",
            ));
        }
        Ok(())
    }

    /// Judges a configuration; `made` is the container that has it already, whose paths the engine has filled in.
    pub(super) fn power(&self, engine: &Engine, host: &HostConfig, made: Option<&Record>) -> Verdict {
        if !self.privileged {
            no_more_power(host)?;
        }
        for (what, mode) in modes(host) {
            self.mode(engine, what, mode, LONGEST_CHAIN)?;
        }
        if !host.network_mode.contains(':') && !matches!(host.network_mode.as_str(), "" | "default" | "host") {
            self.network(engine, &host.network_mode)?;
        }
        // What it has of the host, whoever it has it from.
        for point in made.iter().flat_map(|record| &record.mounts).filter(|point| point.kind == "bind") {
            self.bind(Path::new(&point.source))?;
        }
        for bind in host.binds.iter().flatten() {
            let source = bind.split(':').next().filter(|_| bind.contains(':')).unwrap_or_default();
            self.source(engine, source, made.is_some())?;
        }
        for mount in host.mounts.iter().flatten() {
            self.mount(engine, mount, made.is_some())?;
        }
        for other in host.volumes_from.iter().flatten() {
            let name = other.split(':').next().unwrap_or_default();
            let container = self.container(engine, name)?;
            // What it has mounted this one gets.
            let record = container.record();
            if made.is_none_or(|made| made.id != record.id) {
                self.power(engine, &HostConfig { volumes_from: None, ..record.host_config.clone() }, Some(&record))?;
            }
        }
        self.links(engine, host.links.as_deref().unwrap_or_default())
    }

    /// Containers that another one calls by names of its own.
    pub(super) fn links(&self, engine: &Engine, links: &[String]) -> Verdict {
        for link in links {
            self.container(engine, link.split(':').next().unwrap_or_default())?;
        }
        Ok(())
    }

    /// A namespace; another container's is what that one has, whose it may be.
    pub(super) fn mode(&self, engine: &Engine, what: &str, mode: &str, depth: usize) -> Verdict {
        // A network's id is as good as its name.
        let network = (what == "network").then(|| engine.networks.find(engine, mode).ok()).flatten();
        if network.as_ref().map_or(mode, |network| &network.name) == "host" && !self.host_namespaces {
            return Err(Refusal::new(format!("the host's {what} namespace")));
        }
        let Some(name) = mode.strip_prefix("container:") else { return Ok(()) };
        if depth == 0 {
            return Err(Refusal::new(format!("a {what} namespace that is handed on too often")));
        }
        let record = self.container(engine, name)?.record();
        match modes(&record.host_config).into_iter().find(|(own, _)| *own == what) {
            Some((_, theirs)) => self.mode(engine, what, theirs, depth - 1),
            None => Ok(()),
        }
    }

    fn mount(&self, engine: &Engine, mount: &Mount, made: bool) -> Verdict {
        match mount.kind.as_str() {
            "bind" => self.bind(Path::new(&mount.source)),
            "volume" => {
                let options = mount.volume_options.as_ref().and_then(|options| options.driver_config.as_ref());
                let options = options.and_then(|driver| driver.options.as_ref());
                if options.is_some_and(|options| !options.is_empty()) && !self.privileged {
                    return Err(Refusal::new("a volume with options of its driver can be any directory of the host"));
                }
                self.source(engine, &mount.source, made)
            }
            "tmpfs" => Ok(()),
            other => Err(Refusal::new(format!("a mount of type {other}"))),
        }
    }

    /// A path of the host, or a volume's name.
    fn source(&self, engine: &Engine, source: &str, made: bool) -> Verdict {
        if source.is_empty() {
            return Ok(());
        }
        if source.starts_with('/') {
            return self.bind(Path::new(source));
        }
        if !self.has_selector() {
            return self.volume_is_plain(engine, source);
        }
        match self.volume(engine, source) {
            // One that is gone meanwhile is nobody's.
            Err(_) if made && engine.volumes.get(source).is_err() => Ok(()),
            Err(_) => Err(Refusal::new(format!("the volume {source} is not one with the labels of this policy"))),
            Ok(()) => self.volume_is_plain(engine, source),
        }
    }

    /// A volume that somebody made a bind of the host is not for everybody.
    fn volume_is_plain(&self, engine: &Engine, name: &str) -> Verdict {
        let options = engine.volumes.get(name).ok().and_then(|volume| volume.options.clone());
        if options.is_some_and(|options| !options.is_empty()) && !self.privileged {
            return Err(Refusal::new(format!("the volume {name} has options of its driver: it can be any directory")));
        }
        Ok(())
    }

    fn bind(&self, source: &Path) -> Verdict {
        // Always as it was asked for: where its links lead is not told.
        let refused = || Refusal::new(format!("a mount of {}, which is not on the list", source.display()));
        // Nothing is looked at that is not on the list.
        let path = plain(source).filter(|path| self.lists(path)).ok_or_else(refused)?;
        // Where its links lead must be allowed as well; what is not there will be a directory.
        match gantry_linux::fs::follow(&path) {
            Ok(real) if self.lists(&real) => Ok(()),
            _ => Err(refused()),
        }
    }
}

/// The namespaces that can be somebody else's.
fn modes(host: &HostConfig) -> [(&'static str, &str); 6] {
    [
        ("network", &host.network_mode),
        ("pid", &host.pid_mode),
        ("ipc", &host.ipc_mode),
        ("uts", &host.uts_mode),
        ("cgroup", &host.cgroupns_mode),
        ("user", &host.userns_mode),
    ]
}

/// Everything that gives a container more than the default has.
fn no_more_power(host: &HostConfig) -> Verdict {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let usual = HostConfig::default();
    let lacks = |own: Option<&Vec<String>>, usual: &[String]| {
        own.is_some_and(|own| usual.iter().any(|path| !own.contains(path)))
    };
    let harmless = |option: &String| {
        matches!(option.as_str(), "no-new-privileges" | "no-new-privileges=true" | "no-new-privileges:true")
    };
    let asked = [
        (host.privileged, "a privileged container"),
        (some(&host.cap_add), "capabilities beyond the default (--cap-add)"),
        (host.devices.as_ref().is_some_and(|list| !list.is_empty()), "devices of the host (--device)"),
        (some(&host.device_cgroup_rules), "devices of the host (--device-cgroup-rule)"),
        (host.device_requests.as_ref().is_some_and(|list| !list.is_empty()), "devices of the host (--gpus)"),
        (host.security_opt.iter().flatten().any(|option| !harmless(option)), "other confinement (--security-opt)"),
        (!host.cgroup_parent.is_empty(), "a cgroup of its choice (--cgroup-parent)"),
        // Not all of the usual ones.
        (
            lacks(host.masked_paths.as_ref(), &security::masked_paths(&usual))
                || lacks(host.readonly_paths.as_ref(), &security::readonly_paths(&usual)),
            "other confinement of /proc and /sys (systempaths)",
        ),
        (host.oom_score_adj < 0, "better odds than others when memory runs out (--oom-score-adj)"),
    ];
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(Refusal::new(*what)),
        None => Ok(()),
    }
}
