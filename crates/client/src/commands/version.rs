//! `version`.

use std::fmt::Write as _;

use gantry_api::ApiVersion;
use gantry_api::system::Version;

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::{Failure, Result};
use crate::format::rows::unescape;
use crate::format::time;
use crate::printer;
use crate::template::{Missing, Template, Value};

const OURS: &str = env!("CARGO_PKG_VERSION");
/// The version of Docker's CLI that ours stands in for: what scripts that ask `docker --version` compare.
const DOCKER: &str = "28.2.2";

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS]"], "Show the version information of client and daemon", Arity::None, |context, flags| {
        Box::pin(run(context, flags))
    })
    .flags(&[&[Flag::one("format", "string", "Format output: 'json', or a Go template").short('f')]]);

/// What `--version` prints.
pub fn one_line(program: &str) -> String {
    match program {
        "docker" => format!("Docker version {DOCKER}, build gantry-{OURS}"),
        _ => format!("Gantry version {OURS}"),
    }
}

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let name = context.name().to_owned();
    let server: Result<Version> =
        async { context.clone().without_autostart().daemon().await?.get("/version", &Query::new()).await }.await;
    let (server, failure) = match server {
        Ok(server) => (Some(server), None),
        Err(failure) => (None, Some(failure)),
    };
    let format = flags.text_or_empty("format");
    let text = match format {
        "" => plain(server.as_ref(), &name),
        "json" => format!("{}\n", value(server.as_ref(), &name).to_json()),
        template => {
            let template = Template::parse(&unescape(template), Missing::Error)
                .map_err(|error| Failure::with_code(64, format!("template parsing error: {error}")))?;
            if let Some(failure) = failure {
                // Whatever the template wants of the client, Docker tells that there is no server.
                let text = template.execute(&value(None, &name)).unwrap_or_default();
                printer::text(&format!("{text}\n"))?;
                return Err(failure);
            }
            let text = template
                .execute(&value(server.as_ref(), &name))
                .map_err(|error| Failure::new(format!("failed to execute template: {error}")))?;
            format!("{text}\n")
        }
    };
    printer::text(&text)?;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(0),
    }
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn value(server: Option<&Version>, context: &str) -> Value {
    let client = [
        ("Version", OURS.to_owned()),
        ("ApiVersion", ApiVersion::NEWEST.to_string()),
        ("DefaultAPIVersion", ApiVersion::NEWEST.to_string()),
        ("GitCommit", String::new()),
        ("GoVersion", String::new()),
        ("Os", "linux".to_owned()),
        ("Arch", arch().to_owned()),
        ("BuildTime", String::new()),
        ("Context", context.to_owned()),
    ];
    let mut client: Vec<_> = client.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect();
    client.insert(0, ("Platform".to_owned(), Value::Map(vec![("Name".to_owned(), Value::from("Gantry"))])));
    let server = server.map_or(Value::Null, Value::of);
    Value::Map(vec![("Client".to_owned(), Value::Map(client)), ("Server".to_owned(), server)])
}

fn plain(server: Option<&Version>, context: &str) -> String {
    let mut text = format!(
        "Client: Gantry\n Version:           {OURS}\n API version:       {}\n OS/Arch:           linux/{}\n Context:           {context}\n",
        ApiVersion::NEWEST,
        arch(),
    );
    let Some(server) = server else { return text };
    let name = if server.platform.name.is_empty() { "" } else { " " };
    let _ = write!(text, "\nServer:{name}{}\n", server.platform.name);
    let engine = [
        ("Version", server.version.clone()),
        ("API version", format!("{} (minimum version {})", server.api_version, server.min_api_version)),
        ("Go version", server.go_version.clone()),
        ("Git commit", server.git_commit.clone()),
        ("Built", time::ansi(&server.build_time)),
        ("OS/Arch", format!("{}/{}", server.os, server.arch)),
        ("Kernel", server.kernel_version.clone()),
    ];
    text.push_str(" Engine:\n");
    for (label, value) in engine.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "  {:<17} {value}", format!("{label}:"));
    }
    for component in server.components.iter().filter(|component| component.name != "Engine") {
        let _ = write!(text, " {}:\n  {:<17} {}\n", component.name, "Version:", component.version);
        for (name, value) in &component.details {
            let _ = writeln!(text, "  {:<17} {value}", format!("{name}:"));
        }
    }
    text
}
