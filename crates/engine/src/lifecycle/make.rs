//! Making a container: its name first, then its layer, its volumes, its record; undone as a whole when any of it fails.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gantry_api::ErrorKind;
use gantry_api::inspect::MountPoint;
use gantry_api::volume::VolumeCreate;
use gantry_graph::Image;
use gantry_linux::fs;

use super::remove;
use crate::container::Record;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::names;
use crate::spec::mounts::Wanted;

/// The kernel's answer to a link where none may be.
const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();

/// What was made so far, to be taken back.
#[derive(Default)]
struct Made {
    volumes: Vec<String>,
    directories: Vec<PathBuf>,
}

/// Makes what `record` describes, under `name` or a random one, with its links to others.
///
/// # Errors
/// A name in use; what the disk or the graph refuses. Nothing is left then.
pub fn make(
    engine: &Engine,
    image: &Image,
    record: &mut Record,
    wanted: Vec<Wanted>,
    links: BTreeMap<String, String>,
    name: Option<String>,
) -> Result<()> {
    reserve(engine, record, name)?;
    let mut made = Made::default();
    let result =
        fill(engine, image, record, wanted, &mut made).and_then(|()| engine.containers.add(record.clone(), links));
    if let Err(error) = result {
        engine.containers.release(&record.name);
        undo(engine, record, made);
        return Err(error);
    }
    Ok(())
}

fn reserve(engine: &Engine, record: &mut Record, name: Option<String>) -> Result<()> {
    if let Some(name) = name {
        record.name = name;
        return engine.containers.reserve(&record.name, &record.id);
    }
    for attempt in 0..20 {
        record.name = names::random_name(attempt)?;
        match engine.containers.reserve(&record.name, &record.id) {
            Err(error) if error.kind == ErrorKind::Conflict => {}
            other => return other,
        }
    }
    Err(Error::conflict("no free name was found in 20 attempts: give one with --name"))
}

fn fill(engine: &Engine, image: &Image, record: &mut Record, wanted: Vec<Wanted>, made: &mut Made) -> Result<()> {
    fs::create_dir_mode(record.directory(&engine.options.data_root), 0o710)?;
    let limit = crate::spec::storage::limit(&record.host_config)?;
    engine.graph.create_container_layer(&record.id, &image.id, limit)?;
    if let Some(map) = &record.users {
        engine.graph.map_container_layer(&record.id, map)?;
    }
    for wanted in wanted {
        let point = mount_point(engine, image, record, wanted, made)?;
        record.mounts.push(point);
    }
    Ok(())
}

/// Makes what a mount needs on the host.
fn mount_point(
    engine: &Engine,
    image: &Image,
    record: &mut Record,
    wanted: Wanted,
    made: &mut Made,
) -> Result<MountPoint> {
    let mut point = wanted.point;
    if point.kind == "bind" && wanted.make_source && fs::symlink_metadata(&point.source).is_err() {
        make_source(&point.source, record.exact_binds)?;
        made.directories.push(point.source.clone().into());
    }
    if point.kind == "volume" && point.source.is_empty() {
        let anonymous = point.name.is_empty();
        let mut labels = wanted.labels;
        if anonymous {
            labels.get_or_insert_default().insert(crate::jobs::ANONYMOUS.to_owned(), String::new());
        }
        let request = VolumeCreate { name: point.name.clone(), labels, ..VolumeCreate::default() };
        let (volume, new) = engine.volumes.create(&request)?;
        if anonymous {
            record.anonymous_volumes.push(volume.name.clone());
        }
        if new {
            made.volumes.push(volume.name.clone());
            let attributes = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
            engine.events.publish("volume", "create", &volume.name, attributes);
        }
        if !wanted.no_copy {
            crate::archive::copy_up(engine, image, &point.destination, std::path::Path::new(&volume.mountpoint))?;
        }
        point.name.clone_from(&volume.name);
        point.source.clone_from(&volume.mountpoint);
    }
    Ok(point)
}

/// Makes a bind's source; where a policy judged it, no link leads that elsewhere.
fn make_source(source: &str, exact: bool) -> Result<()> {
    if !exact {
        return Ok(fs::create_dir_all(source)?);
    }
    fs::create_dir_all_exact(source).map_err(|error| match error.errno() {
        LOOP => Error::invalid(format!(
            "make bind source {source}: there is a link on the way, and links are not followed where a policy judges: \
             name the directory itself"
        )),
        _ => error.into(),
    })
}

/// Takes back what a failed create made.
fn undo(engine: &Engine, record: &Record, made: Made) {
    let mut failures: Vec<String> = Vec::new();
    let mut note = |result: Result<()>| failures.extend(result.err().map(|error| error.to_string()));
    note(engine.graph.remove_container_layer(&record.id).map_err(Into::into));
    note(remove::put_aside(engine, &record.id));
    for name in &made.volumes {
        note(engine.volumes.remove(name));
    }
    for directory in made.directories {
        let removed = if record.exact_binds { fs::remove_dir_exact(directory) } else { fs::remove_dir(directory) };
        note(removed.map_err(Into::into));
    }
    engine.sweep_soon();
    for failure in failures {
        tracing::warn!("undo the failed create of container {}: {failure}", record.id);
    }
}
