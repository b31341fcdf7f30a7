//! Mounts as a bundle describes them, seen from inside.
#![allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]

mod common;

use std::path::{Path, PathBuf};

use common::{World, copy_program};
use serde_json::{Value, json};

/// A tmpfs on the host, unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn on(place: PathBuf) -> Self {
        std::fs::create_dir_all(&place).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", place.to_str().unwrap()]);
        Self(place)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().unwrap()]);
    }
}

/// A directory with a tmpfs below it, in which there is a program.
fn tree(world: &World) -> (PathBuf, Tmpfs) {
    let top = world.path().join("tree");
    let below = Tmpfs::on(top.join("below"));
    copy_program(Path::new("/bin/busybox"), &below.0.join("busybox"));
    (top, below)
}

fn run(program: &str, args: &[&str]) {
    assert!(std::process::Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
}

fn mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}

/// The options of each mount at or below `/mnt`, as `/proc/self/mountinfo` has them.
const LOOK: &str = "while read -r a b c d place options rest; do case $place in /mnt*) echo $place $options;; esac; \
                    done < /proc/self/mountinfo";

#[test]
fn attributes_are_of_the_mount_alone_or_of_all_below() {
    let mut world = World::new();
    let (top, _below) = tree(&world);
    let id = world.id();
    let seen = |options: &[&str]| {
        world.shell(LOOK);
        world.configure(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/mnt");
            mount(config, json!({"destination": "/mnt", "type": "bind", "source": top, "options": options}));
        });
        world.ok(&["run", &id])
    };
    let alone = seen(&["rbind", "ro", "nosuid"]);
    let has = |text: &str, place: &str, word: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{place} "))).expect("a mount");
        line[place.len() + 1..].split(',').any(|option| option == word)
    };
    assert!(has(&alone, "/mnt", "ro") && has(&alone, "/mnt", "nosuid"), "{alone}");
    assert!(has(&alone, "/mnt/below", "rw") && !has(&alone, "/mnt/below", "nosuid"), "{alone}");
    let all = ["rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnodiratime", "rnosymfollow"];
    let below = seen(&[&["rbind"][..], &all].concat());
    for place in ["/mnt", "/mnt/below"] {
        for option in all {
            assert!(has(&below, place, &option[1..]), "{option} of {place}: {below}");
        }
    }
    let cleared = seen(&["rbind", "rro", "rw"]);
    assert!(has(&cleared, "/mnt/below", "ro"), "{cleared}");
}

#[test]
fn a_recursive_read_only_bind_cannot_be_written_below_either() {
    let mut world = World::new();
    let (top, _below) = tree(&world);
    let id = world.id();
    world.shell("touch /mnt/x /mnt/below/x 2>&1; /mnt/below/busybox echo runs");
    world.configure(|config| {
        mount(config, json!({"destination": "/mnt", "source": top, "options": ["rbind", "rro"]}));
    });
    let seen = world.ok(&["run", &id]);
    assert_eq!(seen.matches("Read-only file system").count(), 2, "{seen}");
    assert!(seen.ends_with("runs\n"), "{seen}");
}

#[test]
fn a_tmpfs_that_copies_up_has_what_it_covers() {
    let mut world = World::new();
    let id = world.id();
    let covered = world.bundle().join("rootfs/data");
    std::fs::create_dir_all(covered.join("deep")).unwrap();
    std::fs::write(covered.join("deep/file"), "there").unwrap();
    std::os::unix::fs::symlink("deep/file", covered.join("link")).unwrap();
    std::os::unix::fs::chown(covered.join("deep"), Some(7), Some(8)).unwrap();
    world.shell("cat /data/link; stat -c %u:%g /data/deep; echo new > /data/new; stat -f -c %T /data");
    world.configure(|config| {
        mount(config, json!({
            "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m", "mode=750"],
        }));
    });
    assert_eq!(world.ok(&["run", &id]), "there7:8\ntmpfs\n");
    assert!(!covered.join("new").exists());
}

