//! Where mounts, devices, masks and the console go: never out of the root, never where they could do harm.

use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, OFlags, RenameFlags};

use super::super::{console, devices, masks, streams};
use super::{scene, shown};
use crate::config::{Device, DeviceKind};

fn device(path: &str, kind: DeviceKind, major: u32, minor: u32) -> Device {
    Device { path: path.into(), kind, major, minor, mode: 0o640, uid: 3, gid: 4 }
}

#[test]
fn missing_destinations_are_made_by_the_kind_of_the_source_relative_ones_too() {
    scene(|scene| {
        std::fs::write(scene.host("file"), "text").unwrap();
        scene.mount("deep/down/file", "bind", &scene.host("file"), "bind")?;
        scene.mount("deep/dir", "bind", &scene.host(""), "bind")?;
        assert_eq!(std::fs::read_to_string(scene.inside("deep/down/file")).unwrap(), "text");
        assert!(scene.inside("deep/dir/file").is_file());
        let error = scene.mount("deep/dir", "bind", &scene.host("file"), "bind").unwrap_err();
        assert!(error.to_string().contains("the source is a file and the destination is a directory"), "{error}");
        let error = scene.mount("x", "bind", &scene.host("none"), "bind").unwrap_err();
        assert!(error.to_string().contains("bind source path does not exist"), "{error}");
        assert!(scene.mount("/./..", "tmpfs", Path::new(""), "ro").unwrap_err().to_string().contains("hide the root"));
        Ok(())
    });
}

/// CVE-2021-30465, CVE-2023-28642: destinations that are links.
#[test]
fn links_in_a_destination_end_inside_of_the_root() {
    scene(|scene| {
        let outside = scene.host("outside");
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, scene.inside("absolute")).unwrap();
        symlink("../../host/outside", scene.inside("relative")).unwrap();
        for (place, kind) in [("absolute", "tmpfs"), ("relative/a", "tmpfs"), ("absolute/b", "bind")] {
            scene.mount(place, kind, &scene.host(""), "rw")?;
        }
        let made = device("/absolute/node", DeviceKind::Char, 1, 3);
        devices::make_all(scene.root(), &[made])?;
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert!(shown(&outside).is_none());
        Ok(())
    });
}

/// CVE-2021-30465: the destination's directory is exchanged for a link while it is mounted on.
#[test]
fn a_destination_that_is_swapped_for_a_link_never_leads_outside() {
    scene(|scene| {
        let outside = scene.host("outside");
        std::fs::create_dir_all(outside.join("x")).unwrap();
        std::fs::create_dir_all(scene.inside("v/x")).unwrap();
        symlink(&outside, scene.inside("w")).unwrap();
        let (one, other) = (scene.inside("v"), scene.inside("w"));
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // A directory on which something is mounted is busy for a moment.
                    let _ = rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                }
            });
            for _ in 0..300 {
                // It may fail when its directory goes away beneath it; it must not succeed elsewhere.
                let _ = scene.mount("v/x", "tmpfs", Path::new("tmpfs"), "size=4k");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(shown(&outside).is_none() && shown(&outside.join("x")).is_none());
        let all = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let places = all.lines().filter_map(|line| line.split(' ').nth(4));
        assert_eq!(places.filter(|place| Path::new(place).starts_with(&outside)).count(), 0);
        Ok(())
    });
}

/// CVE-2019-19921, CVE-2023-27561: an image whose /proc or /sys is a link.
#[test]
fn proc_and_sys_are_mounted_on_ordinary_directories_only() {
    scene(|scene| {
        std::fs::create_dir(scene.inside("elsewhere")).unwrap();
        symlink("elsewhere", scene.inside("proc")).unwrap();
        symlink("elsewhere", scene.inside("sys")).unwrap();
        for (kind, destination) in [("proc", "/proc"), ("sysfs", "/sys")] {
            let error = scene.mount(destination, kind, Path::new(kind), "rw").unwrap_err();
            assert!(error.to_string().contains("not an ordinary directory"), "{error}");
        }
        assert!(scene.shown("elsewhere").is_none());
        Ok(())
    });
}

/// CVE-2019-16884, CVE-2025-52881: files of /proc that are not what they seem.
#[test]
fn nothing_is_mounted_inside_of_proc_but_harmless_files() {
    scene(|scene| {
        scene.mount("/proc", "proc", Path::new("proc"), "nosuid")?;
        std::fs::write(scene.host("file"), "text").unwrap();
        symlink("/proc/sys", scene.inside("disguise")).unwrap();
        for place in ["/proc/sys/kernel/core_pattern", "/proc/self/attr/exec", "/disguise/kernel/core_pattern"] {
            let error = scene.mount(place, "bind", &scene.host("file"), "bind").unwrap_err();
            assert!(error.to_string().contains("inside of /proc"), "{place}: {error}");
        }
        for place in ["/proc/sys", "/disguise", "/proc/acpi"] {
            assert!(scene.mount(place, "tmpfs", Path::new("tmpfs"), "rw").is_err(), "{place}");
        }
        scene.mount("/proc/meminfo", "bind", &scene.host("file"), "bind,ro")?;
        assert_eq!(std::fs::read_to_string(scene.inside("proc/meminfo")).unwrap(), "text");
        Ok(())
    });
}

