//! From the arguments to the command: global flags, groups, help, refusals.

use std::path::Path;

use crate::cli::{self, Command, Flag, LATER, Parsed};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::printer;

/// What Docker's CLI leaves behind when flags are wrong, or an option that comes before the command.
const BAD_FLAG: u8 = 125;

static GLOBALS: &[Flag] = &[
    Flag::one("config", "string", "Directory of the client's config.json (default \"~/.docker\")"),
    Flag::many("host", "list", "Daemon to connect to: unix:///path, tcp://host:port or ssh://user@host").short('H'),
    Flag::switch("no-autostart", "Do not start a daemon when none is running"),
    Flag::switch("version", "Print version information and quit").short('v'),
    Flag::one("context", "string", "Context to use; overrides DOCKER_HOST and the one that 'context use' set")
        .short('c'),
    Flag::later("debug", "").short('D'),
    Flag::later("log-level", "string").short('l'),
    Flag::switch("tls", "Use TLS; implied by --tlsverify"),
    Flag::one("tlscacert", "string", "Trust certs signed only by this CA (default \"~/.docker/ca.pem\")"),
    Flag::one("tlscert", "string", "Path to TLS certificate file (default \"~/.docker/cert.pem\")"),
    Flag::one("tlskey", "string", "Path to TLS key file (default \"~/.docker/key.pem\")"),
    Flag::switch("tlsverify", "Use TLS and verify the remote"),
];

/// Runs what the arguments ask for.
pub fn dispatch(args: &[String]) -> Result<u8> {
    let program = program_name(args.first().map_or("gantry", String::as_str));
    let rest = args.get(1..).unwrap_or_default();
    let globals = cli::parse(program, || Box::new(GLOBALS.iter()), false, rest).map_err(|message| {
        Failure::with_code(BAD_FLAG, format!("{message}\n\nRun '{program} --help' for more information"))
    })?;
    if globals.on("version") {
        printer::line(&crate::commands::version::one_line(program))?;
        return Ok(0);
    }
    let Some((name, words)) = globals.args.split_first().filter(|_| !globals.help) else {
        printer::text(&cli::root_help(program, GLOBALS))?;
        return Ok(0);
    };
    if let Some(group) = cli::find_group(name) {
        let Some((verb, words)) = words.split_first().filter(|(verb, _)| *verb != "--help" && *verb != "-h") else {
            printer::text(&cli::group_help(program, group))?;
            return Ok(0);
        };
        let path = format!("{program} {name}");
        return match cli::find(group.entries, verb) {
            Some(entry) => run(program, &path, entry.name, entry.command, &globals, words),
            None => Err(unknown(&path, program, verb)),
        };
    }
    if name == "help" {
        return help(program, words);
    }
    match cli::find(cli::ROOT, name) {
        Some(entry) => run(program, program, entry.name, entry.command, &globals, words),
        None => Err(unknown(program, program, name)),
    }
}

fn unknown(path: &str, program: &str, name: &str) -> Failure {
    let message = if LATER.contains(&name) {
        format!("{program}: the command '{path} {name}' is not supported yet")
    } else {
        format!("{program}: unknown command: {path} {name}")
    };
    Failure::new(format!("{message}\n\nRun '{path} --help' for more information"))
}

fn help(program: &str, words: &[String]) -> Result<u8> {
    let mut args = vec![program.to_owned()];
    args.extend(words.iter().filter(|word| *word != "help").cloned());
    args.push("--help".to_owned());
    dispatch(&args)
}

fn run(
    program: &'static str,
    parent: &str,
    name: &str,
    command: &'static Command,
    globals: &Parsed,
    words: &[String],
) -> Result<u8> {
    let path = format!("{parent} {name}");
    let usage = || cli::usage_lines(&path, command);
    let hint = format!("Run '{path} --help' for more information");
    let mut parsed = cli::parse(program, || Box::new(command.all_flags()), command.interspersed, words)
        .map_err(|message| Failure::with_code(BAD_FLAG, format!("{message}\n\n{}\n{hint}", usage())))?;
    if parsed.help {
        printer::text(&cli::command_help(&path, command))?;
        return Ok(0);
    }
    if let Some(wrong) = command.arity.refuse(parsed.args.len()) {
        return Err(Failure::new(format!("{program}: '{path}' {wrong}\n\n{}\n{hint}", usage())));
    }
    parsed.path = path;
    let context = Context::new(program, globals)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on((command.run)(context, parsed));
    // A read of standard input may still be waiting in its thread: nobody waits for it.
    runtime.shutdown_background();
    outcome
}

/// The name in messages: the one that we were called by, if it is one of ours.
fn program_name(argument: &str) -> &'static str {
    match Path::new(argument).file_name().and_then(|name| name.to_str()) {
        Some("docker") => "docker",
        _ => "gantry",
    }
}
