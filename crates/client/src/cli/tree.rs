//! Which names lead to which command: at the top, and under `container`, `image` and the other groups.

use super::Command;
use crate::commands::{
    attach, commit, context, cp, create, df, dial_stdio, diff, events, exec, export, fsck, history, images, import,
    info, inspect, jobs, kill, load, login, logs, network, pause, port, prune, ps, pull, push, rename, rm, rmi, run,
    save, search, start, stats, stop, tag, tls_init, top, update, version, volume, wait,
};

/// A name that leads to a command.
pub struct Entry {
    /// What is typed.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// Listed first in the program's help.
    pub common: bool,
    /// What it is.
    pub command: &'static Command,
}

/// A name that leads to commands about one kind of thing.
pub struct GroupEntry {
    /// What is typed.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// What may follow.
    pub entries: &'static [Entry],
}

const fn entry(name: &'static str, command: &'static Command) -> Entry {
    Entry { name, aliases: &[], common: false, command }
}

const fn common(name: &'static str, command: &'static Command) -> Entry {
    Entry { common: true, ..entry(name, command) }
}

const fn also(name: &'static str, aliases: &'static [&'static str], command: &'static Command) -> Entry {
    Entry { aliases, ..entry(name, command) }
}

/// Commands at the top.
pub static ROOT: &[Entry] = &[
    common("run", &run::COMMAND),
    common("exec", &exec::COMMAND),
    common("ps", &ps::COMMAND),
    common("pull", &pull::COMMAND),
    common("push", &push::COMMAND),
    common("images", &images::COMMAND),
    common("login", &login::LOGIN),
    common("logout", &login::LOGOUT),
    common("search", &search::COMMAND),
    common("version", &version::COMMAND),
    common("info", &info::COMMAND),
    entry("attach", &attach::COMMAND),
    entry("commit", &commit::COMMAND),
    entry("cp", &cp::COMMAND),
    entry("create", &create::COMMAND),
    entry("diff", &diff::COMMAND),
    entry("events", &events::COMMAND),
    entry("export", &export::COMMAND),
    entry("history", &history::COMMAND),
    entry("import", &import::COMMAND),
    entry("inspect", &inspect::ANY),
    entry("jobs", &jobs::COMMAND),
    entry("kill", &kill::COMMAND),
    entry("load", &load::COMMAND),
    entry("logs", &logs::COMMAND),
    entry("pause", &pause::PAUSE),
    entry("port", &port::COMMAND),
    entry("rename", &rename::COMMAND),
    entry("restart", &stop::RESTART),
    entry("rm", &rm::COMMAND),
    entry("rmi", &rmi::COMMAND),
    entry("save", &save::COMMAND),
    entry("start", &start::COMMAND),
    entry("stats", &stats::COMMAND),
    entry("stop", &stop::STOP),
    entry("tag", &tag::COMMAND),
    entry("top", &top::COMMAND),
    entry("unpause", &pause::UNPAUSE),
    entry("update", &update::COMMAND),
    entry("wait", &wait::COMMAND),
];

/// Groups of commands.
pub static GROUPS: &[GroupEntry] = &[
    GroupEntry {
        name: "container",
        about: "Manage containers",
        entries: &[
            entry("attach", &attach::COMMAND),
            entry("commit", &commit::COMMAND),
            entry("cp", &cp::COMMAND),
            entry("create", &create::COMMAND),
            entry("diff", &diff::COMMAND),
            entry("exec", &exec::COMMAND),
            entry("export", &export::COMMAND),
            entry("inspect", &inspect::CONTAINER),
            entry("kill", &kill::COMMAND),
            entry("logs", &logs::COMMAND),
            also("ls", &["list", "ps"], &ps::COMMAND),
            entry("pause", &pause::PAUSE),
            entry("port", &port::COMMAND),
            entry("prune", &prune::CONTAINERS),
            entry("rename", &rename::COMMAND),
            entry("restart", &stop::RESTART),
            also("rm", &["remove"], &rm::COMMAND),
            entry("run", &run::COMMAND),
            entry("start", &start::COMMAND),
            entry("stats", &stats::COMMAND),
            entry("stop", &stop::STOP),
            entry("top", &top::COMMAND),
            entry("unpause", &pause::UNPAUSE),
            entry("update", &update::COMMAND),
            entry("wait", &wait::COMMAND),
        ],
    },
    GroupEntry {
        name: "context",
        about: "Manage contexts",
        entries: &[
            entry("create", &context::CREATE),
            entry("export", &context::EXPORT),
            entry("import", &context::IMPORT),
            entry("inspect", &context::INSPECT),
            also("ls", &["list"], &context::LIST),
            also("rm", &["remove"], &context::REMOVE),
            entry("show", &context::SHOW),
            entry("update", &context::UPDATE),
            entry("use", &context::USE),
        ],
    },
    GroupEntry {
        name: "image",
        about: "Manage images",
        entries: &[
            entry("history", &history::COMMAND),
            entry("import", &import::COMMAND),
            entry("inspect", &inspect::IMAGE),
            entry("load", &load::COMMAND),
            also("ls", &["list"], &images::COMMAND),
            entry("prune", &prune::IMAGES),
            entry("pull", &pull::COMMAND),
            entry("push", &push::COMMAND),
            also("rm", &["remove"], &rmi::COMMAND),
            entry("save", &save::COMMAND),
            entry("tag", &tag::COMMAND),
        ],
    },
    GroupEntry {
        name: "network",
        about: "Manage networks",
        entries: &[
            entry("connect", &network::CONNECT),
            entry("create", &network::CREATE),
            entry("disconnect", &network::DISCONNECT),
            entry("doctor", &network::DOCTOR),
            entry("inspect", &inspect::NETWORK),
            also("ls", &["list"], &network::LIST),
            entry("ports", &network::PORTS),
            entry("prune", &prune::NETWORKS),
            also("rm", &["remove"], &network::REMOVE),
        ],
    },
    GroupEntry {
        name: "system",
        about: "Manage the engine",
        entries: &[
            entry("df", &df::COMMAND),
            entry("dial-stdio", &dial_stdio::COMMAND),
            entry("events", &events::COMMAND),
            entry("fsck", &fsck::COMMAND),
            entry("info", &info::COMMAND),
            entry("prune", &prune::SYSTEM),
            entry("tls-init", &tls_init::COMMAND),
        ],
    },
    GroupEntry {
        name: "volume",
        about: "Manage volumes",
        entries: &[
            entry("create", &volume::CREATE),
            entry("inspect", &inspect::VOLUME),
            also("ls", &["list"], &volume::LIST),
            entry("prune", &prune::VOLUMES),
            also("rm", &["remove"], &volume::REMOVE),
        ],
    },
];

/// Docker's commands that are still to come.
pub static LATER: &[&str] = &[
    "build",
    "builder",
    "buildx",
    "compose",
    "checkpoint",
    "manifest",
    "plugin",
    "trust",
    "config",
    "node",
    "secret",
    "service",
    "stack",
    "swarm",
    "update",
];

/// The command of that name.
pub fn find(entries: &'static [Entry], name: &str) -> Option<&'static Entry> {
    entries.iter().find(|entry| entry.name == name || entry.aliases.contains(&name))
}

/// The group of that name.
pub fn find_group(name: &str) -> Option<&'static GroupEntry> {
    GROUPS.iter().find(|group| group.name == name)
}
