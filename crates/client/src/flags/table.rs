//! The flags of `run` and `create`.

use super::checks;
use crate::cli::Flag;

/// Flags of both.
pub static CREATE: &[Flag] = &[
    Flag::many("add-host", "list", "Add a line to the container's hosts file (host:ip)").check(checks::add_host),
    Flag::many("annotation", "map", "Add an annotation that the runtime sees"),
    Flag::many("attach", "list", "Attach to STDIN, STDOUT or STDERR").short('a').check(checks::attach),
    Flag::many("cap-add", "list", "Add Linux capabilities"),
    Flag::many("cap-drop", "list", "Drop Linux capabilities"),
    Flag::one("cgroup-parent", "string", "Cgroup that the container's is made in"),
    Flag::one("cgroupns", "string", "Cgroup namespace to use (host|private)"),
    Flag::one("cidfile", "string", "Write the container ID to the file"),
    Flag::one("cpu-period", "int", "Period of the CPU quota, in microseconds").check(checks::int),
    Flag::one("cpu-quota", "int", "CPU time in each period, in microseconds").check(checks::int),
    Flag::one("cpu-shares", "int", "CPU shares (relative weight)").short('c').check(checks::int),
    Flag::one("cpus", "decimal", "Number of CPUs").check(checks::cpus),
    Flag::one("cpuset-cpus", "string", "CPUs in which to allow execution (0-3, 0,1)"),
    Flag::one("cpuset-mems", "string", "MEMs in which to allow execution (0-3, 0,1)"),
    Flag::many("device", "list", "Add a host device to the container"),
    Flag::many("device-cgroup-rule", "list", "Add a rule to the devices that the container may use"),
    Flag::many("dns", "list", "Set custom DNS servers").check(checks::ip),
    Flag::many("dns-option", "list", "Set DNS options"),
    Flag::many("dns-opt", "list", "").alias_of("dns-option"),
    Flag::many("dns-search", "list", "Set custom DNS search domains").check(checks::dns_search),
    Flag::one("domainname", "string", "Container NIS domain name"),
    Flag::one("entrypoint", "string", "Overwrite the default ENTRYPOINT of the image"),
    Flag::many("env", "list", "Set environment variables").short('e').check(checks::env),
    Flag::many("env-file", "list", "Read in a file of environment variables"),
    Flag::many("expose", "list", "Expose a port or a range of ports"),
    Flag::many("group-add", "list", "Add additional groups to join"),
    Flag::one("health-cmd", "string", "Command to run to check health"),
    Flag::one("health-interval", "duration", "Time between two checks (ms|s|m|h)")
        .default("0s")
        .check(checks::duration),
    Flag::one("health-retries", "int", "Failures in a row that make it unhealthy").check(checks::int),
    Flag::one("health-start-interval", "duration", "Time between two checks while it starts (ms|s|m|h)")
        .default("0s")
        .check(checks::duration),
    Flag::one("health-start-period", "duration", "Time it has to start before failures count (ms|s|m|h)")
        .default("0s")
        .check(checks::duration),
    Flag::one("health-timeout", "duration", "Longest time for one check (ms|s|m|h)")
        .default("0s")
        .check(checks::duration),
    Flag::one("hostname", "string", "Container host name").short('h'),
    Flag::switch("init", "Run an init inside the container that forwards signals and reaps processes"),
    Flag::switch("interactive", "Keep STDIN open even if not attached").short('i'),
    Flag::one("ip", "string", "IPv4 address (e.g., 172.30.100.104)"),
    Flag::one("ip6", "string", "IPv6 address (e.g., 2001:db8::33)"),
    Flag::one("ipc", "string", "IPC mode to use"),
    Flag::many("label", "list", "Set meta data on a container").short('l').check(checks::label),
    Flag::many("label-file", "list", "Read in a line delimited file of labels"),
    Flag::many("link", "list", "Add link to another container").check(checks::link),
    Flag::many("link-local-ip", "list", "Container IPv4/IPv6 link-local addresses"),
    Flag::one("log-driver", "string", "Logging driver for the container"),
    Flag::many("log-opt", "list", "Log driver options"),
    Flag::one("mac-address", "string", "Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
    Flag::one("memory", "bytes", "Memory limit").short('m').check(checks::bytes),
    Flag::one("memory-reservation", "bytes", "Memory soft limit").check(checks::bytes),
    Flag::one("memory-swap", "bytes", "Limit of memory plus swap: '-1' for unlimited swap")
        .check(checks::bytes_or_unlimited),
    Flag::one("memory-swappiness", "int", "Tune container memory swappiness (0 to 100)")
        .default("-1")
        .check(checks::int),
    Flag::many("mount", "mount", "Attach a filesystem mount to the container").check(checks::mount),
    Flag::one("name", "string", "Assign a name to the container"),
    Flag::many("network", "network", "Connect a container to a network").check(checks::network),
    Flag::many("net", "network", "").alias_of("network").check(checks::network),
    Flag::many("network-alias", "list", "Add network-scoped alias for the container"),
    Flag::many("net-alias", "list", "").alias_of("network-alias"),
    Flag::switch("no-healthcheck", "Disable any container-specified HEALTHCHECK"),
    Flag::switch("oom-kill-disable", "Disable OOM Killer"),
    Flag::one("oom-score-adj", "int", "Tune host's OOM preferences (-1000 to 1000)").check(checks::int),
    Flag::one("pid", "string", "PID namespace to use"),
    Flag::one("pids-limit", "int", "Tune container pids limit (set -1 for unlimited)").check(checks::int),
    Flag::one("platform", "string", "Set platform of the image: os[/arch[/variant]]"),
    Flag::switch("privileged", "Give extended privileges to this container"),
    Flag::many("publish", "list", "Publish a container's port(s) to the host").short('p'),
    Flag::switch("publish-all", "Publish all exposed ports to random ports").short('P'),
    Flag::one("pull", "string", "Pull image before use (\"always\", \"missing\", \"never\")").default("missing"),
    Flag::switch("quiet", "Suppress the pull output").short('q'),
    Flag::switch("read-only", "Mount the container's root filesystem as read only"),
    Flag::one("restart", "string", "Restart policy to apply when a container exits").default("no"),
    Flag::switch("rm", "Remove the container and its anonymous volumes when it exits"),
    Flag::one("runtime", "string", "Runtime to use for this container"),
    Flag::many("security-opt", "list", "Security Options"),
    Flag::one("shm-size", "bytes", "Size of /dev/shm").check(checks::bytes),
    Flag::one("stop-signal", "string", "Signal to stop the container"),
    Flag::one("stop-timeout", "int", "Timeout (in seconds) to stop a container").check(checks::int),
    Flag::many("storage-opt", "list", "Storage driver options for the container"),
    Flag::many("sysctl", "map", "Sysctl options").check(checks::sysctl),
    Flag::many("tmpfs", "list", "Mount a tmpfs directory"),
    Flag::switch("tty", "Allocate a pseudo-TTY").short('t'),
    Flag::many("ulimit", "ulimit", "Ulimit options").check(checks::ulimit),
    Flag::one("user", "string", "Username or UID (format: <name|uid>[:<group|gid>])").short('u'),
    Flag::one("userns", "string", "User namespace to use"),
    Flag::one("uts", "string", "UTS namespace to use"),
    Flag::many("volume", "list", "Bind mount a volume").short('v'),
    Flag::one("volume-driver", "string", "Optional volume driver for the container"),
    Flag::many("volumes-from", "list", "Mount volumes from the specified container(s)"),
    Flag::one("workdir", "string", "Working directory inside the container").short('w'),
    NO_TRUST,
];

/// Nothing is verified by signatures, which is Docker's default too; help does not show it.
pub const NO_TRUST: Flag =
    Flag::switch_on("disable-content-trust", "").alias_of("disable-content-trust").check(checks::no_trust);

/// Flags of `run` alone.
pub static RUN: &[Flag] = &[
    Flag::switch("detach", "Run container in background and print container ID").short('d'),
    Flag::one("detach-keys", "string", "Override the key sequence for detaching a container"),
    Flag::switch_on("sig-proxy", "Proxy received signals to the process"),
];

/// Flags of Docker that are refused by name.
pub static LATER: &[Flag] = &[
    Flag::later("blkio-weight", "uint16"),
    Flag::later("blkio-weight-device", "list"),
    Flag::later("cpu-count", "int"),
    Flag::later("cpu-percent", "int"),
    Flag::later("cpu-rt-period", "int"),
    Flag::later("cpu-rt-runtime", "int"),
    Flag::later("device-read-bps", "list"),
    Flag::later("device-read-iops", "list"),
    Flag::later("device-write-bps", "list"),
    Flag::later("device-write-iops", "list"),
    Flag::later("gpus", "gpu-request"),
    Flag::later("io-maxbandwidth", "bytes"),
    Flag::later("io-maxiops", "uint"),
    Flag::later("isolation", "string"),
    Flag::later("kernel-memory", "bytes"),
    Flag::later("use-api-socket", ""),
];
