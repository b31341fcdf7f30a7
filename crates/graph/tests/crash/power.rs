//! The power goes: what the disk was asked to keep is there, and of what came after it some is and some is not. The next
//! start finds every image whole, and all that was reported as done.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::check::{Golden, State};
use crate::disk::{Disk, Record};
use crate::operations::{milestones, prepare, prepare_inputs};
use crate::{Losses, common, copy};

/// Times that the power goes on each file system.
const CUTS: usize = 100;
/// A disk writes no less than this in one piece.
const PIECE: usize = 4096;
const SEED: u64 = 0x6761_6e74_7279_0004;

/// Numbers without a pattern, the same every time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// What was reported as done, and when: the log's position, and how the store looked then.
struct Done {
    position: u64,
    state: State,
}

/// Everything that a day brings, on the disk that remembers.
fn day(scratch: &Path, driver: &'static str, mkfs: &[&str], options: &str) -> (Golden, Vec<Done>, Vec<(u64, Record)>) {
    let image = scratch.join("disk.img");
    File::create(&image).unwrap().set_len(128 << 20).unwrap();
    copy::run(mkfs[0], &[&mkfs[1..], &[image.to_str().unwrap()]].concat());
    copy::run("cp", &["--sparse=always", image.to_str().unwrap(), scratch.join("first.img").to_str().unwrap()]);
    let inputs = scratch.join("inputs");
    std::fs::create_dir(&inputs).unwrap();
    prepare_inputs(&inputs);
    let disk = Disk::mount(scratch, options);
    let root = disk.root().join("data");
    prepare(&root, driver);
    let mut golden = Golden::empty(driver, "power", inputs);
    let graph = common::open(&root, driver);
    let mut done = Vec::new();
    let mut report = |golden: &mut Golden| {
        golden.learn(&root, &graph);
        done.push(Done { position: disk.position(), state: State::of(&graph).without_containers() });
    };
    report(&mut golden);
    for operation in ["pull", "commit", "rmi", "load", "tag", "import", "prune", "pull"] {
        for step in milestones(operation, &golden.inputs) {
            step(&graph).unwrap();
            report(&mut golden);
        }
    }
    drop(graph);
    (golden, done, disk.end())
}

fn cut(scratch: &Path, driver: &'static str, mkfs: &[&str], options: &str) {
    let (golden, done, records) = day(scratch, driver, mkfs, options);
    let mut dice = Dice(SEED);
    let first = records.partition_point(|(position, _)| *position < done[0].position);
    let mut cuts: Vec<usize> = (0..CUTS).map(|_| first + dice.roll() as usize % (records.len() - first)).collect();
    cuts.sort_unstable();
    let losses = Losses::default();
    // What is on the disk for certain, carried on from one cut to the next.
    let kept = scratch.join("first.img");
    let certain = OpenOptions::new().write(true).open(&kept).unwrap();
    let mut applied = 0;
    for (number, at) in cuts.iter().enumerate() {
        let flushed = records[..*at].iter().rposition(|(_, record)| matches!(record, Record::Flush)).unwrap_or(0);
        for (_, record) in records.get(applied..flushed).unwrap_or_default() {
            write(&certain, record, &mut || true);
        }
        applied = applied.max(flushed);
        let image = scratch.join(format!("cut-{number}.img"));
        copy::run("cp", &["--sparse=always", kept.to_str().unwrap(), image.to_str().unwrap()]);
        let lost = OpenOptions::new().write(true).open(&image).unwrap();
        for (_, record) in &records[flushed..*at] {
            write(&lost, record, &mut || dice.roll().is_multiple_of(2));
        }
        drop(lost);
        let reported = done.iter().take_while(|done| done.position <= records[*at].0).count();
        let looked = look(&golden, &done, reported, &image, scratch);
        std::fs::remove_file(image).unwrap();
        if let Err(loss) = looked {
            losses.note("power", loss, *at);
        }
    }
    let (writes, steps) = (records.len(), done.len());
    println!(
        "crash matrix: {driver} on {}: power cut at {CUTS} of {writes} writes and flushes of {steps} steps, seed {SEED:x}",
        mkfs[0]
    );
    losses.expect_none();
}

/// Writes those pieces that `survives` says.
fn write(image: &File, record: &Record, survives: &mut dyn FnMut() -> bool) {
    let Record::Write(offset, data) = record else { return };
    for (index, piece) in data.chunks(PIECE).enumerate() {
        if survives() {
            image.write_all_at(piece, offset + (index * PIECE) as u64).unwrap();
        }
    }
}

/// Mounts what is left and starts on it.
fn look(golden: &Golden, done: &[Done], reported: usize, image: &Path, scratch: &Path) -> Result<(), String> {
    let place: PathBuf = scratch.join("cut");
    std::fs::create_dir_all(&place).unwrap();
    copy::run("mount", &["-o", "loop", image.to_str().unwrap(), place.to_str().unwrap()]);
    let looked = (|| {
        let root = place.join("data");
        let graph = copy::reopen(&root, golden.driver);
        graph.sweep().map_err(|error| format!("sweep: {error}"))?;
        let state = State::of(&graph).without_containers();
        // The step that was on its way may be done or not.
        let possible = &done[reported - 1..done.len().min(reported + 1)];
        if !possible.iter().any(|done| done.state == state) {
            return Err(format!("{reported} steps were reported as done, there is {state:#?}"));
        }
        golden.whole(&root, &graph, true)
    })();
    copy::unmount(&place);
    looked
}

#[test]
fn when_the_power_goes_what_was_reported_is_there_and_all_is_whole_on_ext4() {
    let scratch = copy::scratch("power");
    cut(&scratch, "overlay", &["mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0"], "noatime");
}

#[test]
fn when_the_power_goes_what_was_reported_is_there_and_all_is_whole_on_btrfs() {
    let scratch = copy::scratch("power");
    cut(&scratch, "btrfs", &["mkfs.btrfs", "-q", "--nodiscard"], "noatime,nodiscard");
}
