//! What each option of a mount does, as the kernel shows it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, Gid, Mode, Uid, XattrFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

use super::super::{masks, mounts};
use super::{Scene, scene, shown};
use crate::config::{Config, IdMapping, MountKind, Namespace, Namespaces};
use crate::oci;

/// Option, how mountinfo shows it, the option that takes it back.
const ATTRIBUTES: [(&str, &str, &str); 8] = [
    ("ro", "ro", "rw"),
    ("nosuid", "nosuid", "suid"),
    ("nodev", "nodev", "dev"),
    ("noexec", "noexec", "exec"),
    ("noatime", "noatime", "atime"),
    ("nodiratime", "nodiratime", "diratime"),
    ("nosymfollow", "nosymfollow", "symfollow"),
    ("relatime", "relatime", "strictatime"),
];

fn has(path: &Path, option: &str) -> bool {
    shown(path).unwrap_or_else(|| panic!("nothing is mounted on {}", path.display())).0.iter().any(|o| o == option)
}

fn plain_tmpfs(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    mount("tmpfs", path, "tmpfs", MountFlags::empty(), None).unwrap();
}

/// `host/tree` is a mount, `host/tree/sub` another one.
fn tree(scene: &Scene) -> std::path::PathBuf {
    plain_tmpfs(&scene.host("tree"));
    plain_tmpfs(&scene.host("tree/sub"));
    scene.host("tree")
}

#[test]
fn each_attribute_is_seen_on_file_systems_and_binds_and_can_be_taken_back() {
    scene(|scene| {
        let source = tree(scene);
        for (set, shown, clear) in ATTRIBUTES {
            scene.mount("t", "tmpfs", Path::new("tmpfs"), set)?;
            assert!(has(&scene.inside("t"), shown), "tmpfs {set}");
            scene.mount("t", "", Path::new(""), &format!("remount,bind,{clear}"))?;
            assert!(!has(&scene.inside("t"), shown), "remount {clear}");
            scene.mount("b", "none", &source, &format!("rbind,{set}"))?;
            assert!(has(&scene.inside("b"), shown), "bind {set}");
            assert!(set == "relatime" || !has(&scene.inside("b/sub"), shown), "{set} went down");
            scene.mount("c", "none", &scene.inside("b"), &format!("rbind,{clear}"))?;
            assert!(!has(&scene.inside("c"), shown), "bind {clear}");
        }
        Ok(())
    });
}

#[test]
fn each_recursive_attribute_reaches_the_mounts_below_and_can_be_taken_back() {
    scene(|scene| {
        let source = tree(scene);
        for (set, shown, clear) in ATTRIBUTES {
            scene.mount("b", "bind", &source, &format!("rbind,r{set}"))?;
            assert!(has(&scene.inside("b"), shown) && has(&scene.inside("b/sub"), shown), "r{set}");
            scene.mount("c", "bind", &scene.inside("b"), &format!("rbind,r{clear}"))?;
            assert!(!has(&scene.inside("c"), shown) && !has(&scene.inside("c/sub"), shown), "r{clear}");
        }
        scene.mount("d", "bind", &source, "bind")?;
        assert!(scene.shown("d/sub").is_none(), "a plain bind took the mounts below");
        Ok(())
    });
}

#[test]
fn flags_and_options_of_the_file_system_are_seen() {
    scene(|scene| {
        for flag in ["sync", "dirsync", "lazytime", "size=4k", "mode=711", "nr_inodes=9"] {
            scene.mount("t", "tmpfs", Path::new("tmpfs"), flag)?;
            let options = scene.shown("t").unwrap().2;
            assert!(options.iter().any(|option| option == flag), "{flag}: {options:?}");
        }
        scene.mount("t", "", Path::new(""), "remount,size=64k,noexec")?;
        assert!(scene.shown("t").unwrap().2.contains(&"size=64k".to_owned()) && has(&scene.inside("t"), "noexec"));
        let warnings = scene.mount("t", "tmpfs", Path::new("tmpfs"), "silent,iversion,defaults")?;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        let error = scene.mount("t", "tmpfs", Path::new("tmpfs"), "nonsense").unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        let error = scene.mount("nothing", "", Path::new(""), "remount,ro").unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
        std::fs::create_dir(scene.inside("plain")).unwrap();
        let error = scene.mount("plain", "", Path::new(""), "remount,ro").unwrap_err();
        assert!(error.to_string().contains("nothing is mounted there"), "{error}");
        Ok(())
    });
}

