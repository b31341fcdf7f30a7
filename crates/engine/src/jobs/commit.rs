//! `commit`: makes an image of a container.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::container::Config;
use gantry_api::image::Committed;
use gantry_api::reference::Reference;
use gantry_graph::Image;

use crate::container::{Container, Record, State};
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};

/// Makes an image of a container's root and configuration.
pub struct Commit {
    /// Name or id.
    pub container: String,
    /// The repository of its name; none where empty.
    pub repository: String,
    /// The tag; `latest` where empty.
    pub tag: String,
    /// For the history.
    pub comment: String,
    /// For image and history.
    pub author: String,
    /// Freeze its processes meanwhile.
    pub pause: bool,
    /// Dockerfile instructions for the configuration.
    pub changes: Vec<String>,
    /// What differs from the container's configuration.
    pub config: Option<Config>,
}

impl Job for Commit {
    const NAME: &'static str = "commit";
    const DOC: &'static str = "makes an image of a container";
    const CLASS: Class = Class::Change;
    type Output = Committed;

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        format!("{} {}:{}", self.container, self.repository, self.tag)
    }

    async fn run(self, context: Context) -> Result<Committed> {
        let engine = context.engine;
        let name = crate::images::new_name(&self.repository, &self.tag)?;
        let container = engine.containers.get(&self.container)?;
        let _guard = container.operation.lock().await;
        let record = container.record();
        if matches!(record.state, State::Dead(_) | State::Removing(_)) {
            let state = if matches!(record.state, State::Dead(_)) { "Dead" } else { "being removed" };
            return Err(Error::conflict(format!("You cannot commit container {} which is {state}", record.id)));
        }
        let (given, changes, own) = (self.config, self.changes, Arc::clone(&record));
        let config = blocking(move || configured(given.as_ref(), &changes, &own.config)).await?;
        let commit = gantry_graph::Commit {
            name: name.clone(),
            config,
            created: jiff::Timestamp::now().to_string(),
            created_by: std::iter::once(&record.path).chain(&record.args).cloned().collect::<Vec<_>>().join(" "),
            author: self.author,
            comment: self.comment,
        };
        let pause = self.pause && matches!(record.state, State::Running(_));
        let (worker, subject) = (Arc::clone(&engine), Arc::clone(&container));
        let image = blocking(move || frozen(&worker, &subject, pause, commit)).await;
        // What unpacking leaves behind it, of a failure or none.
        engine.sweep_soon();
        let image = image?;
        publish(&engine, &record, &image, name.as_ref());
        Ok(Committed { id: image.id.to_string() })
    }
}

/// Commits while the processes stand still, and lets them go on whatever came of it. An image that was made is made, also
/// when they cannot go on: then the container counts as paused, so that everybody sees it and can try again.
fn frozen(engine: &Engine, container: &Container, pause: bool, commit: gantry_graph::Commit) -> Result<Arc<Image>> {
    let commit = || Ok(engine.graph.commit_container(container.id(), commit)?);
    let Some(running) = container.running().filter(|_| pause) else { return commit() };
    // The container may have been killed meanwhile: then nothing is to be thawed.
    let thaw = || running.unpause().or_else(|error| container.running().map_or(Ok(()), |_| Err(error)));
    let (committed, thawed) = between(|| running.pause(), commit, thaw)?;
    if let Err(error) = thawed {
        let container_id = container.id();
        tracing::error!(container = container_id, %error, "a committed container cannot be thawed: it stays paused");
        if let Err(error) = stays_paused(engine, container) {
            tracing::error!(container = container_id, %error, "that it is paused could not be kept");
        }
    }
    committed
}

/// Both results, where freezing worked.
fn between<T, E: Into<Error>>(
    freeze: impl FnOnce() -> std::result::Result<(), E>,
    work: impl FnOnce() -> Result<T>,
    thaw: impl FnOnce() -> std::result::Result<(), E>,
) -> Result<(Result<T>, std::result::Result<(), E>)> {
    freeze().map_err(Into::into)?;
    let worked = work();
    Ok((worked, thaw()))
}

fn stays_paused(engine: &Engine, container: &Container) -> Result<()> {
    let record = container.record();
    let State::Running(run) = record.state.clone() else { return Ok(()) };
    let paused = Record { state: State::Paused(run), ..Record::clone(&record) };
    engine.containers.save(container, paused)?;
    engine.events.publish("container", "pause", container.id(), record.event_attributes());
    Ok(())
}

/// The configuration of the image: the one that was given or the container's, changed, and filled where it leaves open what
/// the container has.
fn configured(given: Option<&Config>, changes: &[String], container: &Config) -> Result<Config> {
    let mut config = crate::changes::apply(of_image(given.unwrap_or(container)), changes)?;
    crate::changes::fill(&mut config, container);
    Ok(config)
}

/// What an image says of how to run it; a container's names, terminal and streams are its own.
fn of_image(config: &Config) -> Config {
    Config {
        user: config.user.clone(),
        exposed_ports: config.exposed_ports.clone(),
        env: config.env.clone(),
        cmd: config.cmd.clone(),
        healthcheck: config.healthcheck.clone(),
        args_escaped: config.args_escaped,
        volumes: config.volumes.clone(),
        working_dir: config.working_dir.clone(),
        entrypoint: config.entrypoint.clone(),
        on_build: config.on_build.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout,
        shell: config.shell.clone(),
        ..Config::default()
    }
}

fn publish(engine: &Engine, record: &Record, image: &Image, name: Option<&Reference>) {
    let mut attributes = record.event_attributes();
    attributes.insert("comment".into(), image.config.comment.clone());
    attributes.insert("imageID".into(), image.id.to_string());
    attributes.insert("imageRef".into(), name.map(Reference::familiar).unwrap_or_default());
    engine.events.publish("container", "commit", &record.id, attributes);
    if let Some(name) = name {
        let attributes = BTreeMap::from([("name".to_owned(), name.familiar())]);
        engine.events.publish("image", "tag", image.id.as_str(), attributes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_of_what_was_given_and_what_is_open_then_is_the_containers() {
        let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        let container =
            Config { env: list(&["A=1"]), entrypoint: list(&["e"]), cmd: list(&["c"]), ..Config::default() };
        let given = Config { env: list(&["B=2"]), ..Config::default() };
        let changes = ["ENV C=$A$B".to_owned(), "CMD [\"d\"]".to_owned()];
        let config = configured(Some(&given), &changes, &container).unwrap();
        assert_eq!(config.env, list(&["B=2", "C=2", "A=1"]));
        assert_eq!((config.entrypoint, config.cmd), (list(&["e"]), list(&["d"])));
        let config = configured(None, &changes, &container).unwrap();
        assert_eq!(config.env, list(&["A=1", "C=1"]));
    }

    #[test]
    fn what_was_made_counts_also_when_the_processes_cannot_go_on() {
        let fail = |why: &'static str| move || Err::<(), _>(Error::system(why));
        let (made, thawed) = between(|| Ok(()), || Ok(1), fail("thaw")).unwrap();
        assert_eq!((made.unwrap(), thawed.unwrap_err().message.as_str()), (1, "thaw"));
        let mut thawed = false;
        let (made, _) = between(
            || Ok::<_, Error>(()),
            || Err::<i32, _>(Error::system("made")),
            || {
                thawed = true;
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(made.unwrap_err().message, "made");
        assert!(thawed, "a failed commit lets them go on too");
        let work = || -> Result<i32> { panic!("nothing is committed of what moves") };
        assert_eq!(between(fail("freeze"), work, || Ok(())).unwrap_err().message, "freeze");
    }
}
