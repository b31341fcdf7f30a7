//! `context create`, `ls`, `use`, `show`, `inspect`, `rm`, `update`, `export` and `import`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::cli::{Arity, Command, Flag, Parsed, boolean};
use crate::context::Context;
use crate::contexts::{DEFAULT, Material, Meta, TLS_FILES, check_name, put};
use crate::failure::{Failure, Result, reason};
use crate::format::rows::{Columns, Listing, unescape};
use crate::format::{ellipsis, json};
use crate::printer::{self, Output};
use crate::template::{Missing, Template, Value};

const DESCRIPTION: Flag = Flag::one("description", "string", "Description of the context");
const ENDPOINT: Flag = Flag::one(
    "docker",
    "stringToString",
    "Where the daemon is: host=…,ca=FILE,cert=FILE,key=FILE,skip-tls-verify=BOOL, or from=CONTEXT",
);

/// `context create`.
pub static CREATE: Command =
    Command::new(&["[OPTIONS] CONTEXT"], "Create a context", Arity::Exactly(1), |context, flags| {
        Box::pin(async move { create(&context, &flags) })
    })
    .flags(&[&[DESCRIPTION, ENDPOINT, Flag::one("from", "string", "Create context from a named context")]]);

/// `context update`.
pub static UPDATE: Command =
    Command::new(&["[OPTIONS] CONTEXT"], "Update a context", Arity::Exactly(1), |context, flags| {
        Box::pin(async move { update(&context, &flags) })
    })
    .flags(&[&[DESCRIPTION, ENDPOINT]]);

/// `context ls`.
pub static LIST: Command = Command::new(&["[OPTIONS]"], "List contexts", Arity::None, |context, flags| {
    Box::pin(async move { list(&context, &flags) })
})
.flags(&[&[
    Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
    Flag::switch("quiet", "Only show context names").short('q'),
]]);

/// `context use`.
pub static USE: Command =
    Command::new(&["CONTEXT"], "Set the current docker context", Arity::Exactly(1), |context, flags| {
        Box::pin(async move { choose(&context, &flags.args[0]) })
    });

/// `context show`.
pub static SHOW: Command = Command::new(&[""], "Print the name of the current context", Arity::None, |context, _| {
    Box::pin(async move { printer::line(context.name()).map(|()| 0) })
});

/// `context inspect`.
pub static INSPECT: Command = Command::new(
    &["[OPTIONS] [CONTEXT] [CONTEXT...]"],
    "Display detailed information on one or more contexts",
    Arity::AtLeast(0),
    |context, flags| Box::pin(async move { inspect(&context, &flags) }),
)
.flags(&[&[Flag::one("format", "string", "Format output: 'json', or a Go template").short('f')]]);

/// `context rm`.
pub static REMOVE: Command =
    Command::new(&["CONTEXT [CONTEXT...]"], "Remove one or more contexts", Arity::AtLeast(1), |context, flags| {
        Box::pin(async move { remove(&context, &flags) })
    })
    .flags(&[&[Flag::switch("force", "Force the removal of a context in use").short('f')]]);

/// `context export`.
pub static EXPORT: Command = Command::new(
    &["CONTEXT [FILE|-]"],
    "Export a context to a tar archive FILE or a tar stream on STDOUT",
    Arity::Between(1, 2),
    |context, flags| Box::pin(async move { export(&context, &flags.args) }),
);

/// `context import`.
pub static IMPORT: Command =
    Command::new(&["CONTEXT FILE|-"], "Import a context from a tar file", Arity::Exactly(2), |context, flags| {
        Box::pin(async move { import(&context, &flags.args) })
    });

const COLUMNS: Columns = &[
    ("Current", ""),
    ("Name", "NAME"),
    ("Short", "DESCRIPTION"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "DOCKER ENDPOINT"),
    ("Error", "ERROR"),
];

fn create(context: &Context, flags: &Parsed) -> Result<u8> {
    let (name, contexts) = (&flags.args[0], context.contexts());
    check_name(name)?;
    if contexts.exists(name) {
        return Err(Failure::new(format!("context {name:?} already exists")));
    }
    let from = flags.text("from");
    if from.is_some() && flags.given("docker") {
        return Err(Failure::new(
            "cannot use --docker or --from at the same time: from=CONTEXT in --docker says the same",
        ));
    }
    let (mut meta, mut material) = (Meta::default(), Material::default());
    match flags.text("docker") {
        Some(text) => point(context, &mut meta, &mut material, text)?,
        None => (meta, material) = copy(context, from.unwrap_or(context.name()))?,
    }
    meta.name.clone_from(name);
    if flags.given("description") {
        meta.describe(flags.text_or_empty("description"));
    }
    contexts.write(&meta, Some(&material))?;
    done(name, &format!("Successfully created context {name:?}"))
}

