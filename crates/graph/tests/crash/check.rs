//! What must hold of a store whatever happened to it: images and names are those of before or after a step, whole; fsck finds
//! nothing; and on the disk is what these images and containers need, no more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use gantry_graph::{Graph, Image, Origin};
use gantry_linux::mount;

use crate::operations::{Step, litter, milestones, prepare, prepare_inputs, steps};
use crate::{common, copy};

/// Images, names and containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    images: BTreeSet<String>,
    names: BTreeMap<String, String>,
    containers: BTreeSet<String>,
}

impl State {
    pub fn of(graph: &Graph) -> Self {
        let images = graph.images();
        Self {
            images: images.iter().map(|image| image.id.to_string()).collect(),
            names: images.all_names().map(|(name, id)| (name.to_string(), id.to_string())).collect(),
            containers: graph.container_layers().into_iter().collect(),
        }
    }

    /// Containers' layers do not wait for the disk.
    pub fn without_containers(self) -> Self {
        Self { containers: BTreeSet::new(), ..self }
    }
}

/// Relative paths, each with what is there.
type Listing = BTreeSet<String>;

/// An operation, what it starts from, and how things look at each of its milestones.
pub struct Golden {
    pub driver: &'static str,
    pub operation: &'static str,
    /// Copied for each attempt.
    pub start: PathBuf,
    pub inputs: PathBuf,
    pub states: Vec<State>,
    /// What is reported one after the other.
    steps: usize,
    /// The directory of each layer, by its chain id.
    layers: BTreeMap<String, Listing>,
    containers: BTreeMap<String, Listing>,
    /// What each image shows when it is mounted.
    contents: BTreeMap<String, Listing>,
}

impl Golden {
    /// Makes the store that `operation` starts from below `scratch`, and does it once, undisturbed.
    pub fn new(scratch: &Path, driver: &'static str, operation: &'static str) -> Self {
        let place = scratch.join(format!("golden-{driver}-{operation}"));
        let (start, inputs, done) = (place.join("start"), place.join("inputs"), place.join("done"));
        fs::create_dir_all(&inputs).unwrap();
        prepare_inputs(&inputs);
        if operation == "first" {
            fs::create_dir(&start).unwrap();
        } else {
            prepare(&start, driver);
        }
        let mut golden = Self { start: start.clone(), ..Self::empty(driver, operation, inputs) };
        copy::store(&start, &done, driver);
        let graph = common::open(&done, driver);
        golden.learn(&done, &graph);
        for step in milestones(operation, &golden.inputs) {
            step(&graph).unwrap();
            golden.learn(&done, &graph);
        }
        drop(graph);
        if operation == "both" {
            golden.learn_other_order(&place.join("other"));
        }
        if operation == "start" {
            litter(&start, driver);
        }
        golden
    }

    /// Of two operations at once the second may be done before the first.
    fn learn_other_order(&mut self, root: &Path) {
        copy::store(&self.start, root, self.driver);
        let graph = common::open(root, self.driver);
        milestones(self.operation, &self.inputs)[1](&graph).unwrap();
        self.learn(root, &graph);
        // It is no step on the way to the last.
        let other = self.states.pop().unwrap();
        self.states.insert(1, other);
    }

    /// Nothing is known yet.
    pub fn empty(driver: &'static str, operation: &'static str, inputs: PathBuf) -> Self {
        Self {
            driver,
            operation,
            start: PathBuf::new(),
            steps: steps(operation, &inputs).len(),
            states: Vec::new(),
            layers: BTreeMap::new(),
            containers: BTreeMap::new(),
            contents: BTreeMap::new(),
            inputs,
        }
    }

    pub fn learn(&mut self, root: &Path, graph: &Graph) {
        let state = State::of(graph);
        if self.states.last() != Some(&state) {
            self.states.push(state);
        }
        let layers = root.join(self.driver).join("layers");
        for image in graph.images().iter() {
            for layer in &image.layers {
                self.layers
                    .entry(layer.chain_id.to_string())
                    .or_insert_with(|| listing(&layers.join(&layer.store_id), false));
            }
            self.contents.entry(image.id.to_string()).or_insert_with(|| shown(graph, image));
        }
        for container in graph.container_layers() {
            let own = listing(&layers.join(&container), false);
            self.containers.entry(container).or_insert(own);
        }
    }

    /// Looks at everything. `done` milestones were reported; returns how many there were. Files of an archive that could not
    /// be deleted may wait for the next start.
    pub fn check(&self, root: &Path, graph: &Graph, done: usize, started: bool) -> Result<usize, String> {
        let state = State::of(graph);
        let found = self.states.iter().position(|known| *known == state);
        let found = found.ok_or_else(|| format!("neither before nor after: {state:#?}"))?;
        // A step that changes no image, such as a sweep, has no state of its own.
        let last = self.states.len() - 1;
        if found < if done == self.steps { last } else { done.min(last) } {
            return Err(format!("{done} steps were reported as done, {found} are there"));
        }
        self.whole(root, graph, started)?;
        Ok(found)
    }

    /// Whatever there is, is whole, and there is nothing else.
    pub fn whole(&self, root: &Path, graph: &Graph, started: bool) -> Result<(), String> {
        let mut findings = Vec::new();
        graph.fsck(false, &mut |finding| findings.push(finding.to_string())).map_err(|error| error.to_string())?;
        if !findings.is_empty() {
            return Err(format!("fsck: {}", findings.join("; ")));
        }
        for image in graph.images().iter() {
            differences("an image shows", &self.contents[image.id.as_str()], &shown(graph, image))?;
        }
        self.litter(root, graph, started)
    }

