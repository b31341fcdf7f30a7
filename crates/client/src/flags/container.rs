//! All flags of `run` and `create` together.

use std::path::Path;

use gantry_api::container::{Config, CreateRequest};
use gantry_api::hostconfig::{HostConfig, LogConfig, Mount};
use gantry_api::network::NetworkingConfig;

use super::checks::{host_and_ip, nano_cpus};
use super::{devices, env, health, mount, network, ports, security, volumes};
use crate::cli::Parsed;
use crate::format::size;

/// What the flags ask for.
#[derive(Debug)]
pub struct Created {
    /// The body of the request.
    pub request: CreateRequest,
    /// `--name`.
    pub name: String,
    /// `--platform`.
    pub platform: String,
}

/// Turns flags and arguments (image, command …) into a request; `detached` says that nothing is attached by default.
///
/// # Errors
/// In Docker's words.
pub fn request(flags: &Parsed, detached: bool) -> Result<Created, String> {
    let (image, command) = flags.args.split_first().ok_or("an image is required")?;
    let mut config = config(flags, image, command, detached)?;
    let mut host_config = host_config(flags)?;
    let ports = ports::Ports::parse(flags.list("publish"), flags.list("expose"))?;
    config.exposed_ports = (!ports.exposed.is_empty()).then_some(ports.exposed);
    host_config.port_bindings = Some(ports.bindings);
    let directory = std::env::current_dir().unwrap_or_else(|_| Path::new("/").to_owned());
    let volumes = volumes::volumes(flags.list("volume"), &directory)?;
    config.volumes = (!volumes.anonymous.is_empty()).then_some(volumes.anonymous);
    host_config.binds = some(volumes.binds);
    let (mode, endpoints) = network::networking(flags)?;
    host_config.network_mode = mode;
    flags.text_or_empty("mac-address").clone_into(&mut config.mac_address);
    Ok(Created {
        request: CreateRequest {
            config,
            host_config,
            networking_config: NetworkingConfig { endpoints_config: endpoints },
        },
        name: flags.text_or_empty("name").to_owned(),
        platform: platform(flags.text_or_empty("platform"))?,
    })
}

fn config(flags: &Parsed, image: &str, command: &[String], detached: bool) -> Result<Config, String> {
    let attach = |stream: &str| flags.list("attach").iter().any(|name| name.eq_ignore_ascii_case(stream));
    let interactive = flags.on("interactive");
    let all = flags.list("attach").is_empty() && !detached;
    let attach_stdin = attach("stdin") || all && interactive;
    let text = |name| flags.text_or_empty(name).to_owned();
    Ok(Config {
        hostname: text("hostname"),
        domainname: text("domainname"),
        user: text("user"),
        attach_stdin,
        attach_stdout: attach("stdout") || all,
        attach_stderr: attach("stderr") || all,
        tty: flags.on("tty"),
        open_stdin: interactive,
        stdin_once: interactive && attach_stdin,
        env: Some(env::environment(flags.list("env-file"), flags.list("env"))?),
        cmd: some(command.to_vec()),
        healthcheck: health::healthcheck(flags)?,
        image: image.to_owned(),
        working_dir: text("workdir"),
        entrypoint: flags.text("entrypoint").map(|program| vec![program.to_owned()]),
        labels: Some(env::labels(flags.list("label-file"), flags.list("label"))?),
        stop_signal: text("stop-signal"),
        stop_timeout: flags.int("stop-timeout"),
        ..Config::default()
    })
}