/// What a line of mountinfo must be.
type Look = fn(&str) -> bool;

#[test]
fn the_propagation_of_the_root_is_what_was_asked_for() {
    let mut world = World::new();
    let id = world.id();
    let look = "while read -r a b c d place options rest; do case $place in /) echo \"$rest\";; esac; done \
                < /proc/self/mountinfo";
    let words: [(&str, Look); 9] = [
        ("", |line| !line.contains("shared:")),
        ("private", |line| !line.contains("shared:") && !line.contains("master:")),
        ("rprivate", |line| !line.contains("shared:") && !line.contains("master:")),
        ("slave", |line| !line.contains("shared:")),
        ("rslave", |line| !line.contains("shared:")),
        ("shared", |line| line.contains("shared:")),
        ("rshared", |line| line.contains("shared:")),
        ("unbindable", |line| line.contains("unbindable")),
        ("runbindable", |line| line.contains("unbindable")),
    ];
    for (word, is) in words {
        world.shell(look);
        world.configure(|config| config["linux"]["rootfsPropagation"] = json!(word));
        let line = world.ok(&["run", &id]);
        assert!(!line.is_empty() && is(&line), "{word}: {line}");
    }
    world.configure(|config| config["linux"]["rootfsPropagation"] = json!("sideways"));
    let refused = world.command(&["run", &id]);
    assert!(refused.code == 1 && refused.err.contains("sideways"), "{refused:?}");
}

#[test]
fn a_mount_on_the_host_comes_into_a_slave_and_not_into_a_private_bind() {
    let mut world = World::new();
    let shared = Tmpfs::on(world.path().join("shared"));
    run("mount", &["--make-shared", shared.0.to_str().unwrap()]);
    let mut ids = Vec::new();
    for propagation in ["rslave", "rprivate"] {
        world.configure(|config| {
            config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/mnt");
            mount(config, json!({"destination": "/mnt", "source": shared.0, "options": ["rbind", propagation]}));
        });
        ids.push(world.sleeping());
    }
    let _late = Tmpfs::on(shared.0.join("late"));
    let look = |id: &String| world.command(&["exec", id, "grep", "-c", " /mnt/late ", "/proc/self/mountinfo"]).out;
    let seen: Vec<String> = ids.iter().map(look).collect();
    assert_eq!(seen, ["1\n", "0\n"]);
}

#[test]
fn without_pivot_the_root_is_the_containers_as_well() {
    let mut world = World::new();
    let id = world.id();
    world.shell("ls / | grep -c -e bin -e proc; cat /proc/self/mountinfo | grep -c ' / / '; touch /made-inside");
    world.configure(|config| config["root"]["readonly"] = json!(false));
    let output = world.command(&["run", "--no-pivot", &id]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.out.starts_with("2\n"), "{output:?}");
    assert!(world.bundle().join("rootfs/made-inside").exists());
    world.program(&["sleep", "600"]);
    world.ok(&["run", "-d", "--no-pivot", &id]);
    assert_eq!(world.ok(&["exec", &id, "ls", "/made-inside"]), "/made-inside\n");
}

#[test]
fn a_file_system_with_id_mappings_belongs_to_the_mapped_one() {
    let mut world = World::new();
    let id = world.id();
    world.shell("stat -c %u:%g /mnt; touch /mnt/x; stat -c %u /mnt/x");
    world.configure(|config| {
        let mapping = json!([{"containerID": 100_000, "hostID": 0, "size": 65_536}]);
        mount(config, json!({
            "destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["uid=100007", "gid=100008", "mode=777"],
            "uidMappings": mapping, "gidMappings": mapping,
        }));
    });
    let output = world.command(&["run", &id]);
    assert_eq!((output.code, output.out.as_str()), (0, "7:8\n0\n"), "{output:?}");
}
