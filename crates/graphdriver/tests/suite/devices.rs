//! What devmapper alone promises: devices come and go with their mounts, a full pool loses nothing, and a daemon that is
//! killed leaves no device that nobody knows.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gantry_graphdriver::{Error, GraphDriver};
use gantry_linux::dm::{Control, SECTOR, Thin};
use gantry_linux::loops;
use gantry_linux::mount::{DeviceMount, RootMount};

use super::bench::{Archive, Bench, Mounted, attach, base, open};
use super::can_test;

/// The kernel takes away what nobody uses, and says nothing when it is done.
fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within ten seconds");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pool_of(driver: &dyn GraphDriver) -> String {
    value(driver, "Pool Name")
}

fn value(driver: &dyn GraphDriver, name: &str) -> String {
    let status = driver.status();
    status.iter().find(|(line, _)| line == name).unwrap_or_else(|| panic!("{name}: {status:?}")).1.clone()
}

/// The devices of this pool that are there, and the pool.
fn active(pool: &str) -> Vec<String> {
    let prefix = pool.strip_suffix("pool").unwrap();
    let devices = Control::open().unwrap().list().unwrap();
    devices.into_iter().map(|(name, _)| name).filter(|name| name.starts_with(prefix)).collect()
}

/// The numbers of devices that the pool has.
fn in_pool(pool: &str) -> Vec<u32> {
    let control = Control::open().unwrap();
    let number = control.info(pool).unwrap().unwrap().number;
    let name = format!("{pool}-look");
    control.create(&name).unwrap();
    let has = |id: &u32| {
        let thin = Thin { name: name.clone(), pool: number, id: *id, sectors: 8 };
        control.load(&name, &[thin.target()], true).is_ok()
    };
    let found = (0..200).filter(has).collect();
    control.remove(&name).unwrap();
    found
}

/// The numbers that the driver's directories name, and the base device's.
fn named(root: &Path) -> Vec<u32> {
    let mut ids = vec![0];
    for part in ["layers", "drafts", "trash"] {
        for entry in fs::read_dir(root.join("devmapper").join(part)).unwrap() {
            let note = fs::read_to_string(entry.unwrap().path().join("device")).unwrap();
            ids.push(note.split(' ').next().unwrap().parse().unwrap());
        }
    }
    ids.sort_unstable();
    ids
}

/// Bytes of a mounted file system.
fn file_system(mounted: &Mounted) -> u64 {
    let stat = rustix::fs::fstatvfs(&mounted.0).unwrap();
    stat.f_blocks * stat.f_frsize
}

fn device(driver: &dyn GraphDriver, id: &str) -> Box<DeviceMount> {
    let RootMount::Device(device) = driver.mount(id, false).unwrap() else { panic!("no device") };
    device
}

#[test]
fn a_kernel_without_device_mapper_is_said_and_nothing_is_left_behind() {
    if Control::open().is_ok() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let error = open(root.path(), "devmapper", &[]).err().unwrap();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("the kernel has no device mapper: load its module dm_mod"), "{error}");
    let error = open(root.path(), "devmapper", &["dm.nonsense=1"]).err().unwrap();
    assert!(error.to_string().contains("dm.nonsense=1"), "{error}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn devices_are_there_only_while_they_are_mounted_and_the_pool_while_somebody_needs_it() {
    if !can_test("devmapper") {
        return;
    }
    let bench = Bench::new("devmapper");
    let pool = pool_of(&*bench.driver);
    bench.layer("base", None, &base().0).unwrap();
    bench.driver.create_writable("web", Some("base"), None).unwrap();
    soon("only the pool", || active(&pool) == [pool.clone()]);
    let mounted = bench.mount("web", false);
    let shared = bench.mount("web", true);
    assert_eq!(active(&pool).len(), 2);
    fs::write(mounted.at("new"), "seen").unwrap();
    assert_eq!(shared.read("new"), "seen", "it is one file system");
    assert!(fs::write(shared.at("new"), "").is_err(), "this mount of it is read-only");
    assert!(fs::write(bench.mount("base", false).at("new"), "").is_err(), "a layer is");
    let root = bench.root.path().join("devmapper");
    // The daemon dies while the container runs.
    let Bench { driver, root: _kept } = bench;
    drop(driver);
    drop(shared);
    soon("the container's device, and no layer's", || active(&pool).len() == 2);
    assert_eq!(mounted.read("etc/one"), "one");
    let driver = open(_kept.path(), "devmapper", &[]).unwrap();
    assert_eq!(driver.changes("web").unwrap().len(), 1);
    drop(driver);
    drop(mounted);
    soon("nothing is left", || active(&pool).is_empty());
    soon("no loop device is left", || loops::showing(&root.join("data")).unwrap().is_none());
}