fn update(context: &Context, flags: &Parsed) -> Result<u8> {
    let (name, contexts) = (&flags.args[0], context.contexts());
    check_name(name)?;
    let mut meta = contexts.read(name)?;
    if flags.given("description") {
        meta.describe(flags.text_or_empty("description"));
    }
    let mut material = None;
    if let Some(text) = flags.text("docker") {
        point(context, &mut meta, material.insert(Material::default()), text)?;
    }
    contexts.write(&meta, material.as_ref())?;
    done(name, &format!("Successfully updated context {name:?}"))
}

fn done(name: &str, sentence: &str) -> Result<u8> {
    printer::line(name)?;
    printer::error_line(sentence);
    Ok(0)
}

/// Everything of another context; of `default` where the environment leads.
fn copy(context: &Context, name: &str) -> Result<(Meta, Material)> {
    if name == DEFAULT {
        let mut meta = Meta::default();
        meta.point(&context.default_host(), false);
        return Ok((meta, Material::default()));
    }
    Ok((context.contexts().read(name)?, context.contexts().material(name)?))
}

/// `host=tcp://…,ca=…`.
fn point(context: &Context, meta: &mut Meta, material: &mut Material, text: &str) -> Result<()> {
    let (mut host, mut skip) = (None, false);
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("--docker {pair}: write it as key=value, such as host=tcp://…")))?;
        let file = ["ca", "cert", "key"].iter().position(|known| *known == key);
        match (key, file) {
            (_, Some(at)) if !value.is_empty() => {
                material[at] = Some(read(Path::new(value))?);
            }
            (_, Some(_)) => {}
            ("host", _) => host = Some(value.to_owned()),
            ("skip-tls-verify", _) => {
                skip = boolean(value).ok_or_else(|| Failure::new(format!("--docker {pair}: want true or false")))?;
            }
            ("from", _) => {
                let (other, others) = copy(context, value)?;
                host = Some(other.host().to_owned());
                skip = other.skips_verification();
                *material = others;
            }
            _ => return Err(Failure::new(format!("unrecognized config key: {key}"))),
        }
    }
    let host = host.filter(|host| !host.is_empty());
    let host =
        host.ok_or_else(|| Failure::new("--docker: say where the daemon is: host=unix://…, tcp://… or ssh://…"))?;
    // Told now, not when it is used.
    gantry_transport::Endpoint::parse(&host, false)?;
    meta.point(&host, skip);
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Failure::new(format!("read {}: {}", path.display(), reason(&error))))
}

fn list(context: &Context, flags: &Parsed) -> Result<u8> {
    let mut metas = context.contexts().list()?;
    let mut default = Meta { name: DEFAULT.to_owned(), ..Meta::default() };
    default.describe("Current DOCKER_HOST based configuration");
    default.point(&context.default_host(), false);
    metas.push(default);
    metas.sort_by(|a, b| a.name.cmp(&b.name));
    let known = metas.iter().any(|meta| meta.name == context.name());
    let mut rows: Vec<_> = metas.iter().map(|meta| row(meta, context.name(), "")).collect();
    if !known {
        let meta = Meta { name: context.name().to_owned(), ..Meta::default() };
        rows.push(row(&meta, context.name(), "context not found"));
    }
    let table = "{{.Name}}{{if .Current}} *{{end}}\t{{.Short}}\t{{.DockerEndpoint}}\t{{.Error}}";
    let listing = Listing { columns: COLUMNS, table, quiet: "{{.Name}}" };
    printer::text(&listing.render(flags.text_or_empty("format"), flags.on("quiet"), &rows)?)?;
    Ok(0)
}

fn row(meta: &Meta, current: &str, error: &str) -> Value {
    let pairs = [
        ("Current", Value::Bool(meta.name == current)),
        ("Description", meta.description().into()),
        ("DockerEndpoint", meta.host().into()),
        ("Error", error.into()),
        ("Name", meta.name.as_str().into()),
    ];
    let mut pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    pairs.push((format!("{}Short", crate::template::HIDDEN), ellipsis(meta.description(), 41).into()));
    Value::Map(pairs)
}

