//! The flags of every command; names and meanings are runc's.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use super::values;

const COMMANDS: &str = "Commands:
  create      Make a container, its program not started
  start       Start the program of a created container
  run         Make a container, run its program, remove the container
  state       Print the state of a container as JSON
  kill        Send a signal to a container's first process
  delete      Remove a container
  exec        Start a further process in a container
  list        List containers
  ps          List a container's processes
  pause       Freeze a container's processes
  resume      Let them run again
  update      Change a container's limits
  events      Print statistics and out-of-memory events
  spec        Write a configuration to start from
  features    Print what is supported, as JSON
  checkpoint  Not supported yet
  restore     Not supported yet
  help        Help of a command";

/// Runs containers from OCI bundles; takes runc's place below containerd, podman and Docker.
#[derive(Debug, Parser)]
#[command(
    name = "gantry-runtime",
    override_usage = "gantry-runtime [OPTIONS] COMMAND [ARGUMENTS]",
    after_help = COMMANDS,
    disable_version_flag = true
)]
pub struct Globals {
    /// Where the containers' state is kept; default /run/gantry-runtime
    #[arg(long, value_name = "DIRECTORY")]
    pub root: Option<PathBuf>,
    /// Write errors and warnings to this file
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
    /// Log what is done
    #[arg(long)]
    pub debug: bool,
    /// Have systemd make cgroups (not supported yet)
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// true, false or auto: whether cgroups that may not be made are done without
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub rootless: String,
    /// Ignored
    #[arg(long, hide = true)]
    pub criu: Option<PathBuf>,
    /// Print the versions
    #[arg(long, short = 'v')]
    pub version: bool,
    /// The command and its arguments.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// No arguments.
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime")]
pub struct Nothing {}

/// A container and nothing else.
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime")]
pub struct OneContainer {
    /// Its name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

/// How a container is made.
#[derive(Debug, Args)]
pub struct BundleFlags {
    /// The directory with config.json; default the working directory
    #[arg(long, short, value_name = "DIRECTORY")]
    pub bundle: Option<PathBuf>,
    /// A listening AF_UNIX socket that is sent the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A listening AF_UNIX socket that is sent a pidfd of the first process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Write the first process's id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Move the root instead of pivoting to it: for a root on an initial RAM disk
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass so many descriptors from 3 on (after those of LISTEN_FDS)
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub preserve_fds: u32,
}

/// Make a container, its program not started
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime create")]
pub struct Create {
    #[command(flatten)]
    pub bundle: BundleFlags,
    /// A new name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

/// Make a container, run its program, remove the container
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime run")]
pub struct Run {
    #[command(flatten)]
    pub bundle: BundleFlags,
    /// Return when the program runs
    #[arg(long, short)]
    pub detach: bool,
    /// Keep the container when its program has ended
    #[arg(long)]
    pub keep: bool,
    /// Do not adopt the processes that the container leaves behind
    #[arg(long)]
    pub no_subreaper: bool,
    /// A new name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

/// Send a signal to a container's first process
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime kill")]
pub struct Kill {
    /// To every process
    #[arg(long, short)]
    pub all: bool,
    /// Its name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
    /// A name or number
    #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
    pub signal: String,
}

/// Remove a container
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime delete")]
pub struct Delete {
    /// Kill it first; one that is not there is no error
    #[arg(long, short)]
    pub force: bool,
    /// Its name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

/// Start a further process in a container
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime exec", override_usage = "gantry-runtime exec [OPTIONS] CONTAINER COMMAND [ARGUMENTS]")]
pub struct Exec {
    /// A file with an OCI process object, instead of the other flags
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Give it a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// UID[:GID]
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
    /// NAME=VALUE
    #[arg(long, short, value_name = "VARIABLE")]
    pub env: Vec<String>,
    /// Its working directory
    #[arg(long, value_name = "DIRECTORY")]
    pub cwd: Option<String>,
    /// A capability more
    #[arg(long, short, value_name = "CAPABILITY")]
    pub cap: Vec<String>,
    /// A group more
    #[arg(long, short = 'g', value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// It and what it executes gain no privileges
    #[arg(long)]
    pub no_new_privs: bool,
    /// Return when the program runs
    #[arg(long, short)]
    pub detach: bool,
    /// Write its process id to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// A listening AF_UNIX socket that is sent the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A listening AF_UNIX socket that is sent a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Pass so many descriptors from 3 on
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub preserve_fds: u32,
    /// [CONTROLLER:]CGROUP, an existing one below the container's
    #[arg(long, value_name = "CGROUP")]
    pub cgroup: Vec<String>,
    /// Also in a paused container
    #[arg(long)]
    pub ignore_paused: bool,
    /// The container's name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
    /// Program and arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "plain words")]
pub enum OutputFormat {
    Table,
    Json,
}

/// List containers
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime list")]
pub struct List {
    /// table or json
    #[arg(long, short, default_value = "table", hide_possible_values = true)]
    pub format: OutputFormat,
    /// Names only
    #[arg(long, short)]
    pub quiet: bool,
}

/// List a container's processes
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime ps")]
pub struct Ps {
    /// table or json
    #[arg(long, short, default_value = "table", hide_possible_values = true)]
    pub format: OutputFormat,
    /// Its name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
    /// Options of ps(1); only -ef is known
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<String>,
}

/// Print statistics and out-of-memory events
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime events")]
pub struct Events {
    /// Time between statistics
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    pub interval: Duration,
    /// Print the statistics once
    #[arg(long)]
    pub stats: bool,
    /// Its name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

/// Write a configuration to start from
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime spec")]
pub struct Spec {
    /// The directory that gets config.json; default the working directory
    #[arg(long, short, value_name = "DIRECTORY")]
    pub bundle: Option<PathBuf>,
    /// For a container of a user without privileges
    #[arg(long)]
    pub rootless: bool,
}

/// Change a container's limits
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime update")]
pub struct Update {
    /// A file with an OCI resources object, - is standard input; instead of the other flags
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Microseconds
    #[arg(long, value_name = "TIME")]
    pub cpu_period: Option<u64>,
    /// Microseconds in each period; -1 is unlimited
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Microseconds that may be saved up
    #[arg(long, value_name = "TIME")]
    pub cpu_burst: Option<u64>,
    /// Relative weight, 1024 is normal
    #[arg(long, value_name = "WEIGHT")]
    pub cpu_share: Option<u64>,
    /// Microseconds
    #[arg(long, value_name = "TIME")]
    pub cpu_rt_period: Option<u64>,
    /// Microseconds in each real-time period
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// A list of CPUs, as 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// A list of memory nodes
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// 1 is SCHED_IDLE
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub cpu_idle: Option<i64>,
    /// Ignored
    #[arg(long, hide = true, value_parser = values::bytes, allow_hyphen_values = true)]
    pub kernel_memory: Option<i64>,
    /// Ignored
    #[arg(long, hide = true, value_parser = values::bytes, allow_hyphen_values = true)]
    pub kernel_memory_tcp: Option<i64>,
    /// Bytes, with a unit if wanted; -1 is unlimited
    #[arg(long, value_name = "SIZE", value_parser = values::bytes, allow_hyphen_values = true)]
    pub memory: Option<i64>,
    /// The soft limit
    #[arg(long, value_name = "SIZE", value_parser = values::bytes, allow_hyphen_values = true)]
    pub memory_reservation: Option<i64>,
    /// Memory and swap together; -1 is unlimited
    #[arg(long, value_name = "SIZE", value_parser = values::bytes, allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// -1 is unlimited
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Not supported
    #[arg(long, hide = true)]
    pub l3_cache_schema: Option<String>,
    /// Not supported
    #[arg(long, hide = true)]
    pub mem_bw_schema: Option<String>,
    /// Its name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

/// Save a container's processes (not supported yet)
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime checkpoint")]
pub struct Checkpoint {
    /// Whatever runc takes.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<OsString>,
}

/// Bring saved processes back (not supported yet)
#[derive(Debug, Parser)]
#[command(name = "gantry-runtime restore")]
pub struct Restore {
    /// Whatever runc takes.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<OsString>,
}
