//! `inspect`, of anything or of one kind of thing.

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Daemon, Query, segment};
use crate::failure::{Failure, Result};
use crate::format::json;
use crate::format::rows::unescape;
use crate::printer;
use crate::template::{Missing, Template, Value};

const FORMAT: Flag = Flag::one("format", "string", "Format output: 'json', or a Go template").short('f');
const SIZE: Flag = Flag::switch("size", "Display total file sizes if the type is container").short('s');

/// `inspect`.
pub static ANY: Command = Command::new(
    &["[OPTIONS] NAME|ID [NAME|ID...]"],
    "Return low-level information on objects",
    Arity::AtLeast(1),
    |context, flags| Box::pin(any(context, flags)),
)
.flags(&[&[FORMAT, SIZE, Flag::one("type", "string", "Only inspect objects of the given type")]]);

/// `container inspect`.
pub static CONTAINER: Command = Command::new(
    &["[OPTIONS] CONTAINER [CONTAINER...]"],
    "Display detailed information on one or more containers",
    Arity::AtLeast(1),
    |context, flags| Box::pin(of_kinds(context, flags, &[Kind::Container])),
)
.flags(&[&[FORMAT, SIZE]]);

/// `image inspect`.
pub static IMAGE: Command = Command::new(
    &["[OPTIONS] IMAGE [IMAGE...]"],
    "Display detailed information on one or more images",
    Arity::AtLeast(1),
    |context, flags| Box::pin(of_kinds(context, flags, &[Kind::Image])),
)
.flags(&[&[FORMAT, Flag::later("platform", "string")]]);

/// `network inspect`.
pub static NETWORK: Command = Command::new(
    &["[OPTIONS] NETWORK [NETWORK...]"],
    "Display detailed information on one or more networks",
    Arity::AtLeast(1),
    |context, flags| Box::pin(of_kinds(context, flags, &[Kind::Network])),
)
.flags(&[&[FORMAT, Flag::switch("verbose", "Verbose output for diagnostics").short('v')]]);

/// `volume inspect`.
pub static VOLUME: Command = Command::new(
    &["[OPTIONS] VOLUME [VOLUME...]"],
    "Display detailed information on one or more volumes",
    Arity::AtLeast(1),
    |context, flags| Box::pin(of_kinds(context, flags, &[Kind::Volume])),
)
.flags(&[&[FORMAT]]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    const ALL: &'static [Self] = &[Self::Container, Self::Image, Self::Network, Self::Volume];

    const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }

    fn path(self, name: &str) -> String {
        let name = segment(name);
        match self {
            Self::Container => format!("/containers/{name}/json"),
            Self::Image => format!("/images/{name}/json"),
            Self::Network => format!("/networks/{name}"),
            Self::Volume => format!("/volumes/{name}"),
        }
    }
}

async fn any(context: Context, flags: Parsed) -> Result<u8> {
    let kinds = match flags.text("type") {
        None => Kind::ALL,
        Some("") => {
            return Err(Failure::new(
                "type is empty: must be one of \"container\", \"image\", \"network\", \"volume\"",
            ));
        }
        Some(name) => match Kind::ALL.iter().position(|kind| kind.name() == name) {
            Some(position) => &Kind::ALL[position..=position],
            None => {
                return Err(Failure::new(format!(
                    "unknown type: {name:?}: must be one of \"container\", \"image\", \"network\", \"volume\""
                )));
            }
        },
    };
    of_kinds(context, flags, kinds).await
}

async fn of_kinds(context: Context, flags: Parsed, kinds: &'static [Kind]) -> Result<u8> {
    let template = match flags.text_or_empty("format") {
        "" | "json" => None,
        template => Some(unescape(template)),
    };
    let template = template
        .map(|text| Template::parse(&text, Missing::Error))
        .transpose()
        .map_err(|error| Failure::with_code(64, format!("template parsing error: {error}")))?;
    let daemon = context.daemon().await?;
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in &flags.args {
        match find(&daemon, kinds, name, &flags).await {
            Ok(value) => found.push(value),
            Err(failure) => failures.push(failure),
        }
    }
    let mut text = String::new();
    match template {
        None if flags.text("format") == Some("json") => {
            text = Value::List(found).to_json();
            text.push('\n');
        }
        None => {
            // Also when nothing was found: what reads it wants a list.
            let empty = found.is_empty();
            json::indent(&Value::List(found), "", &mut text);
            text = if empty { "[]\n".to_owned() } else { text + "\n" };
        }
        Some(template) => {
            for value in &found {
                match template.execute(value) {
                    Ok(line) => text.push_str(&line),
                    Err(error) => failures.push(Failure::new(format!("template parsing error: {error}"))),
                }
                text.push('\n');
            }
            if found.is_empty() {
                text.push('\n');
            }
        }
    }
    printer::text(&text)?;
    Failure::join(failures)?;
    Ok(0)
}

async fn find(daemon: &Daemon, kinds: &[Kind], name: &str, flags: &Parsed) -> Result<Value> {
    for kind in kinds {
        let query = match kind {
            Kind::Container => Query::new().with_flag("size", flags.on("size")),
            Kind::Network => Query::new().with_flag("verbose", flags.on("verbose")),
            _ => Query::new(),
        };
        match daemon.get_bytes(&kind.path(name), &query).await {
            Ok(bytes) => return Ok(serde_json::from_slice(&bytes)?),
            // A name that cannot be one of this kind may be one of the next.
            Err(failure) if kinds.len() > 1 && (failure.is_not_found() || is_bad_name(&failure)) => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::new(format!("Error: No such object: {name}")))
}

fn is_bad_name(failure: &Failure) -> bool {
    failure.status == Some(http::StatusCode::BAD_REQUEST)
}