#[test]
fn a_full_pool_is_a_clear_error_and_loses_nothing() {
    // An empty xfs has a log of 64 MiB.
    for (name, data) in [("devmapper", "96m"), ("devmapper_xfs", "160m")] {
        if !can_test(name) {
            continue;
        }
        let options = [&*format!("dm.loopdatasize={data}"), "dm.loopmetadatasize=8m", "dm.min_free_space=10%"];
        let bench = Bench::with(name, &options);
        bench.layer("base", None, &base().0).unwrap();
        // More than the pool has, by a layer.
        let large = vec![b'x'; 24 << 20];
        let entry =
            |archive: Archive, n: u32| archive.entry(tar::EntryType::Regular, &format!("{n}"), "", &large, 0o644);
        let archive = (0..5).fold(Archive::default(), entry);
        let error = bench.layer("large", Some("base"), &archive.0).unwrap_err();
        assert!(matches!(error, Error::NoRoom { .. }), "{error}");
        assert!(error.to_string().contains("remove images or containers"), "{error}");
        bench.driver.remove("large").unwrap();
        bench.driver.sweep(true).unwrap();
        assert_eq!(bench.driver.list().unwrap(), ["base"]);
        // And by a container.
        let mounted = bench.writable("web", "base");
        let filled = (0..8).try_for_each(|n| {
            fs::write(mounted.at(&format!("{n}")), &large)?;
            fs::File::open(mounted.at(&format!("{n}")))?.sync_all()
        });
        assert!(filled.is_err());
        let error = bench.driver.create_writable("next", Some("base"), None).unwrap_err();
        assert!(matches!(error, Error::NoRoom { .. }), "{error}");
        assert!(!bench.driver.exists("next"));
        assert_eq!(bench.mount("base", true).read("etc/one"), "one");
        assert!(bench.diff("base") == base().0);
        drop(mounted);
        bench.driver.remove("web").unwrap();
        bench.driver.sweep(false).unwrap();
        let mounted = bench.writable("next", "base");
        fs::write(mounted.at("new"), "new").unwrap();
        assert_eq!(bench.changes("next").len(), 1);
        drop(mounted);
        // The next daemon finds the pool as it should be.
        let bench = bench.again(name, &options);
        assert_eq!(bench.mount("next", false).read("new"), "new");
        assert_eq!(in_pool(&pool_of(&*bench.driver)), named(bench.root.path()));
    }
}

#[test]
fn what_is_removed_while_it_is_mounted_goes_with_the_first_sweep_after() {
    if !can_test("devmapper") {
        return;
    }
    let bench = Bench::new("devmapper");
    bench.layer("base", None, &base().0).unwrap();
    let mounted = bench.writable("web", "base");
    bench.driver.remove("web").unwrap();
    assert!(!bench.driver.exists("web"));
    bench.driver.sweep(false).unwrap();
    assert_eq!(mounted.read("etc/one"), "one");
    assert_eq!(named(bench.root.path()).len(), 3, "its device is still known");
    drop(mounted);
    bench.driver.sweep(false).unwrap();
    assert_eq!(named(bench.root.path()).len(), 2);
    assert_eq!(in_pool(&pool_of(&*bench.driver)), named(bench.root.path()));
}

#[test]
fn what_a_layer_had_comes_back_to_the_disk() {
    if !can_test("devmapper") {
        return;
    }
    let bench = Bench::new("devmapper");
    let data = bench.root.path().join("devmapper/data");
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&data).unwrap()) * SECTOR;
    let empty = blocks();
    let large = vec![b'x'; 32 << 20];
    let archive = Archive::default().entry(tar::EntryType::Regular, "large", "", &large, 0o644);
    bench.layer("large", None, &archive.0).unwrap();
    assert!(blocks() > empty + (32 << 20), "{} {empty}", blocks());
    bench.driver.remove("large").unwrap();
    bench.driver.sweep(false).unwrap();
    assert!(blocks() < empty + (4 << 20), "{} {empty}", blocks());
}

