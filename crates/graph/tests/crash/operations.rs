//! The store that everything starts from, and what is done to it.

use std::path::Path;

use gantry_api::reference::Digest;
use gantry_graph::{Commit, Document, Error, Graph, Import, Registration, digest_of};
use gantry_linux::mount;

use crate::common::{Source, gzip, layout, name, open, save};

/// One step: done wholly or not at all. Steps may be done again.
pub type Step = Box<dyn Fn(&Graph) -> Result<(), Error> + Send + Sync>;

/// The operations that a driver sees, by name. What is the same whatever the driver is tried with the usual one.
pub fn names(driver: &str) -> &'static [&'static str] {
    const ALL: &[&str] =
        &["pull", "load", "commit", "rmi", "prune", "container", "start", "import", "tag", "both", "first"];
    if driver == "overlay" { ALL } else { &ALL[..7] }
}

/// Those in which the disk fails: on btrfs, where each attempt takes a tenth of a second, what brings, makes and removes images.
pub fn failing(driver: &str) -> impl Iterator<Item = &'static str> {
    let few = ["pull", "commit", "rmi", "prune"];
    let is_tried = move |name: &&str| !starts(name) && (driver != "btrfs" || few.contains(name));
    names(driver).iter().copied().filter(move |name| is_tried(name))
}

/// Those that begin with the daemon's start, which is disturbed too: a later one, and the very first.
pub fn starts(operation: &str) -> bool {
    matches!(operation, "start" | "first")
}

/// The steps of an operation.
pub fn steps(operation: &str, inputs: &Path) -> Vec<Step> {
    let one = |step: fn(&Graph) -> Result<(), Error>| vec![Box::new(step) as Step];
    match operation {
        "pull" | "first" => one(pull),
        "load" => {
            let archive = std::fs::read(inputs.join("both.tar")).unwrap();
            vec![Box::new(move |graph| load(graph, &archive))]
        }
        "import" => one(import),
        // At once: each is there wholly or not at all.
        "both" => one(|graph| {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| commit(graph));
                let own = pull(graph);
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(own)
            })
        }),
        "commit" => one(commit),
        "tag" => one(|graph| graph.tag(&name("app"), &debian().id()).map(drop)),
        "rmi" => one(|graph| remove(graph, "app")),
        "prune" => vec![
            Box::new(|graph: &Graph| remove(graph, dangling(0).id().as_str())),
            Box::new(|graph: &Graph| remove(graph, dangling(1).id().as_str())),
            Box::new(|graph: &Graph| graph.remove_container_layer("idle")),
            Box::new(Graph::sweep),
        ],
        "container" => one(|graph| match graph.create_container_layer("new", &debian().id(), None) {
            Err(Error::Conflict(_)) => Ok(()),
            other => other,
        }),
        // The daemon's start itself, with what another one left.
        "start" => one(Graph::sweep),
        // The power goes amid all of them.
        "power" => Vec::new(),
        other => panic!("no operation {other}"),
    }
}

/// Between the steps, the states that the operation may be stopped in: images are whole, one after the other.
pub fn milestones(operation: &str, inputs: &Path) -> Vec<Step> {
    match operation {
        "load" => {}
        "both" => return vec![Box::new(pull), Box::new(commit)],
        other => return steps(other, inputs),
    }
    let archives = ["one.tar", "both.tar"].map(|file| std::fs::read(inputs.join(file)).unwrap());
    archives.into_iter().map(|archive| Box::new(move |graph: &Graph| load(graph, &archive)) as Step).collect()
}

pub fn debian() -> Known {
    Known(Source::of(vec![
        base_layer(),
        layer(&[File("etc/app", "12345"), Link("etc/os-too", "etc/os"), Gone("bin/sh")]),
    ]))
}

fn app() -> Known {
    Known(Source::of(vec![base_layer(), layer(&[File("srv/app", "app"), Symlink("srv/link", "app")])]))
}

fn dangling(number: usize) -> Known {
    let text = ["nothing", "needs this"][number];
    Known(Source::of(vec![layer(&[File("one", text)]), layer(&[Directory("two"), File("two/file", text)])]))
}

fn pulled() -> Known {
    let above = layer(&[Directory("etc"), File("etc/os", "another"), Gone("usr")]);
    Known(Source::of(vec![base_layer(), above, layer(&[File("top/of/all", "t")])]))
}

fn loaded(number: usize) -> Known {
    let own = layer(&[File(["first", "second"][number], "l")]);
    Known(Source::of(vec![layer(&[File("shared", "by both")]), own]))
}

/// An image as a registry has it.
pub struct Known(Source);

impl Known {
    pub fn id(&self) -> Digest {
        digest_of(&self.0.config)
    }
}

use Entry::{Directory, File, Gone, Link, Symlink};