fn host_config(flags: &Parsed) -> Result<HostConfig, String> {
    let text = |name| flags.text_or_empty(name).to_owned();
    let list = |name| some(flags.list(name).to_vec());
    let security = security::security(flags.list("security-opt"))?;
    let hosts = flags.list("add-host").iter().map(|flag| host_and_ip(flag).map(|(host, ip)| format!("{host}:{ip}")));
    let mut config = HostConfig {
        container_id_file: text("cidfile"),
        log_config: logging(flags)?,
        restart_policy: restart(flags)?,
        auto_remove: flags.on("rm"),
        volume_driver: text("volume-driver"),
        volumes_from: list("volumes-from"),
        mounts: mounts(flags)?,
        console_size: console_size(flags),
        annotations: pairs(flags, "annotation"),
        cap_add: list("cap-add"),
        cap_drop: list("cap-drop"),
        cgroupns_mode: mode(flags, "cgroupns", &["host", "private"])?,
        dns: list("dns"),
        dns_options: list("dns-option"),
        dns_search: list("dns-search"),
        extra_hosts: some(hosts.collect::<Result<_, _>>()?),
        group_add: list("group-add"),
        ipc_mode: text("ipc"),
        links: list("link"),
        pid_mode: mode(flags, "pid", &["host", "container:"])?,
        privileged: flags.on("privileged"),
        publish_all_ports: flags.on("publish-all"),
        readonly_rootfs: flags.on("read-only"),
        security_opt: some(security.options),
        storage_opt: storage(flags)?,
        tmpfs: volumes::tmpfs(flags.list("tmpfs")),
        uts_mode: mode(flags, "uts", &["host"])?,
        userns_mode: mode(flags, "userns", &["host"])?,
        sysctls: pairs(flags, "sysctl"),
        runtime: text("runtime"),
        init: flags.given("init").then(|| flags.on("init")),
        masked_paths: security.system_paths_unconfined.then(Vec::new),
        readonly_paths: security.system_paths_unconfined.then(Vec::new),
        ..HostConfig::default()
    };
    limits(flags, &mut config)?;
    Ok(config)
}

