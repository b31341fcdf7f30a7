//! Which columns somebody wants who says it in the words of `ps`; no `ps` is run.

use super::process::{Host, Process};
use crate::error::{Error, Result};

/// So many columns may be asked for.
const MOST: usize = 64;

type Value = fn(&Process, &Host) -> String;

/// A column.
pub struct Column {
    /// Above it.
    pub title: String,
    /// What it says of a process.
    pub value: Value,
    pid: bool,
}

const FULL: &[(&str, &str)] = &[
    ("UID", "user"),
    ("PID", "pid"),
    ("PPID", "ppid"),
    ("C", "c"),
    ("STIME", "stime"),
    ("TTY", "tty"),
    ("TIME", "time"),
    ("CMD", "cmd"),
];
const USERS: &[(&str, &str)] = &[
    ("USER", "user"),
    ("PID", "pid"),
    ("%CPU", "pcpu"),
    ("%MEM", "pmem"),
    ("VSZ", "vsz"),
    ("RSS", "rss"),
    ("TTY", "tty"),
    ("STAT", "stat"),
    ("START", "stime"),
    ("TIME", "bsdtime"),
    ("COMMAND", "cmd"),
];

/// The columns of `ps`'s arguments.
///
/// # Errors
/// Words that are not known here; columns without the pid, by which processes are told apart.
pub fn parse(arguments: &str) -> Result<Vec<Column>> {
    let named = |list: &[(&str, &str)]| {
        list.iter().map(|(title, name)| Ok(Column { title: (*title).to_owned(), ..column(name)? })).collect()
    };
    let mut own: Vec<Column> = Vec::new();
    let mut users = false;
    let mut words = arguments.split_whitespace();
    while let Some(word) = words.next() {
        let letters = word.strip_prefix('-').unwrap_or(word);
        let (letters, list) = match letters.split_once('o') {
            Some((letters, "")) => (letters, words.next()),
            Some((letters, list)) => (letters, Some(list)),
            None => (letters, None),
        };
        // e, a, x, A, d, g: whose processes; f, w: how. All of the container's are shown, and whole.
        if !letters.chars().all(|letter| "eaxAdgfwwu".contains(letter)) || word.starts_with("--") {
            return Err(unknown(arguments, word));
        }
        users |= letters.contains('u');
        match list {
            Some(list) => own.extend(wanted(list).map_err(|name| unknown(arguments, &name))?),
            None if word.ends_with('o') => return Err(unknown(arguments, word)),
            None => {}
        }
    }
    if own.len() > MOST {
        return Err(Error::invalid(format!("ps: {} columns are asked for: ask for at most {MOST}", own.len())));
    }
    if own.is_empty() {
        return named(if users { USERS } else { FULL });
    }
    if !own.iter().any(|column| column.pid) {
        return Err(Error::invalid("Couldn't find PID field in ps output: add pid to the columns"));
    }
    Ok(own)
}

fn unknown(arguments: &str, word: &str) -> Error {
    Error::invalid(format!(
        "ps {arguments}: {word} is not known here: use -ef, aux, or -o with columns, as in -o pid,comm"
    ))
}

/// `pid,comm`, `pid=ID`; only the last one may have a title with commas in it.
fn wanted(list: &str) -> std::result::Result<Vec<Column>, String> {
    let mut columns = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let (name, title, more) = match (rest.find(','), rest.find('=')) {
            (comma, Some(equals)) if comma.is_none_or(|comma| equals < comma) => {
                (&rest[..equals], Some(&rest[equals + 1..]), "")
            }
            (Some(comma), _) => (&rest[..comma], None, &rest[comma + 1..]),
            (None, _) => (rest, None, ""),
        };
        let mut column = column(name).map_err(|_| name.to_owned())?;
        if let Some(title) = title {
            title.clone_into(&mut column.title);
        }
        columns.push(column);
        rest = more;
    }
    Ok(columns)
}

fn clock(seconds: i64, days: bool) -> String {
    let (hours, rest) = (seconds / 3600, format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60));
    match (hours, days) {
        (0, true) => rest,
        (24.., true) => format!("{}-{:02}:{rest}", hours / 24, hours % 24),
        _ => format!("{hours:02}:{rest}"),
    }
}

