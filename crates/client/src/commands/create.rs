//! `create`, and what `run` shares with it: making a container, with the image pulled when it is not there.

use gantry_api::container::CreateResponse;
use gantry_api::reference::Reference;

use crate::cli::{Arity, Command, Parsed};
use crate::context::Context;
use crate::daemon::{Daemon, Query};
use crate::failure::{Failure, Result, reason};
use crate::flags::{self, Created};
use crate::printer::{self, Output};

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] IMAGE [COMMAND] [ARG...]"],
    "Create a new container",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[flags::table::CREATE, flags::table::LATER])
.flags_first();

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let created = flags::request(&flags, false).map_err(|text| explain(&context, &flags, Failure::new(text)))?;
    let daemon = context.daemon().await?;
    printer::line(&create(&context, &daemon, &flags, &created).await?)?;
    Ok(0)
}

/// The failure as `run` tells it: with the program's name, a hint, and status 125.
pub fn explain(context: &Context, flags: &Parsed, failure: Failure) -> Failure {
    if failure.message.is_empty() {
        return failure;
    }
    let message =
        format!("{}: {}\n\nRun '{} --help' for more information", context.program, failure.message, flags.path);
    Failure { code: 125, message, ..failure }
}

/// Makes the container and returns its id.
pub async fn create(context: &Context, daemon: &Daemon, flags: &Parsed, created: &Created) -> Result<String> {
    let pull = Pull::of(flags)?;
    let cid = CidFile::open(flags.text_or_empty("cidfile"))?;
    let image = &created.request.config.image;
    let reference = Reference::parse(image).map_err(|error| Failure::new(error.to_string()));
    // An image may also be named by its id, which is no reference.
    let reference = match reference {
        Ok(reference) => Some(reference.with_default_tag()),
        Err(_) if image.len() == 64 || image.starts_with("sha256:") => None,
        Err(failure) => return Err(failure),
    };
    let quiet = flags.on("quiet");
    let fetch = async |reference: &Reference| {
        super::pull::pull(context, daemon, reference, &created.platform, quiet, Output::Err).await
    };
    if let (Pull::Always, Some(reference)) = (pull, &reference) {
        fetch(reference).await?;
    }
    let answer = match (request(daemon, created).await, &reference) {
        (Err(failure), Some(reference)) if failure.is_not_found() && pull == Pull::Missing => {
            if !quiet {
                printer::error_line(&format!("Unable to find image '{}' locally", reference.familiar()));
            }
            fetch(reference).await?;
            request(daemon, created).await?
        }
        (answer, _) => answer?,
    };
    for warning in &answer.warnings {
        printer::error_line(&format!("WARNING: {warning}"));
    }
    cid.write(&answer.id)?;
    Ok(answer.id)
}

async fn request(daemon: &Daemon, created: &Created) -> Result<CreateResponse> {
    let query = Query::new().with_text("name", &created.name).with_text("platform", &created.platform);
    let body =
        serde_json::value::RawValue::from_string(String::from_utf8_lossy(&created.request.to_json()).into_owned())?;
    daemon.post_json("/containers/create", &query, &body).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pull {
    Always,
    Missing,
    Never,
}

impl Pull {
    fn of(flags: &Parsed) -> Result<Self> {
        match flags.text("pull").unwrap_or("missing") {
            "always" => Ok(Self::Always),
            "missing" | "" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            other => Err(Failure::new(format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            ))),
        }
    }
}

/// `--cidfile`: made before the container, so that it is known to be ours; removed when no container comes of it.
struct CidFile<'a> {
    path: &'a str,
    file: Option<std::fs::File>,
}

impl<'a> CidFile<'a> {
    fn open(path: &'a str) -> Result<Self> {
        if path.is_empty() {
            return Ok(Self { path, file: None });
        }
        match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => Ok(Self { path, file: Some(file) }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::new(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            ))),
            Err(error) => {
                Err(Failure::new(format!("failed to create the container ID file {path}: {}", reason(&error))))
            }
        }
    }

    fn write(mut self, id: &str) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        std::io::Write::write_all(&mut file, id.as_bytes()).map_err(|error| {
            Failure::new(format!("failed to write the container ID file {}: {}", self.path, reason(&error)))
        })
    }
}

impl Drop for CidFile<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            // It stays empty when it cannot be removed: the failure that is told matters more.
            drop(std::fs::remove_file(self.path));
        }
    }
}
