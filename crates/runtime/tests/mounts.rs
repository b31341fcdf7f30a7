//! Where mounts are made, in what order, and that they are gone afterwards.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use std::path::Path;

use common::World;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

/// The mount points at and below a directory, as the kernel lists them for this process.
fn mounts_below(directory: &Path) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
    let points = all.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(directory)).map(str::to_owned).collect()
}

fn without_namespaces(config: &mut Value, kinds: &[&str]) {
    let listed = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    listed.retain(|namespace| !kinds.contains(&namespace["type"].as_str().expect("a type")));
}

#[test]
fn the_kernel_lists_mounts_in_the_order_of_the_configuration() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["cat", "/proc/self/mountinfo"]);
    let host = world.path().join("host");
    std::fs::create_dir(&host).unwrap();
    let bind = |to: &str, kind: &str| json!({"destination": to, "source": host, "options": ["bind", kind]});
    let tmpfs = |to: &str| json!({"destination": to, "type": "tmpfs", "source": "tmpfs"});
    world.configure(|config| {
        let more =
            [bind("/m/a", "private"), tmpfs("/m/b"), bind("/m/c", "shared"), tmpfs("/m/c/d"), bind("/m/e", "slave")];
        config["mounts"].as_array_mut().unwrap().extend(more);
    });
    let ran = world.command(&["run", &id]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let listed: Vec<&str> = ran.out.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    let place =
        |point: &str| listed.iter().position(|listed| *listed == point).unwrap_or_else(|| panic!("{point}: {ran:?}"));
    let order = ["/", "/proc", "/dev", "/dev/pts", "/m/a", "/m/b", "/m/c", "/m/c/d", "/m/e"].map(place);
    assert!(order.is_sorted(), "{order:?} {}", ran.out);
}

#[test]
fn a_bind_that_is_shared_passes_mounts_on_to_the_host() {
    let mut world = World::new();
    let id = world.id();
    let host = world.path().join("host");
    std::fs::create_dir_all(host.join("sub")).unwrap();
    mount(&host, &host, "", MountFlags::BIND, c"").unwrap();
    rustix::mount::mount_change(&host, rustix::mount::MountPropagationFlags::SHARED).unwrap();
    world.shell("mount -t tmpfs inside /m/sub && echo mounted; sleep 600");
    world.configure(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/m", "source": host, "options": ["rbind", "rshared"]}));
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
    });
    let created = world.command(&["create", &id]);
    assert_eq!(created.code, 0, "{created:?}");
    world.ok(&["start", &id]);
    gantry_tests::eventually("the program mounts", || created.out_now() == "mounted\n");
    let seen = mounts_below(&host.join("sub")).len();
    world.ok(&["delete", "--force", &id]);
    unmount(&host, UnmountFlags::DETACH).unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn a_container_without_a_mount_namespace_has_a_root_of_its_own_and_leaves_no_mount() {
    let mut world = World::new();
    let rootfs = world.bundle().join("rootfs");
    // As engines do: the root is a mount already, and that one is theirs.
    mount("engine", &rootfs, "tmpfs", MountFlags::empty(), c"").unwrap();
    std::fs::create_dir_all(rootfs.join("bin")).unwrap();
    common::copy_program(Path::new("/bin/busybox"), &rootfs.join("bin/busybox"));
    for name in ["sh", "ls", "sleep", "cat"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
    world.shell("ls -d /proc/1 /nonesuch /root /bin 2>&1; exec sleep 600");
    world.configure(|config| {
        without_namespaces(config, &["mount"]);
        config["root"]["readonly"] = json!(false);
    });
    let id = world.id();
    let created = world.command(&["create", &id]);
    assert_eq!(created.code, 0, "{created:?}");
    world.ok(&["start", &id]);
    gantry_tests::eventually("the program writes", || created.out_now().contains("/bin\n"));
    assert!(created.out_now().contains("ls: /root: No such"), "{created:?}");
    let pid = world.state(&id)["pid"].to_string();
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_eq!(namespace(&pid), namespace("self"));
    assert!(mounts_below(&rootfs.join("proc")).len() > 1, "its /proc, and what is masked in it");
    let inside = world.ok(&["exec", &id, "ls", "/"]);
    assert_eq!(
        inside.split_whitespace().collect::<Vec<_>>(),
        ["bin", "dev", "proc", "sys"],
        "an exec has that root too"
    );
    world.ok(&["delete", "--force", &id]);
    let left = mounts_below(&rootfs);
    unmount(&rootfs, UnmountFlags::DETACH).unwrap();
    assert_eq!(left.len(), 1, "the engine's mount stays, alone: {left:?}");
}

#[test]
fn a_container_that_cannot_be_created_in_the_callers_mount_namespace_leaves_no_mount() {
    let mut world = World::new();
    let id = world.id();
    world.configure(|config| {
        without_namespaces(config, &["mount"]);
        config["mounts"].as_array_mut().unwrap().push(json!({"destination": "/x", "type": "nonesuch", "source": "x"}));
    });
    let refused = world.command(&["create", &id]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(mounts_below(&world.bundle()), [""; 0]);
}

#[test]
fn a_container_without_any_namespace_of_its_own_can_be_executed_into() {
    let mut world = World::new();
    world.program(&["sleep", "600"]);
    world.configure(|config| {
        config["linux"]["namespaces"] = json!([]);
        config["hostname"] = json!("");
    });
    let id = world.id();
    world.ok(&["create", &id]);
    world.ok(&["start", &id]);
    let seen = world.ok(&["exec", &id, "sh", "-c", "ls -d /root; ls /bin/busybox; readlink /proc/self/ns/net"]);
    let net = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(seen, format!("/bin/busybox\n{net}\n"));
    world.ok(&["delete", "--force", &id]);
    assert_eq!(mounts_below(&world.bundle()), [""; 0]);
}