const HOME: &str = "GANTRY_TEST_KILLED_HOME";

#[test]
fn a_daemon_that_is_killed_at_any_moment_leaves_whole_layers_and_no_device_that_nobody_knows() {
    if let Some(home) = std::env::var_os(HOME) {
        let _ = work_until_killed(Path::new(&home));
        return;
    }
    if !can_test("devmapper") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut whole = 0;
    // A slow machine gets more rounds, and longer ones, until something was whole.
    let mut round = 0_u64;
    while round < 12 || (whole == 0 && round < 40) {
        let name = "devices::a_daemon_that_is_killed_at_any_moment_leaves_whole_layers_and_no_device_that_nobody_knows";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([name, "--exact"]).env(HOME, root.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = child.stderr(Stdio::null()).spawn().unwrap();
        // Whenever that is.
        std::thread::sleep(Duration::from_millis(200 + round * 137));
        child.kill().unwrap();
        child.wait().unwrap();
        let driver = open(root.path(), "devmapper", &[]).unwrap();
        driver.sweep(true).unwrap();
        for id in driver.list().unwrap() {
            let mut archive = Vec::new();
            driver.diff(&id, &mut archive).unwrap();
            assert!(id.starts_with("web") || archive == base().0, "{id} is not whole");
            attach(&driver.mount(&id, false).unwrap());
            whole += 1;
        }
        let pool = pool_of(&*driver);
        assert_eq!(in_pool(&pool), named(root.path()), "round {round}");
        drop(driver);
        round += 1;
    }
    assert!(whole > 0, "nothing was made in any round");
}

/// Makes and removes layers and containers.
fn work_until_killed(root: &Path) -> Result<(), Error> {
    let driver = open(root, "devmapper", &[])?;
    for round in 0.. {
        let (layer, web) = (format!("layer-{round}"), format!("web-{round}"));
        for id in [&layer, &web] {
            driver.remove(id)?;
        }
        driver.create(&layer, None)?;
        driver.apply(&layer, &mut &*base().0)?;
        driver.commit(&layer)?;
        driver.create_writable(&web, Some(&layer), None)?;
        let mounted = Mounted(attach(&driver.mount(&web, false)?));
        fs::write(mounted.at("new"), "new").unwrap();
        drop(mounted);
        if round > 1 {
            driver.remove(&format!("web-{}", round - 1))?;
            driver.remove(&format!("layer-{}", round - 1))?;
        }
        driver.sweep(false)?;
    }
    Ok(())
}

#[test]
fn a_layer_whose_device_the_pool_lost_is_damaged_and_the_others_are_served() {
    if !can_test("devmapper") {
        return;
    }
    let bench = Bench::new("devmapper");
    bench.layer("base", None, &base().0).unwrap();
    bench.layer("lost", None, &base().0).unwrap();
    let pool = pool_of(&*bench.driver);
    let lost = device(&*bench.driver, "lost");
    soon("it is not mounted", || Control::open().unwrap().message(&pool, &format!("delete {}", lost.thin.id)).is_ok());
    for bench in [bench].into_iter().chain(None) {
        let error = bench.driver.diff("lost", &mut Vec::new()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        let bench = bench.again("devmapper", &[]);
        let error = bench.driver.mount("lost", false).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(bench.diff("base") == base().0);
        bench.driver.remove("lost").unwrap();
        bench.driver.sweep(false).unwrap();
        bench.layer("lost", None, &base().0).unwrap();
        assert!(bench.diff("lost") == base().0);
    }
}

#[test]
fn a_file_that_is_shorter_than_it_was_is_no_archive() {
    if !can_test("devmapper") {
        return;
    }
    let bench = Bench::new("devmapper");
    bench.layer("base", None, &base().0).unwrap();
    let mut written = device(&*bench.driver, "base");
    (written.writable, written.read_only) = (true, false);
    let mounted = Mounted(attach(&RootMount::Device(written)));
    fs::OpenOptions::new().write(true).open(mounted.at("deep/er/file")).unwrap().set_len(1).unwrap();
    drop(mounted);
    assert!(matches!(bench.driver.diff("base", &mut Vec::new()), Err(Error::Damaged { .. })));
}

#[test]
fn a_larger_base_device_is_what_the_next_container_gets() {
    for (name, from, to) in [("devmapper", "256m", "400m"), ("devmapper_xfs", "512m", "700m")] {
        if !can_test(name) {
            continue;
        }
        let bench = Bench::new(name);
        bench.layer("base", None, &base().0).unwrap();
        let small = file_system(&bench.writable("small", "base"));
        let bench = bench.again(name, &[&format!("dm.basesize={to}")]);
        let large = file_system(&bench.writable("large", "base"));
        assert!(large > small + (100 << 20), "{small} {large}");
        let error = open(bench.root.path(), name, &[]).err().unwrap();
        assert!(matches!(error, Error::InUse(_)), "{error}");
        let Bench { driver, root } = bench;
        drop(driver);
        let error = open(root.path(), name, &[&format!("dm.basesize={from}")]).err().unwrap().to_string();
        assert!(error.contains("dm.basesize") && error.contains("does not shrink"), "{error}");
        let other = if name == "devmapper" { "xfs" } else { "ext4" };
        let further = [&*format!("dm.basesize={to}"), &*format!("dm.fs={other}")];
        let error = open(root.path(), name, &further).err().unwrap().to_string();
        assert!(error.contains("dm.fs"), "{error}");
    }
}

#[test]
fn a_containers_limit_is_the_size_of_its_file_system() {
    for (name, limit) in [("devmapper", 300 << 20), ("devmapper_xfs", 600 << 20)] {
        if !can_test(name) {
            continue;
        }
        let bench = Bench::new(name);
        bench.layer("base", None, &base().0).unwrap();
        bench.driver.create_writable("web", Some("base"), Some(limit)).unwrap();
        let mounted = bench.mount("web", false);
        let size = file_system(&mounted);
        assert!(size > limit / 10 * 8 && size <= limit, "{size}");
        assert_eq!(mounted.read("etc/one"), "one");
        // What it is grown by is there.
        let large = fs::File::create(mounted.at("large")).unwrap();
        let reserve = |bytes| rustix::fs::fallocate(&large, rustix::fs::FallocateFlags::empty(), 0, bytes);
        reserve(limit / 10 * 7).unwrap();
        assert_eq!(reserve(limit), Err(rustix::io::Errno::NOSPC));
        drop(mounted);
        let bench = bench.again(name, &[]);
        assert_eq!(file_system(&bench.mount("web", false)), size, "the limit goes with the layer");
        let error = bench.driver.create_writable("small", Some("base"), Some(64 << 20)).unwrap_err();
        assert!(matches!(error, Error::NoLimit { .. }) && error.to_string().contains("does not shrink"), "{error}");
        assert!(!bench.driver.exists("small"));
        assert_eq!(in_pool(&pool_of(&*bench.driver)), named(bench.root.path()));
    }
}

#[test]
fn the_pool_lies_on_block_devices_where_they_are_given_and_may_be_somebody_elses() {
    if !can_test("devmapper") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let below = |name: &str, size: u64| {
        let path = place.path().join(name);
        let file = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        loops::attach(&file, &path).unwrap()
    };
    let (data, metadata) = (below("data", 512 << 20), below("metadata", 16 << 20));
    let path = |device: &loops::Loop| format!("/proc/{}/fd/{}", std::process::id(), device.device.as_raw_fd());
    let options = [format!("dm.datadev={}", path(&data)), format!("dm.metadatadev={}", path(&metadata))];
    let bench = Bench::with("devmapper", &options.each_ref().map(String::as_str));
    bench.layer("base", None, &base().0).unwrap();
    let pool = pool_of(&*bench.driver);
    // Another home in the same pool.
    let own = format!("dm.thinpooldev=/dev/mapper/{pool}");
    let error = open(place.path(), "devmapper", &["dm.thinpooldev=no-such-pool"]).err().unwrap().to_string();
    assert!(error.contains("dm.thinpooldev=no-such-pool"), "{error}");
    // Its devices are not that one's: it has a base device of its own, which the other has already.
    let error = open(place.path(), "devmapper", &[&own]).err().unwrap().to_string();
    assert!(error.contains("another"), "{error}");
    assert!(bench.diff("base") == base().0);
    drop(bench);
    soon("the pool is gone", || active(&pool).is_empty());
}
