//! `gantry registry ls`, `verify`, `gc` and `copy`: what is kept, whether it is whole, what nobody needs, and out of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::Args;
use gantry_registry::server::config::{Config, Span, StorageSettings};
use gantry_registry::server::gc::{Collector, Finding, Policy, Retention};
use gantry_registry::server::store::Layout;
use gantry_registry::server::{Name, Repositories, Root, Target, verify};

use super::{settings, storage};

/// Names of repositories that are read at once.
const PAGE: usize = 256;

/// The directory.
#[derive(Debug, Args)]
pub struct Where {
    /// Directory of what is served
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Configuration of the server, which says where everything is kept
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Where {
    /// The directory, and what the configuration says of storage.
    fn read(&self) -> Result<(PathBuf, StorageSettings)> {
        let mut config = self.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        if let Some(root) = &self.root {
            config.root = Some(root.clone());
        }
        Ok((settings::root(&config), config.storage))
    }

    /// For reading only: also while a server runs.
    async fn look(&self) -> Result<Repositories> {
        let (root, settings) = self.read()?;
        Ok(Repositories::new(storage::look(&root, &settings).await?))
    }

    async fn open(&self) -> Result<Root> {
        let (root, settings) = self.read()?;
        let opened = storage::open(&root, &settings).await;
        opened.context("collect (a server collects by itself; --dry-run is possible beside it)")
    }
}

/// `ls`.
#[derive(Debug, Args)]
pub struct Ls {
    #[command(flatten)]
    place: Where,
    /// List the tags of this repository
    repository: Option<Name>,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    place: Where,
}

/// `gc`.
#[derive(Debug, Args)]
pub struct Gc {
    #[command(flatten)]
    place: Where,
    /// Only tell what would go, and why; possible while a server runs
    #[arg(long)]
    dry_run: bool,
    /// Leave what is younger
    #[arg(long, default_value = "24h", value_name = "SPAN")]
    grace: Span,
    /// Remove unfinished uploads for which nothing came for so long
    #[arg(long, default_value = "7d", value_name = "SPAN")]
    uploads: Span,
    /// Remove manifests that no tag, index or subject has led to for so long
    #[arg(long, value_name = "SPAN")]
    untagged: Option<Span>,
    /// Remove tags: REPOSITORIES:TAGS=SPAN[,KEEP], as in 'team/*:ci-*=14d,5'; may be given several times, the first that fits decides
    #[arg(long, value_name = "RULE", value_parser = rule)]
    tags: Vec<Retention>,
}

/// `copy`.
#[derive(Debug, Args)]
pub struct Copy {
    #[command(flatten)]
    place: Where,
    /// Image to copy: REPOSITORY[:TAG]; every tag where none is given
    image: String,
    /// Directory that becomes an OCI layout, or is one
    layout: PathBuf,
}

fn rule(text: &str) -> Result<Retention, String> {
    let wrong = || format!("{text:?}: want REPOSITORIES:TAGS=SPAN[,KEEP], as in 'team/*:ci-*=14d,5'");
    let (pattern, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (repositories, tags) = pattern.rsplit_once(':').ok_or_else(wrong)?;
    let (span, keep) = rest.split_once(',').unwrap_or((rest, "0"));
    Ok(Retention {
        repositories: repositories.parse()?,
        tags: tags.parse()?,
        older_than: Some(span.parse()?),
        keep: keep.parse().map_err(|_| wrong())?,
    })
}

#[allow(clippy::print_stdout, reason = "what was asked for")]
fn line(text: &str) {
    println!("{text}");
}

/// Lists repositories with their tags' number and bytes, or the tags of one.
pub async fn ls(flags: Ls) -> Result<ExitCode> {
    let repositories = flags.place.look().await?;
    if let Some(name) = &flags.repository {
        if !repositories.exists(name).await? {
            bail!("there is no repository {name} here");
        }
        for tag in repositories.tags(name).await? {
            let digest = repositories.resolve(name, &Target::Tag(tag.clone())).await?;
            line(&format!(
                "{tag}\t{}",
                digest.map_or_else(|| "gone meanwhile".to_owned(), |digest| digest.to_string())
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut after: Option<String> = None;
    loop {
        let names = repositories.names(after.as_deref(), PAGE).await?;
        let Some(last) = names.last() else { return Ok(ExitCode::SUCCESS) };
        after = Some(last.as_str().to_owned());
        for name in &names {
            let (tags, bytes) = (repositories.tags(name).await?.len(), repositories.usage(name).await?);
            line(&format!("{name}\t{tags} tags\t{bytes} bytes"));
        }
    }
}

/// Reads everything and says what is not as it was pushed.
pub async fn verify(flags: Verify) -> Result<ExitCode> {
    let repositories = flags.place.look().await?;
    let mut damaged = 0_u64;
    let mut tell = |problem: String| {
        damaged += 1;
        line(&problem);
    };
    let read = verify::all(&repositories, &mut tell).await?;
    line(&format!(
        "{} pieces of content, {} bytes, {} repositories: {damaged} problems",
        read.content, read.bytes, read.repositories
    ));
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Removes what nobody needs, and says why.
pub async fn gc(flags: Gc) -> Result<ExitCode> {
    let policy = Policy {
        grace: flags.grace.0,
        uploads: flags.uploads.0,
        untagged: flags.untagged.map(|span| span.0),
        retention: flags.tags,
    };
    let mut tell = |finding: &Finding| {
        let repository = finding.repository.as_ref().map_or(String::new(), |name| format!("{name} "));
        line(&format!("{} {repository}{}: {}", finding.kind, finding.name, finding.reason));
    };
    let (dry, now) = (flags.dry_run, &SystemTime::now);
    let collected = if dry {
        let repositories = flags.place.look().await?;
        let collector =
            Collector { repositories: &repositories, uploads: None, policy: &policy, dry, tell: &mut tell, now };
        collector.run().await?
    } else {
        let root = flags.place.open().await?;
        let repositories = Repositories::new(Arc::clone(&root.storage));
        let uploads = Some(&root.uploads);
        let collector = Collector { repositories: &repositories, uploads, policy: &policy, dry, tell: &mut tell, now };
        collector.run().await?
    };
    for (name, reason) in &collected.left_alone {
        line(&format!("repository {name} was left alone: {reason}"));
    }
    let counts: Vec<_> = collected.removed.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let (verb, what) = (if dry { "would go" } else { "gone" }, counts.join(", "));
    let what = if what.is_empty() { "nothing".to_owned() } else { what };
    line(&format!("{verb}: {what}; {} bytes", collected.freed));
    Ok(if collected.left_alone.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Copies images into an OCI layout, which `gantry registry serve DIR` serves on a machine without a network.
pub async fn copy(flags: Copy) -> Result<ExitCode> {
    let repositories = flags.place.look().await?;
    let (name, tag) = match flags.image.rsplit_once(':') {
        Some((name, tag)) => (name.parse::<Name>()?, Some(tag.parse()?)),
        None => (flags.image.parse::<Name>()?, None),
    };
    let tags = match tag {
        Some(tag) => vec![tag],
        None => repositories.tags(&name).await?,
    };
    if tags.is_empty() {
        bail!("repository {name} has no tags here");
    }
    for tag in tags {
        let digest = Layout::add(&flags.layout, &repositories, &name, &tag).await?;
        line(&format!("{name}:{tag}\t{digest}"));
    }
    Ok(ExitCode::SUCCESS)
}