#[test]
fn every_kind_of_file_system_is_mounted() {
    scene(|scene| {
        for kind in ["proc", "sysfs", "tmpfs", "mqueue", "devpts"] {
            scene.mount(kind, kind, Path::new(kind), "nosuid,noexec")?;
            assert!(has(&scene.inside(kind), "nosuid"), "{kind}");
        }
        for layer in ["low", "high"] {
            std::fs::create_dir(scene.host(layer)).unwrap();
            std::fs::write(scene.host(layer).join(layer), "").unwrap();
        }
        let layers = format!("lowerdir={}:{}", scene.host("high").display(), scene.host("low").display());
        scene.mount("o", "overlay", Path::new("overlay"), &layers)?;
        assert!(scene.inside("o/low").exists() && scene.inside("o/high").exists());
        Ok(())
    });
}

#[test]
fn mount_events_pass_as_it_was_asked() {
    // Option, whether the host's mounts arrive in the container, whether the container's arrive at the host.
    let table = [
        ("rprivate", false, false),
        ("rslave", true, false),
        ("rshared", true, true),
        ("slave", true, false),
        ("", false, false),
    ];
    scene(|scene| {
        for (option, down, up) in table {
            let source = scene.host(&format!("source-{option}"));
            plain_tmpfs(&source);
            mount_change(&source, MountPropagationFlags::SHARED).unwrap();
            for name in ["from-host", "from-container"] {
                std::fs::create_dir(source.join(name)).unwrap();
            }
            let place = format!("p-{option}");
            scene.mount(&place, "bind", &source, &format!("rbind,{option}"))?;
            plain_tmpfs(&source.join("from-host"));
            plain_tmpfs(&scene.inside(&place).join("from-container"));
            assert_eq!(shown(&scene.inside(&place).join("from-host")).is_some(), down, "{option}: down");
            assert_eq!(shown(&source.join("from-container")).is_some(), up, "{option}: up");
        }
        scene.mount("u", "tmpfs", Path::new("tmpfs"), "unbindable")?;
        assert_eq!(scene.shown("u").unwrap().1, "unbindable");
        scene.mount("s", "tmpfs", Path::new("tmpfs"), "shared")?;
        assert!(scene.shown("s").unwrap().1.starts_with("shared:"));
        scene.mount("both", "bind", &scene.inside("s"), "bind,slave,shared")?;
        let both = scene.shown("both").unwrap().1;
        assert!(both.contains("master:") && both.contains("shared:"), "{both}");
        Ok(())
    });
}

fn mapped(destination: &str, kind: &str, source: &Path, options: &str) -> oci::Mount {
    let range = |host_id| vec![oci::IdMapping { container_id: 0, host_id, size: 1000 }];
    oci::Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.to_str().unwrap().into(),
        options: options.split(',').map(str::to_owned).collect(),
        uid_mappings: range(100_000),
        gid_mappings: range(200_000),
    }
}

/// Before 6.3 a tmpfs takes no id mappings.
fn tmpfs_can_be_mapped() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let can = (numbers.next(), numbers.next()) >= (Some(6), Some(3));
    if !can {
        crate::skipped("id mappings of a tmpfs: this kernel is older than 6.3");
    }
    can
}

#[test]
fn owners_are_shifted_in_idmapped_mounts() {
    if !tmpfs_can_be_mapped() {
        return;
    }
    let owner = |path: std::path::PathBuf| {
        let of = std::fs::metadata(path).unwrap();
        (of.uid(), of.gid())
    };
    scene(|scene| {
        let source = tree(scene);
        for file in ["a", "sub/b"] {
            std::fs::write(source.join(file), "").unwrap();
        }
        scene.mount_all(&[
            mapped("one", "bind", &source, "rbind,idmap"),
            mapped("all", "bind", &source, "rbind,ridmap"),
        ])?;
        assert_eq!(owner(scene.inside("one/a")), (100_000, 200_000));
        assert_eq!(owner(scene.inside("one/sub/b")), (0, 0));
        assert_eq!(owner(scene.inside("all/sub/b")), (100_000, 200_000));
        assert_eq!(owner(source.join("a")), (0, 0));
        scene.mount_all(&[mapped("t", "tmpfs", Path::new("tmpfs"), "mode=755")])?;
        assert_eq!(owner(scene.inside("t")), (100_000, 200_000));
        let error = scene.mount_all(&[mapped("p", "proc", Path::new("proc"), "idmap")]).unwrap_err().to_string();
        assert!(error.contains("leave the mapping out"), "{error}");
        Ok(())
    });
}