#[test]
fn masked_directories_are_empty_and_masked_files_are_null() {
    scene(|scene| {
        scene.make_directory(&scene.inside("secret/more"));
        scene.make_directory(&scene.inside("other/more"));
        scene.make_directory(&scene.inside("dev"));
        std::fs::write(scene.inside("file"), "secret").unwrap();
        devices::make_all(scene.root(), &[device("/dev/null", DeviceKind::Char, 1, 3)])?;
        let masked = ["/secret", "/other", "/file", "/not/there"].map(str::to_owned);
        masks::mask(scene.root(), &masked)?;
        for directory in ["secret", "other"] {
            assert_eq!(std::fs::read_dir(scene.inside(directory)).unwrap().count(), 0);
            assert!(std::fs::write(scene.inside(directory).join("x"), "").is_err());
        }
        assert_eq!(std::fs::read_to_string(scene.inside("file")).unwrap(), "");
        let devices = ["secret", "other"].map(|path| std::fs::metadata(scene.inside(path)).unwrap().dev());
        assert_eq!(devices[0], devices[1], "one file system is enough");
        Ok(())
    });
}

/// CVE-2025-31133: what the image has as /dev/null would be bound over the masked files, and so be written to.
#[test]
fn a_null_device_that_is_none_masks_nothing_and_stops_the_start() {
    scene(|scene| {
        scene.make_directory(&scene.inside("dev"));
        std::fs::write(scene.inside("file"), "secret").unwrap();
        std::fs::write(scene.inside("target"), "of the link").unwrap();
        let fakes: [&dyn Fn(&Path); 3] =
            [&|path| std::fs::write(path, "").unwrap(), &|path| symlink("/target", path).unwrap(), &|path| {
                rustix::fs::mknodat(
                    CWD,
                    path,
                    rustix::fs::FileType::CharacterDevice,
                    rustix::fs::Mode::RWXU,
                    rustix::fs::makedev(1, 5),
                )
                .unwrap()
            }];
        for fake in fakes {
            fake(&scene.inside("dev/null"));
            let error = masks::mask(scene.root(), &["/file".into()]).unwrap_err();
            assert!(error.to_string().contains("not the null device"), "{error}");
            assert!(streams::open_null(scene.root(), OFlags::RDWR).is_err());
            std::fs::remove_file(scene.inside("dev/null")).unwrap();
        }
        assert!(scene.shown("file").is_none());
        Ok(())
    });
}

/// CVE-2025-52565: a link as /dev/console has the terminal bound over any file, before it is masked.
#[test]
fn a_console_that_is_a_link_is_refused() {
    scene(|scene| {
        scene.make_directory(&scene.inside("dev/pts"));
        scene.mount("/dev/pts", "devpts", Path::new("devpts"), "newinstance,ptmxmode=0666")?;
        std::fs::write(scene.inside("file"), "").unwrap();
        symlink("/file", scene.inside("dev/console")).unwrap();
        let terminal = console::open(scene.root(), None)?;
        let error = console::bind_to_dev_console(scene.root(), &terminal.slave).unwrap_err();
        assert!(error.to_string().contains("/dev/console") && scene.shown("file").is_none(), "{error}");
        std::fs::remove_file(scene.inside("dev/console")).unwrap();
        console::bind_to_dev_console(scene.root(), &terminal.slave)?;
        assert!(std::fs::metadata(scene.inside("dev/console")).unwrap().file_type().is_char_device());
        Ok(())
    });
}

#[test]
fn devices_are_made_with_owner_and_mode_also_outside_of_dev() {
    scene(|scene| {
        let all = [
            device("/dev/loop", DeviceKind::Block, 7, 0),
            device("/opt/deep/zero", DeviceKind::Char, 1, 5),
            device("/run/pipe", DeviceKind::Fifo, 0, 0),
            device("/dev/ptmx", DeviceKind::Char, 5, 2),
        ];
        devices::make_all(scene.root(), &all)?;
        devices::make_all(scene.root(), &all)?;
        devices::make_links(scene.root())?;
        let of = |path: &str| std::fs::symlink_metadata(scene.inside(path)).unwrap();
        assert!(of("dev/loop").file_type().is_block_device() && of("dev/loop").rdev() == rustix::fs::makedev(7, 0));
        assert!(of("opt/deep/zero").file_type().is_char_device() && of("run/pipe").file_type().is_fifo());
        assert_eq!((of("opt/deep/zero").uid(), of("opt/deep/zero").gid()), (3, 4));
        assert_eq!(std::fs::read_link(scene.inside("dev/ptmx")).unwrap(), Path::new("pts/ptmx"));
        let error = devices::make_all(scene.root(), &[device("/dev/loop", DeviceKind::Char, 7, 0)]).unwrap_err();
        assert!(error.to_string().contains("something else is there"), "{error}");
        Ok(())
    });
}

/// As in a user namespace, where nobody has this capability: it is the thread's own here.
#[test]
fn where_devices_cannot_be_made_the_hosts_nodes_appear() {
    scene(|scene| {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::MKNOD);
        set_capabilities(None, sets).unwrap();
        let null = device("/dev/null", DeviceKind::Char, 1, 3);
        devices::make_all(scene.root(), std::slice::from_ref(&null))?;
        assert!(scene.shown("dev/null").is_some());
        let seen = std::fs::metadata(scene.inside("dev/null")).unwrap();
        assert_eq!((seen.rdev(), seen.uid()), (rustix::fs::makedev(1, 3), 0));
        let error = devices::make_all(scene.root(), &[device("/dev/zero", DeviceKind::Char, 1, 3)]).unwrap_err();
        assert!(error.to_string().contains("is another one"), "{error}");
        Ok(())
    });
}
