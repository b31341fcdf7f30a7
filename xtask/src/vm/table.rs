//! What goes into the virtual machine and what runs there, as data: a new suite, module or tool is a line here.

/// A test target of the workspace that runs in the virtual machine.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// How the report and the filter call it.
    pub name: &'static str,
    /// Cargo's name of the package.
    pub package: &'static str,
    pub target: Target,
    /// Further arguments of the test binary: names of tests, `--skip NAME` …
    pub arguments: &'static [&'static str],
    /// The whole binary is killed after so many seconds. Emulation is ten to twenty times slower than the machine.
    pub seconds: u32,
}

/// Which test target of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The unit tests of the library.
    Unit,
    /// A file of `tests/`.
    Test(&'static str),
}

impl Target {
    /// How cargo is asked for it.
    pub fn argument(self) -> String {
        match self {
            Self::Unit => "--lib".to_owned(),
            Self::Test(name) => format!("--test={name}"),
        }
    }
}

const fn suite(name: &'static str, package: &'static str, target: Target, seconds: u32) -> Suite {
    Suite { name, package, target, arguments: &[], seconds }
}

pub const SUITES: &[Suite] = &[
    suite("libcontainer", "libcontainer", Target::Unit, 60),
    suite("linux", "gantry-linux", Target::Unit, 60),
    suite("cgroup-v2", "libcontainer", Target::Test("cgroup_v2"), 90),
    suite("runtime-life", "gantry-runtime", Target::Test("life"), 90),
    // The machine has no tmux, which plays the terminal there.
    Suite {
        arguments: &["--skip", "a_foreground_terminal"],
        ..suite("runtime-exec", "gantry-runtime", Target::Test("exec"), 60)
    },
    suite("runtime-rootless", "gantry-runtime", Target::Test("rootless"), 60),
    suite("runtime-apparmor", "gantry-runtime", Target::Test("apparmor"), 60),
    // Races take long here, and are won or lost on any kernel.
    Suite {
        arguments: &["--skip", "becomes_a_link_while", "--skip", "however_it_is_swapped"],
        ..suite("runtime-museum", "gantry-runtime", Target::Test("museum"), 120)
    },
    suite("execdriver", "gantry-execdriver", Target::Test("native"), 150),
    suite("execdriver-leaks", "gantry-execdriver", Target::Test("leaks"), 90),
    suite("execdriver-lxc", "gantry-execdriver", Target::Test("lxc"), 240),
    suite("execdriver-leaks-lxc", "gantry-execdriver", Target::Test("leaks_lxc"), 240),
    // Quotas, which the kernel of the machine around it may lack.
    Suite {
        arguments: &["limits"],
        ..suite("graphdriver-limits", "gantry-graphdriver", Target::Test("file_systems"), 180)
    },
    // The layer drivers that this machine's kernel may lack; archives are the same on any kernel.
    Suite {
        arguments: GRAPHDRIVER,
        ..suite("graphdriver-devmapper", "gantry-graphdriver", Target::Test("suite"), 420)
    },
    // The daemon with Docker's client and ours: each call of a client takes a second here, so chosen tests.
    Suite { arguments: SYSTEM_SECURITY, ..suite("system-security", "gantry-tests", Target::Test("security"), 120) },
    suite("system-limits", "gantry-tests", Target::Test("limits"), 120),
    Suite { arguments: SYSTEM_LIFE, ..suite("system-life", "gantry-tests", Target::Test("lifecycle"), 90) },
    suite("system-restart", "gantry-tests", Target::Test("restart"), 90),
    // Tables that others can flush: watched, healed, and fenced; links that other kernels lack.
    Suite {
        arguments: &["bridge::tests::isolation", "bridge::tests::flushed", "bridge::tests::others", "stacked::tests"],
        ..suite("firewall", "gantry-networkdriver", Target::Unit, 240)
    },
    suite("system-network", "gantry-tests", Target::Test("network"), 120),
    suite("system-devmapper", "gantry-tests", Target::Test("devmapper"), 120),
    Suite { arguments: &["run_exec_logs"], ..suite("system-lxc", "gantry-tests", Target::Test("execdriver_lxc"), 60) },
];

/// Of the suite of the graphdrivers. A deep stack of layers is tried on one of devmapper's two file systems, which is enough.
const GRAPHDRIVER: &[&str] = &["devmapper", "devices", "--skip", "devmapper_xfs::deep"];
/// What differs where there is AppArmor.
const SYSTEM_SECURITY: &[&str] =
    &["apparmor", "info_tells", "af_alg_and_vsock", "old_32_bit_programs", "cgroups_are_writable"];
/// Starting, stopping, freezing.
const SYSTEM_LIFE: &[&str] = &["walks_through_the_states", "stop_sends", "pause", "rm_refuses"];

/// Kernel modules, loaded with what they depend on, in this order. What the kernel has built in is left out.
pub const MODULES: &[&str] = &[
    "overlay",
    "fuse",
    "loop",
    "squashfs",
    "erofs",
    "ext4",
    "quota_v2",
    "xfs",
    "btrfs",
    "dm-mod",
    "dm-thin-pool",
    "veth",
    "dummy",
    "bridge",
    "br_netfilter",
    "macvlan",
    "ipvlan",
    "vxlan",
    "nf_tables",
    "nf_conntrack",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_reject_inet",
];

/// A program of this machine that goes along, with the libraries that it loads.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    pub program: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    pub why: &'static str,
}

const fn tool(program: &'static str, package: &'static str, why: &'static str) -> Tool {
    Tool { program, package, why }
}

/// What the machine needs to be started at all.
pub const HOST: &[Tool] = &[
    tool("qemu-system-x86_64", "qemu-system-x86", "the virtual machine with cgroup v2 and AppArmor"),
    tool("strip", "binutils", "makes what goes into it small"),
    tool("dpkg-deb", "dpkg", "unpacks its kernel"),
];

/// What tests call inside.
pub const TOOLS: &[Tool] = &[
    tool("busybox", "busybox-static", "the virtual machine's user land"),
    tool("tar", "tar", "makes and reads archives"),
    tool("ip", "iproute2", "looks at links"),
    tool("nft", "nftables", "looks at the firewall from outside"),
    tool("apparmor_parser", "apparmor", "loads AppArmor profiles"),
    tool("lxc-start", "lxc", "makes containers for the lxc execdriver"),
    tool("dmsetup", "dmsetup", "looks at device mapper devices"),
    tool("mkfs.ext4", "e2fsprogs", "makes file systems in loop files"),
    tool("mkfs.xfs", "xfsprogs", "makes file systems in loop files"),
    tool("mkfs.btrfs", "btrfs-progs", "makes file systems in loop files"),
    tool("btrfs", "btrfs-progs", "looks at quota groups"),
];

/// What the system tests call besides: only packed when they run.
pub const SYSTEM_TOOLS: &[Tool] = &[
    tool("docker", "docker-cli|docker.io", "Docker's own client"),
    tool("docker-registry", "docker-registry", "a private registry on loopback"),
];

/// Directories and files of this machine that go along as they are, where they exist.
pub const FILES: &[&str] = &[
    "/etc/apparmor",
    "/etc/apparmor.d/abi",
    "/etc/apparmor.d/abstractions",
    "/etc/apparmor.d/tunables",
    "/usr/share/apparmor-features",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/mke2fs.conf",
];

/// Memory of the virtual machine in MiB.
pub const MEMORY: u32 = 1536;

/// How long nothing may be said before the machine counts as dead.
pub const SILENCE: std::time::Duration = std::time::Duration::from_secs(100);