/// The limits that `run`, `create` and `update` share.
pub fn limits(flags: &Parsed, config: &mut HostConfig) -> Result<(), String> {
    let bytes = |name: &str| match flags.text(name) {
        None => Ok(0),
        Some("-1") => Ok(-1),
        Some(text) => size::parse(text),
    };
    let int = |name: &str| flags.int(name).unwrap_or(0);
    config.memory = bytes("memory")?;
    config.memory_reservation = bytes("memory-reservation")?;
    config.memory_swap = bytes("memory-swap")?;
    config.shm_size = bytes("shm-size")?;
    config.memory_swappiness = match flags.int("memory-swappiness") {
        None | Some(-1) => None,
        Some(value @ 0..=100) => Some(value),
        Some(value) => return Err(format!("invalid value: {value}. Valid memory swappiness range is 0-100")),
    };
    config.nano_cpus = flags.text("cpus").map_or(Ok(0), nano_cpus)?;
    config.cpu_shares = int("cpu-shares");
    config.cpu_period = int("cpu-period");
    config.cpu_quota = int("cpu-quota");
    flags.text_or_empty("cpuset-cpus").clone_into(&mut config.cpuset_cpus);
    flags.text_or_empty("cpuset-mems").clone_into(&mut config.cpuset_mems);
    flags.text_or_empty("cgroup-parent").clone_into(&mut config.cgroup_parent);
    config.pids_limit = flags.int("pids-limit");
    config.oom_kill_disable = flags.given("oom-kill-disable").then(|| flags.on("oom-kill-disable"));
    config.oom_score_adj = i32::try_from(int("oom-score-adj")).map_err(|_| "invalid --oom-score-adj".to_owned())?;
    config.device_cgroup_rules = some(flags.list("device-cgroup-rule").to_vec());
    config.devices = some(flags.list("device").iter().map(|flag| devices::device(flag)).collect::<Result<_, _>>()?);
    config.ulimits = some(flags.list("ulimit").iter().map(|flag| devices::ulimit(flag)).collect::<Result<_, _>>()?);
    Ok(())
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn pairs(flags: &Parsed, name: &str) -> Option<std::collections::BTreeMap<String, String>> {
    flags.given(name).then(|| env::pairs(flags.list(name)))
}

fn mounts(flags: &Parsed) -> Result<Option<Vec<Mount>>, String> {
    Ok(some(flags.list("mount").iter().map(|flag| mount::parse(flag)).collect::<Result<_, _>>()?))
}

fn console_size(flags: &Parsed) -> [u16; 2] {
    let size = flags.on("tty").then(crate::terminal::size).flatten();
    size.map_or([0, 0], |(height, width)| [height, width])
}

/// A namespace's mode: nothing, or one of these; one that ends in a colon takes a name.
fn mode(flags: &Parsed, name: &str, known: &[&str]) -> Result<String, String> {
    let mode = flags.text_or_empty(name);
    let fits =
        |one: &&str| if one.ends_with(':') { mode.len() > one.len() && mode.starts_with(*one) } else { mode == *one };
    if mode.is_empty() || known.iter().any(fits) {
        return Ok(mode.to_owned());
    }
    let shown = match name {
        "userns" => "USER".to_owned(),
        "cgroupns" => "CGROUP".to_owned(),
        name => name.to_uppercase(),
    };
    Err(format!("--{name}: invalid {shown} mode"))
}

fn restart(flags: &Parsed) -> Result<gantry_api::hostconfig::RestartPolicy, String> {
    let policy = devices::restart_policy(flags.text("restart").unwrap_or("no"))?;
    if flags.on("rm") && !matches!(policy.name.as_str(), "" | "no") {
        return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
    }
    Ok(policy)
}

fn logging(flags: &Parsed) -> Result<LogConfig, String> {
    let kind = flags.text_or_empty("log-driver").to_owned();
    let options = flags.list("log-opt");
    if kind == "none" && !options.is_empty() {
        return Err(format!("invalid logging opts for driver {kind}"));
    }
    Ok(LogConfig { kind, config: Some(env::pairs(options)) })
}

fn storage(flags: &Parsed) -> Result<Option<std::collections::BTreeMap<String, String>>, String> {
    if flags.list("storage-opt").iter().any(|flag| !flag.contains('=')) {
        return Err("invalid storage option".to_owned());
    }
    Ok(pairs(flags, "storage-opt"))
}

fn platform(text: &str) -> Result<String, String> {
    if text.split('/').count() > 3 || text.split('/').any(str::is_empty) && !text.is_empty() {
        return Err(format!(
            "error parsing specified platform: {text:?}: cannot parse platform specifier: invalid argument"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;
    use crate::flags::table;

    fn read(words: &[&str]) -> Result<Created, String> {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        let flags = || -> Box<dyn Iterator<Item = &'static cli::Flag>> {
            Box::new(table::CREATE.iter().chain(table::RUN).chain(table::LATER))
        };
        let parsed = cli::parse("docker", flags, false, &words)?;
        let detached = parsed.on("detach");
        request(&parsed, detached)
    }

    #[test]
    fn the_flags_of_the_issue_reach_the_request() {
        let words = "-dit --rm --name n -e A=1 -w /w -u 1:2 -h host --entrypoint /e -v /a:/b -v vol:/c -p 8080:80 -P \
                     --expose 9 --network none --dns 1.1.1.1 --dns-search x.y --dns-opt ndots:1 --add-host a:1.2.3.4 \
                     -m 64m --memory-swap -1 --memory-reservation 32m --cpus 1.5 --cpuset-cpus 0-1 --cpuset-mems 0 -c 512 \
                     --cpu-quota 1 --cpu-period 2 --pids-limit 10 --ulimit nofile=1:2 --cap-add NET_ADMIN --cap-drop ALL \
                     --privileged --security-opt no-new-privileges --read-only --init -l a=b --stop-signal INT \
                     --stop-timeout 3 --shm-size 1m --tmpfs /t:size=1m --group-add 7 --device /dev/fuse --sysctl net.a=1 \
                     --oom-score-adj 5 --log-driver json-file --log-opt max-size=1m --pid host --ipc private --uts host \
                     img cmd -x";
        let words: Vec<_> = words.split_whitespace().collect();
        let Created { request: CreateRequest { config, host_config: host, .. }, name, .. } = read(&words).unwrap();
        assert_eq!(name, "n");
        assert!(config.tty && config.open_stdin && !config.stdin_once && !config.attach_stdout);
        assert_eq!(config.cmd.unwrap(), ["cmd", "-x"]);
        assert_eq!((config.image.as_str(), config.working_dir.as_str(), config.user.as_str()), ("img", "/w", "1:2"));
        assert_eq!(config.entrypoint.unwrap(), ["/e"]);
        assert_eq!(config.env.unwrap(), ["A=1"]);
        assert_eq!(config.exposed_ports.unwrap().into_keys().collect::<Vec<_>>(), ["80/tcp", "9/tcp"]);
        assert_eq!((config.stop_signal.as_str(), config.stop_timeout), ("INT", Some(3)));
        assert_eq!(host.binds.unwrap(), ["/a:/b", "vol:/c"]);
        assert_eq!((host.memory, host.memory_swap, host.memory_reservation), (64 << 20, -1, 32 << 20));
        assert_eq!((host.nano_cpus, host.cpu_shares, host.pids_limit), (1_500_000_000, 512, Some(10)));
        assert_eq!((host.network_mode.as_str(), host.pid_mode.as_str(), host.init), ("none", "host", Some(true)));
        assert_eq!(host.extra_hosts.unwrap(), ["a:1.2.3.4"]);
        assert_eq!(host.tmpfs.unwrap()["/t"], "size=1m");
        assert_eq!(host.dns_options.unwrap(), ["ndots:1"]);
        assert!(host.auto_remove && host.privileged && host.readonly_rootfs && host.publish_all_ports);
    }

    #[test]
    fn streams_are_attached_as_docker_attaches_them() {
        let config = |words: &[&str]| {
            let config = read(words).unwrap().request.config;
            (config.attach_stdin, config.attach_stdout, config.attach_stderr, config.stdin_once)
        };
        assert_eq!(config(&["x"]), (false, true, true, false));
        assert_eq!(config(&["-i", "x"]), (true, true, true, true));
        assert_eq!(config(&["-d", "-i", "x"]), (false, false, false, false));
        assert_eq!(config(&["-a", "stdout", "-i", "x"]), (false, true, false, false));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_dockers_words() {
        for (words, message) in [
            (vec!["-p", "99999:1", "x"], "invalid hostPort: 99999"),
            (vec!["--rm", "--restart", "always", "x"], "conflicting options: cannot specify both --restart and --rm"),
            (vec!["--pid", "foo", "x"], "--pid: invalid PID mode"),
            (vec!["--uts", "foo", "x"], "--uts: invalid UTS mode"),
            (vec!["--userns", "foo", "x"], "--userns: invalid USER mode"),
            (vec!["--mac-address", "zz", "x"], "zz is not a valid mac address"),
            (vec!["--storage-opt", "a", "x"], "invalid storage option"),
            (vec!["--memory-swappiness", "200", "x"], "invalid value: 200. Valid memory swappiness range is 0-100"),
            (vec!["--health-interval", "-1s", "x"], "--health-interval cannot be negative"),
            (vec!["--no-healthcheck", "--health-cmd", "a", "x"], "--no-healthcheck conflicts with --health-* options"),
            (vec!["--gpus", "all", "x"], "docker: the flag --gpus is not supported yet"),
            (vec!["-m", "1q", "x"], "invalid argument \"1q\" for \"-m, --memory\" flag: invalid suffix: 'q'"),
            (
                vec!["--platform", "a/b/c/d", "x"],
                "error parsing specified platform: \"a/b/c/d\": cannot parse platform specifier: invalid argument",
            ),
        ] {
            assert_eq!(read(&words).unwrap_err(), message, "{words:?}");
        }
    }

    #[test]
    fn every_flag_of_docker_28_is_known() {
        let docker = "add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns \
            cidfile cpu-count cpu-percent cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus \
            cpuset-mems detach detach-keys device device-cgroup-rule device-read-bps device-read-iops device-write-bps \
            device-write-iops disable-content-trust dns dns-option dns-search domainname entrypoint env env-file expose gpus \
            group-add health-cmd health-interval health-retries health-start-interval health-start-period health-timeout \
            hostname init interactive io-maxbandwidth io-maxiops ip ip6 ipc isolation kernel-memory label label-file link \
            link-local-ip log-driver log-opt mac-address memory memory-reservation memory-swap memory-swappiness mount name \
            network network-alias no-healthcheck oom-kill-disable oom-score-adj pid pids-limit platform privileged publish \
            publish-all pull quiet read-only restart rm runtime security-opt shm-size sig-proxy stop-signal stop-timeout \
            storage-opt sysctl tmpfs tty ulimit use-api-socket user userns uts volume volume-driver volumes-from workdir";
        for name in docker.split_whitespace() {
            let known = table::CREATE.iter().chain(table::RUN).chain(table::LATER).any(|flag| flag.long == name);
            assert!(known, "{name}");
        }
    }
}