    /// What is on the disk, against what is needed.
    fn litter(&self, root: &Path, graph: &Graph, started: bool) -> Result<(), String> {
        let home = root.join(self.driver);
        let images = graph.images();
        let mut documents: Listing = images.iter().map(|image| image.id.hex().to_owned()).collect();
        let came = images.iter().flat_map(|image| &image.origins).flat_map(Origin::documents);
        documents.extend(came.map(|document| document.digest.hex().to_owned()));
        documents.extend(images.all_names().filter_map(|(name, _)| Some(name.digest()?.hex().to_owned())));
        let layers = images.iter().flat_map(|image| &image.layers);
        let blobs = layers.flat_map(|layer| graph.blobs(&layer.diff_id)).filter(|blob| blob.kept);
        documents.extend(blobs.map(|blob| blob.descriptor.digest.hex().to_owned()));
        differences("documents", &documents, &names(&root.join("content/sha256")))?;
        let ingest = started.then(|| root.join("content/ingest"));
        for empty in ["drafts", "replaced", "trash"].map(|part| home.join(part)).into_iter().chain(ingest) {
            differences(&empty.display().to_string(), &Listing::new(), &names(&empty))?;
        }
        let mut wanted: BTreeMap<String, &Listing> = BTreeMap::new();
        for layer in images.iter().flat_map(|image| &image.layers) {
            wanted.insert(layer.store_id.clone(), &self.layers[layer.chain_id.as_str()]);
        }
        let mut there = names(&home.join("layers"));
        for container in graph.container_layers() {
            wanted.insert(container.clone(), &self.containers[&container]);
            // Its layers stay, also without the image.
            let lower = fs::read_to_string(home.join("layers").join(&container).join("lower")).unwrap_or_default();
            for below in lower.lines().filter(|line| *line != ".") {
                wanted.entry(below.to_owned()).or_insert(&self.layers[&format!("sha256:{below}")]);
            }
            self.parents(&home, &container, &mut wanted)?;
        }
        let known: Listing = wanted.keys().cloned().collect();
        differences("layers", &known, &there)?;
        for (id, wanted) in wanted {
            differences(&format!("layer {id}"), wanted, &listing(&home.join("layers").join(&id), false))?;
            there.remove(&id);
        }
        let rest: Listing = names(root).into_iter().filter(|name| !name.starts_with("gantry.db")).collect();
        differences("the data root", &["content", self.driver].map(str::to_owned).into(), &rest)?;
        let parts = ["drafts", "empty", "layers", "lock", "replaced", "trash"];
        let rest: Listing = names(&home).into_iter().chain(["empty", "replaced"].map(str::to_owned)).collect();
        differences("the driver's directory", &parts.map(str::to_owned).into(), &rest)
    }

    /// The layers below one that is a whole tree.
    fn parents<'a>(&'a self, home: &Path, id: &str, wanted: &mut BTreeMap<String, &'a Listing>) -> Result<(), String> {
        let mut at = id.to_owned();
        while let Ok(parent) = fs::read_to_string(home.join("layers").join(&at).join("parent")) {
            let known = self.layers.get(&format!("sha256:{parent}"));
            wanted.entry(parent.clone()).or_insert(known.ok_or_else(|| format!("{at} is on top of {parent:?}"))?);
            at = parent;
        }
        Ok(())
    }

    /// Does the whole operation again, and looks at what comes of it.
    pub fn again(&self, root: &Path, graph: &Graph, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            step(graph).map_err(|error| format!("done again: {error}"))?;
        }
        graph.sweep().map_err(|error| format!("sweep after it was done again: {error}"))?;
        self.check(root, graph, self.steps, true).map(drop).map_err(|problem| format!("done again: {problem}"))
    }
}

fn names(directory: &Path) -> Listing {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn differences(what: &str, wanted: &Listing, found: &Listing) -> Result<(), String> {
    let mut text = String::new();
    for missing in wanted.difference(found) {
        write!(text, " -{missing}").unwrap();
    }
    for extra in found.difference(wanted) {
        write!(text, " +{extra}").unwrap();
    }
    if text.is_empty() { Ok(()) } else { Err(format!("{what}:{text}")) }
}

/// What an image shows, with the files' content.
fn shown(graph: &Graph, image: &Image) -> Listing {
    let mounted = mount::attach(&graph.image_root(&image.id).unwrap()).unwrap();
    listing(&PathBuf::from(format!("/proc/self/fd/{}/.", mounted.as_raw_fd())), true)
}

/// Everything below a directory. A recipe names inodes, and a directory's size is the file system's.
fn listing(root: &Path, content: bool) -> Listing {
    let mut all = Listing::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(relative) = todo.pop() {
        for entry in fs::read_dir(root.join(&relative)).unwrap() {
            let entry = entry.unwrap();
            let path = relative.join(entry.file_name());
            let metadata = entry.metadata().unwrap();
            let kind = metadata.file_type();
            let mut line = format!("{} {:o} {}", path.display(), metadata.mode(), metadata.uid());
            if kind.is_dir() {
                todo.push(path);
            } else if kind.is_file() && entry.file_name() != "recipe" {
                write!(line, " {} {} {}", metadata.len(), metadata.nlink(), metadata.mtime() == 1).unwrap();
                if content {
                    let digest = gantry_graph::digest_of(&fs::read(entry.path()).unwrap());
                    write!(line, " {}", digest.short()).unwrap();
                }
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                write!(line, " -> {}", String::from_utf8_lossy(target.as_os_str().as_bytes())).unwrap();
            } else if kind.is_char_device() {
                write!(line, " {}", metadata.rdev()).unwrap();
            }
            all.insert(line);
        }
    }
    all
}
