//! `import`: a tarball becomes an image.

use crate::body::Body;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::{Failure, Result, reason};
use crate::printer::Output;
use crate::progress;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] file|URL|- [REPOSITORY[:TAG]]"],
    "Import the contents from a tarball to create a filesystem image",
    Arity::Between(1, 2),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[&[
    Flag::many("change", "list", "Apply Dockerfile instruction to the created image").short('c'),
    Flag::one("message", "string", "Set commit message for imported image").short('m'),
    Flag::one("platform", "string", "Set platform of the image: os[/arch[/variant]]"),
]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let source = flags.args[0].as_str();
    let remote = source.starts_with("http://") || source.starts_with("https://");
    let (from, body) = match source {
        "-" => ("-", Body::read(std::io::stdin())),
        _ if remote => (source, Body::empty()),
        path => {
            let file =
                std::fs::File::open(path).map_err(|error| Failure::new(format!("open {path}: {}", reason(&error))))?;
            ("-", Body::read(file))
        }
    };
    let (repository, tag) = match flags.args.get(1) {
        None => (String::new(), String::new()),
        Some(name) => {
            let parsed =
                gantry_api::reference::Reference::parse(name).map_err(|error| Failure::new(error.to_string()))?;
            (parsed.familiar_repository(), parsed.tag().unwrap_or_default().to_owned())
        }
    };
    let mut query = Query::new()
        .with("fromSrc", from)
        .with_text("repo", repository)
        .with_text("tag", tag)
        .with_text("message", flags.text_or_empty("message"))
        .with_text("platform", flags.text_or_empty("platform"));
    for change in flags.list("change") {
        query = query.with("changes", change);
    }
    let daemon = context.daemon().await?;
    let headers = [("content-type", "application/x-tar")];
    let answer = daemon.post_stream("/images/create", &query, body, &headers).await?;
    progress::show(answer.into_body(), Output::Out, false).await?;
    Ok(0)
}
