//! `events`.

use gantry_api::event::Event;
use http_body_util::BodyExt as _;

use super::{filter_text, filters};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, broken};
use crate::failure::{Failure, Result};
use crate::flags::checks;
use crate::format::rows::unescape;
use crate::format::time;
use crate::printer;
use crate::template::{Missing, Template, Value};

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS]"], "Get real time events from the server", Arity::None, |context, flags| {
        Box::pin(run(context, flags))
    })
    .flags(&[&[
        Flag::many("filter", "filter", "Filter output based on conditions provided").short('f').check(checks::filter),
        Flag::one("format", "string", "Format output: 'json', or a Go template"),
        Flag::one("since", "string", "Show all events created since timestamp"),
        Flag::one("until", "string", "Stream events until this timestamp"),
    ]]);

/// How an event is shown.
enum Show {
    Line,
    Json,
    Template(Template),
}

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let now = jiff::Timestamp::now();
    let moment = |name: &str| match flags.text_or_empty(name) {
        "" => Ok(String::new()),
        text => {
            time::parameter(text, now).map_err(|error| Failure::new(format!("invalid value for {name:?}: {error}")))
        }
    };
    let show = match flags.text_or_empty("format") {
        "" => Show::Line,
        "json" => Show::Json,
        template => Show::Template(
            Template::parse(&unescape(template), Missing::NoValue)
                .map_err(|error| Failure::with_code(64, format!("Error parsing format: {error}")))?,
        ),
    };
    let query = Query::new()
        .with_text("since", moment("since")?)
        .with_text("until", moment("until")?)
        .with_text("filters", filter_text(&filters(flags.list("filter"))));
    let mut body = context.daemon().await?.get_stream("/events", &query).await?.into_body();
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(broken)?.into_data() else { continue };
        buffer.extend_from_slice(&bytes);
        let mut events = serde_json::Deserializer::from_slice(&buffer).into_iter::<Value>();
        let mut text = String::new();
        loop {
            match events.next() {
                None => break,
                Some(Err(error)) if error.is_eof() => break,
                Some(event) => text.push_str(&shown(&show, &event?)?),
            }
        }
        let done = events.byte_offset();
        buffer.drain(..done);
        printer::text(&text)?;
    }
    Ok(0)
}

fn shown(show: &Show, event: &Value) -> Result<String> {
    match show {
        Show::Json => Ok(format!("{}\n", event.to_json())),
        Show::Template(template) => {
            // Go's field names differ from the keys in these three.
            let mut value = event.clone();
            if let Value::Map(pairs) = &mut value {
                for (key, name) in [
                    ("time", "Time"),
                    ("timeNano", "TimeNano"),
                    ("scope", "Scope"),
                    ("status", "Status"),
                    ("id", "ID"),
                    ("from", "From"),
                ] {
                    let field = event.get(key).cloned().unwrap_or_else(|| Value::from(""));
                    pairs.push((format!("{}{name}", crate::template::HIDDEN), field));
                }
            }
            let text = template.execute(&value).map_err(Failure::new)?;
            Ok(format!("{text}\n"))
        }
        Show::Line => {
            let event: Event = serde_json::from_str(&event.to_json())?;
            Ok(line(&event))
        }
    }
}

fn line(event: &Event) -> String {
    let attributes: Vec<_> = event.actor.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let attributes = if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    let when = match event.time_nano {
        0 => event.time.saturating_mul(1_000_000_000),
        nanoseconds => nanoseconds,
    };
    format!("{} {} {} {}{attributes}\n", time::nanoseconds(when), event.kind, event.action, event.actor.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_with_sorted_attributes() {
        let text = r#"{"status":"start","id":"abc","Type":"container","Action":"start","Actor":{"ID":"abc",
            "Attributes":{"name":"web","image":"debian"}},"scope":"local","time":1704067200,"timeNano":1704067200000000005}"#;
        let event: Value = serde_json::from_str(text).unwrap();
        let line = shown(&Show::Line, &event).unwrap();
        assert!(line.ends_with(" container start abc (image=debian, name=web)\n"), "{line}");
        let template = Template::parse("{{.Time}} {{.Actor.Attributes.name}} {{.Status}}", Missing::NoValue).unwrap();
        assert_eq!(shown(&Show::Template(template), &event).unwrap(), "1704067200 web start\n");
        assert!(shown(&Show::Json, &event).unwrap().starts_with("{\"status\":\"start\",\"id\""));
    }
}