/// What a layer's archive has.
enum Entry {
    File(&'static str, &'static str),
    Directory(&'static str),
    Symlink(&'static str, &'static str),
    Link(&'static str, &'static str),
    Gone(&'static str),
}

fn base_layer() -> Vec<u8> {
    layer(&[File("etc/os", "debian"), File("bin/sh", "sh"), Directory("usr"), File("usr/big", BIG)])
}

/// More than is written at once.
const BIG: &str = match std::str::from_utf8(&[b'x'; 40_000]) {
    Ok(text) => text,
    Err(_) => "",
};

fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_mtime(1);
        header.set_uid(7);
        let hide = |path: &str| match path.rsplit_once('/') {
            Some((above, last)) => format!("{above}/.wh.{last}"),
            None => format!(".wh.{path}"),
        };
        let (path, data, link) = match entry {
            File(path, data) => ((*path).to_owned(), *data, None),
            Directory(path) => ((*path).to_owned(), "", Some((tar::EntryType::Directory, ""))),
            Symlink(path, to) => ((*path).to_owned(), "", Some((tar::EntryType::Symlink, *to))),
            Link(path, to) => ((*path).to_owned(), "", Some((tar::EntryType::Link, *to))),
            Gone(path) => (hide(path), "", None),
        };
        header.set_size(data.len() as u64);
        match link {
            Some((kind, to)) if kind != tar::EntryType::Directory => {
                header.set_entry_type(kind);
                builder.append_link(&mut header, path, to).unwrap();
            }
            kind => {
                header.set_entry_type(kind.map_or(tar::EntryType::Regular, |(kind, _)| kind));
                builder.append_data(&mut header, path, data.as_bytes()).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

/// Archives for `load`, in `directory`.
pub fn prepare_inputs(directory: &Path) {
    let root = directory.join("store");
    let graph = open(&root, "overlay");
    for number in 0..2 {
        bring(&graph, &loaded(number).0, &[&format!("loaded:{number}")]).unwrap();
    }
    std::fs::write(directory.join("one.tar"), save(&graph, &["loaded:0"])).unwrap();
    // The second one's layers are compressed, and so they are kept.
    let sources = [0, 1].map(|number| loaded(number).0);
    let (both, _) = layout(&[("loaded:0", &sources[0], false), ("loaded:1", &sources[1], true)]);
    std::fs::write(directory.join("both.tar"), both).unwrap();
    drop(graph);
    std::fs::remove_dir_all(root).unwrap();
}

/// The store that everything starts from: images that share a layer, two without a name, and containers.
pub fn prepare(root: &Path, driver: &str) {
    let graph = open(root, driver);
    bring(&graph, &debian().0, &["debian:12", &format!("debian@{}", digest_of(b"{}"))]).unwrap();
    bring(&graph, &app().0, &["app"]).unwrap();
    bring(&graph, &dangling(0).0, &[]).unwrap();
    bring(&graph, &dangling(1).0, &[]).unwrap();
    graph.create_container_layer("web", &debian().id(), None).unwrap();
    let mounted = mount::attach(&graph.container_root("web", false).unwrap()).unwrap();
    let inside = std::path::PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mounted)));
    std::fs::write(inside.join("etc/made"), "by a container").unwrap();
    std::fs::remove_file(inside.join("etc/os")).unwrap();
    std::fs::create_dir(inside.join("new")).unwrap();
    // A program that wants to find it again says so.
    rustix::fs::syncfs(std::fs::File::open(&inside).unwrap()).unwrap();
    drop(mounted);
    graph.create_container_layer("idle", &app().id(), None).unwrap();
    graph.sweep().unwrap();
}

/// What dead daemons left.
pub fn litter(root: &Path, driver: &str) {
    let graph = open(root, driver);
    let registration = pulled().0.begin(&graph);
    registration.unpack(2, &mut pulled().0.blobs[2].as_slice()).ok();
    graph.driver().create("orphan", None).unwrap();
    graph.driver().apply("orphan", &mut layer(&[File("o/r/p", "han")]).as_slice()).unwrap();
    graph.driver().commit("orphan").unwrap();
    graph.driver().create_writable("unrecorded", None, None).unwrap();
    graph.driver().create("removed", None).unwrap();
    graph.driver().remove("removed").unwrap();
    graph.content().put(b"nobody names this").unwrap();
    std::mem::forget(graph.content().ingest().unwrap());
    // Forgotten, not dropped: its draft stays. The lock goes with the copy that is opened instead.
    let _ = std::mem::ManuallyDrop::new(registration);
}

fn bring(graph: &Graph, source: &Source, names: &[&str]) -> Result<(), Error> {
    unpack(source.begin(graph), source, names)
}

fn unpack(registration: Registration, source: &Source, names: &[&str]) -> Result<(), Error> {
    for (index, blob) in source.blobs.iter().enumerate() {
        registration.unpack(index, &mut blob.as_slice())?;
    }
    let names: Vec<_> = names.iter().map(|text| name(text)).collect();
    registration.commit(&names).map(drop)
}

/// The name `app` is another image's before. It comes by an index, with an attestation.
fn pull(graph: &Graph) -> Result<(), Error> {
    let document = |text: &str| Document { media_type: "document".to_owned(), raw: text.as_bytes().to_vec() };
    let source = pulled().0;
    let registration = source.begin(graph).chosen_from(document("index")).attested_by(vec![document("attestation")]);
    unpack(registration, &source, &["app", "pulled:1", &format!("app@{}", digest_of(b"index"))])
}

fn load(graph: &Graph, archive: &[u8]) -> Result<(), Error> {
    graph.load(&mut &*archive, None, &|_| {}).map(drop)
}

fn import(graph: &Graph) -> Result<(), Error> {
    let import =
        Import { name: Some(name("imported")), created: "2026-11-25T00:00:00Z".to_owned(), ..Import::default() };
    graph.import(&mut gzip(&layer(&[File("etc/os", "mine")])).as_slice(), import).map(drop)
}

fn commit(graph: &Graph) -> Result<(), Error> {
    let commit =
        Commit { name: Some(name("committed")), created: "2026-11-25T00:00:00Z".to_owned(), ..Commit::default() };
    graph.commit_container("web", commit).map(drop)
}

fn remove(graph: &Graph, image: &str) -> Result<(), Error> {
    match graph.remove_image(image, false, true, &[]) {
        // It went the first time.
        Err(Error::NoSuchImage(_)) => Ok(()),
        other => other.map(drop),
    }
}