fn choose(context: &Context, name: &str) -> Result<u8> {
    if name != DEFAULT {
        context.contexts().read(name)?;
    }
    context.contexts().choose(name)?;
    done(name, &format!("Current context is now {name:?}"))?;
    if name != DEFAULT && std::env::var_os("DOCKER_HOST").is_some_and(|host| !host.is_empty()) {
        printer::error_line(&format!(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use {name:?}, either set the \
             global --context flag, or unset DOCKER_HOST environment variable."
        ));
    }
    Ok(0)
}

fn inspect(context: &Context, flags: &Parsed) -> Result<u8> {
    let current = [context.name().to_owned()];
    let names = if flags.args.is_empty() { &current[..] } else { &flags.args };
    let found = names.iter().map(|name| describe(context, name)).collect::<Result<Vec<_>>>()?;
    let mut text = String::new();
    match flags.text_or_empty("format") {
        "" => json::indent(&Value::List(found), "", &mut text),
        "json" => text = Value::List(found).to_json(),
        template => {
            let template = Template::parse(&unescape(template), Missing::Error)
                .map_err(|error| Failure::with_code(64, format!("template parsing error: {error}")))?;
            let lines = found.iter().map(|value| {
                template.execute(value).map_err(|error| Failure::new(format!("template parsing error: {error}")))
            });
            text = lines.collect::<Result<Vec<_>>>()?.join("\n");
        }
    }
    printer::line(&text)?;
    Ok(0)
}

fn describe(context: &Context, name: &str) -> Result<Value> {
    let (meta, material) = copy(context, name)?;
    let contexts = context.contexts();
    let files: Vec<&str> =
        TLS_FILES.into_iter().zip(&material).filter_map(|(f, bytes)| bytes.as_ref().map(|_| f)).collect();
    let tls = if files.is_empty() { serde_json::json!({}) } else { serde_json::json!({ "docker": files }) };
    let place = |path: PathBuf| if name == DEFAULT { "<IN MEMORY>".to_owned() } else { path.display().to_string() };
    let storage = serde_json::json!({
        "MetadataPath": place(contexts.meta_directory(name)),
        "TLSPath": place(contexts.tls_directory(name)),
    });
    let parts = [
        ("Name", Value::from(name)),
        ("Metadata", Value::of(&meta.metadata)),
        ("Endpoints", Value::of(&meta.endpoints)),
        ("TLSMaterial", Value::of(&tls)),
        ("Storage", Value::of(&storage)),
    ];
    Ok(Value::Map(parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
}

fn remove(context: &Context, flags: &Parsed) -> Result<u8> {
    let mut failures = Vec::new();
    for name in &flags.args {
        match remove_one(context, name, flags.on("force")) {
            Ok(()) => printer::line(name)?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)?;
    Ok(0)
}

fn remove_one(context: &Context, name: &str, force: bool) -> Result<()> {
    if name == DEFAULT {
        return Err(Failure::new("context \"default\" cannot be removed"));
    }
    context.contexts().read(name)?;
    if name == context.name() {
        if !force {
            return Err(Failure::new(format!("context {name:?} is in use, set -f flag to force remove")));
        }
        context.contexts().choose(DEFAULT)?;
    }
    context.contexts().remove(name)
}

fn export(context: &Context, args: &[String]) -> Result<u8> {
    let name = &args[0];
    if name == DEFAULT {
        return Err(Failure::new("cannot export \"default\" context: it is not kept anywhere"));
    }
    let file = context.contexts().export(name)?;
    match args.get(1).map(String::as_str) {
        Some("-") if Output::Out.is_terminal() => {
            return Err(Failure::new("cowardly refusing to export to a terminal, specify a file path"));
        }
        Some("-") => Output::Out.write(&file)?,
        target => {
            let path = target.map_or_else(|| PathBuf::from(format!("{name}.dockercontext")), PathBuf::from);
            // Its keys are for nobody else.
            put(&path, &file, 0o755)?;
            printer::error_line(&format!("Written file {:?}", path.display().to_string()));
        }
    }
    Ok(0)
}

fn import(context: &Context, args: &[String]) -> Result<u8> {
    let (name, file) = (&args[0], &args[1]);
    let bytes = if file == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes)?;
        bytes
    } else {
        read(Path::new(file))?
    };
    context.contexts().import(name, &bytes)?;
    done(name, &format!("Successfully imported context {name:?}"))
}