fn column(name: &str) -> Result<Column> {
    let (title, value): (&str, Value) = match name {
        "pid" => ("PID", |process, _| process.pid.to_string()),
        "ppid" => ("PPID", |process, _| process.stat(4).to_string()),
        "pgid" | "pgrp" => ("PGID", |process, _| process.stat(5).to_string()),
        "sid" | "sess" | "session" => ("SID", |process, _| process.stat(6).to_string()),
        "user" | "euser" | "uname" => ("USER", |process, _| process.owner("Uid", 1)),
        "ruser" => ("RUSER", |process, _| process.owner("Uid", 0)),
        "group" | "egroup" => ("GROUP", |process, _| process.owner("Gid", 1)),
        "uid" | "euid" => ("UID", |process, _| process.status("Uid", 1).to_owned()),
        "gid" | "egid" => ("GID", |process, _| process.status("Gid", 1).to_owned()),
        "comm" | "ucmd" | "ucomm" => ("COMMAND", |process, _| process.name.clone()),
        "args" | "command" => ("COMMAND", |process, _| process.command()),
        "cmd" => ("CMD", |process, _| process.command()),
        "c" => ("C", |process, host| process.processor(host).split('.').next().unwrap_or("0").to_owned()),
        "pcpu" | "%cpu" => ("%CPU", |process, host| process.processor(host)),
        "pmem" | "%mem" => ("%MEM", |process, host| process.share(host)),
        "rss" | "rssize" | "rsz" => ("RSS", |process, _| process.resident().to_string()),
        "vsz" | "vsize" => ("VSZ", |process, _| (process.stat(23) / 1024).to_string()),
        "stat" => ("STAT", |process, _| process.state(true)),
        "s" | "state" => ("S", |process, _| process.state(false)),
        "tty" | "tt" | "tname" => ("TT", |process, _| process.terminal()),
        "time" | "cputime" => ("TIME", |process, _| clock(process.seconds(), false)),
        "bsdtime" => ("TIME", |process, _| format!("{}:{:02}", process.seconds() / 60, process.seconds() % 60)),
        "etime" => ("ELAPSED", |process, host| clock(process.elapsed(host), true)),
        "etimes" => ("ELAPSED", |process, host| process.elapsed(host).to_string()),
        "stime" | "start_time" | "bsdstart" => ("STIME", Process::start_or_day),
        "lstart" => ("STARTED", |process, host| process.start(host, "%a %b %e %H:%M:%S %Y")),
        "ni" | "nice" => ("NI", |process, _| process.stat(19).to_string()),
        "pri" => ("PRI", |process, _| (39 - process.stat(18)).to_string()),
        "nlwp" | "thcount" => ("NLWP", |process, _| process.stat(20).to_string()),
        _ => return Err(Error::invalid(name)),
    };
    Ok(Column { title: title.to_owned(), value, pid: name == "pid" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(arguments: &str) -> Vec<String> {
        parse(arguments).unwrap().into_iter().map(|column| column.title).collect()
    }

    #[test]
    fn the_words_of_ps_name_columns() {
        assert_eq!(titles("")[0], "UID");
        assert_eq!(titles("-ef"), titles("-e -f"));
        assert_eq!(titles("aux"), titles("-aux"));
        assert_eq!(titles("aux").join(" "), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        assert_eq!(titles("-eo pid,comm"), ["PID", "COMMAND"]);
        assert_eq!(titles("-o pid -opcpu,args=WHAT"), ["PID", "%CPU", "WHAT"]);
        for bad in
            ["-o comm", "-o pid,nosuch", "--forest", "-o", "-p 1", "-efZ", &format!("-o pid{}", ",s".repeat(MOST))]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_process_is_told_with_every_column() {
        let host = Host::read().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let process = Process::read(pid).unwrap();
        let all = "pid,ppid,pgid,sid,user,ruser,group,uid,gid,comm,args,cmd,c,pcpu,pmem,rss,vsz,stat,s,tty,time,\
                   bsdtime,etime,etimes,stime,lstart,ni,pri,nlwp";
        let columns = parse(&format!("-o {all}")).unwrap();
        let values: Vec<String> = columns.iter().map(|column| (column.value)(&process, &host)).collect();
        assert!(values.iter().all(|value| !value.is_empty()), "{values:?}");
        assert_eq!(values[0], pid.to_string());
        assert!(values[15].parse::<i64>().unwrap() > 0, "{values:?}");
    }

    #[test]
    fn times_are_written_as_ps_writes_them() {
        assert_eq!((clock(61, true), clock(61, false)), ("01:01".into(), "00:01:01".into()));
        assert_eq!(clock(90_061, true), "1-01:01:01");
    }
}