#[test]
fn a_mapping_without_ranges_is_that_of_the_user_namespace() {
    scene(|scene| {
        std::fs::write(scene.host("a"), "").unwrap();
        let given = oci::Mount {
            uid_mappings: vec![],
            gid_mappings: vec![],
            ..mapped("m", "bind", &scene.host(""), "bind,idmap")
        };
        let mounts = oci::convert_mounts(&[given], Path::new("/"), &mut Vec::new())?;
        let range = vec![IdMapping { inside: 0, outside: 7000, count: 10 }];
        let namespaces = Namespaces { user: Namespace::New, ..Namespaces::default() };
        let config =
            Config { mounts, uid_mappings: range.clone(), gid_mappings: range, namespaces, ..Config::default() };
        scene.mount_config(&config)?;
        assert_eq!(std::fs::metadata(scene.inside("m/a")).unwrap().uid(), 7000);
        let error = scene.mount_config(&Config { mounts: config.mounts, ..Config::default() }).unwrap_err();
        assert!(error.to_string().contains("needs a user namespace"), "{error}");
        Ok(())
    });
}

#[test]
fn a_tmpfs_begins_with_a_copy_of_what_it_covers() {
    scene(|scene| {
        std::fs::create_dir_all(scene.inside("var/deep")).unwrap();
        std::fs::write(scene.inside("var/deep/file"), "text").unwrap();
        std::fs::set_permissions(scene.inside("var/deep/file"), std::fs::Permissions::from_mode(0o4711)).unwrap();
        std::fs::set_permissions(scene.inside("var"), std::fs::Permissions::from_mode(0o2750)).unwrap();
        symlink("/etc/passwd", scene.inside("var/link")).unwrap();
        rustix::fs::mknodat(CWD, scene.inside("var/pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let owner = (Some(Uid::from_raw(5)), Some(Gid::from_raw(6)));
        rustix::fs::chown(scene.inside("var/deep"), owner.0, owner.1).unwrap();
        rustix::fs::setxattr(scene.inside("var/deep/file"), "trusted.mark", b"1", XattrFlags::empty()).unwrap();
        scene.mount("/var", "tmpfs", Path::new("tmpfs"), "tmpcopyup,ro")?;
        assert!(has(&scene.inside("var"), "ro"));
        let file = std::fs::metadata(scene.inside("var/deep/file")).unwrap();
        assert_eq!(file.mode() & 0o7777, 0o4711);
        assert_eq!(std::fs::read_to_string(scene.inside("var/deep/file")).unwrap(), "text");
        assert_eq!(std::fs::read_link(scene.inside("var/link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(std::fs::metadata(scene.inside("var/deep")).unwrap().uid(), 5);
        assert_eq!(std::fs::metadata(scene.inside("var")).unwrap().mode() & 0o7777, 0o2750);
        let mut value = [0u8; 8];
        let length = rustix::fs::getxattr(scene.inside("var/deep/file"), "trusted.mark", &mut value).unwrap();
        assert_eq!(&value[..length], b"1");
        Ok(())
    });
}

#[test]
fn a_tmpfs_takes_the_mode_of_what_it_covers_unless_one_is_given() {
    scene(|scene| {
        std::fs::create_dir(scene.inside("tmp")).unwrap();
        std::fs::set_permissions(scene.inside("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        for (destination, options, mode) in [("tmp", "rw", 0o1777), ("new", "rw", 0o755), ("given", "mode=700", 0o700)]
        {
            scene.mount(destination, "tmpfs", Path::new("tmpfs"), options)?;
            assert_eq!(std::fs::metadata(scene.inside(destination)).unwrap().mode() & 0o7777, mode, "{destination}");
        }
        Ok(())
    });
}

#[test]
fn read_only_paths_keep_their_other_attributes_and_reach_what_is_below() {
    scene(|scene| {
        let source = tree(scene);
        scene.mount("b", "bind", &source, "rbind,nosuid,nodev,noexec,noatime")?;
        std::fs::create_dir(scene.inside("b/config")).unwrap();
        masks::make_read_only(scene.root(), &["/b".into(), "/b/config".into(), "/not/there".into()])?;
        for option in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
            assert!(has(&scene.inside("b"), option), "{option}");
            assert!(has(&scene.inside("b/config"), option), "config {option}");
        }
        assert!(has(&scene.inside("b/sub"), "ro"));
        Ok(())
    });
}

#[test]
fn a_cgroup_v2_view_is_mounted_as_a_whole_and_read_only() {
    scene(|scene| {
        std::fs::create_dir(scene.host("own")).unwrap();
        let mounts = oci::convert_mounts(
            &[oci::Mount {
                destination: "/c".into(),
                kind: "cgroup2".into(),
                options: vec!["ro".into()],
                ..oci::Mount::default()
            }],
            Path::new("/"),
            &mut Vec::new(),
        )?;
        let config = Config { mounts, ..Config::default() };
        assert_eq!(config.mounts[0].kind, MountKind::Cgroup);
        let view = mounts::CgroupView { names: vec![], path: scene.host("own") };
        mounts::mount_all(scene.root(), &config, &mounts::Sources::default(), &[view])?;
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(has(&scene.inside("c"), option), "{option}");
        }
        mount_bind(scene.host("own"), scene.host("own")).unwrap();
        Ok(())
    });
}
