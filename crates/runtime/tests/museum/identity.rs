//! Who a program is and what it may do.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::common::World;
use crate::{inside, run, run_line};

const NONE: &str = "0000000000000000";

/// CVE-2016-8867: what a user other than root was given stays with every program that he executes. CVE-2022-24769 and
/// CVE-2022-29162: inheritable ones are given to whoever executes a file that has them.
#[test]
fn a_user_other_than_root_has_no_capability_and_nobody_an_ambient_one() {
    let mut world = World::new();
    let given = ["CAP_CHOWN", "CAP_NET_RAW"];
    for set in ["bounding", "effective", "permitted"] {
        world.configure(|config| config["process"]["capabilities"][set] = json!(given));
    }
    let both = "0000000000002001";
    for (uid, had) in [(0, both), (1000, NONE)] {
        world.configure(|config| config["process"]["user"] = json!({"uid": uid, "gid": uid}));
        let ran = run_line(&mut world, "grep Cap /proc/self/status");
        let expected = format!("CapInh:\t{NONE}\nCapPrm:\t{had}\nCapEff:\t{had}\nCapBnd:\t{both}\nCapAmb:\t{NONE}\n");
        assert_eq!(ran.out, expected, "{uid}: {ran:?}");
    }
}

/// A program of root's with the set-uid bit gives nothing.
#[cfg(target_arch = "x86_64")]
#[test]
fn no_program_gives_more_privileges_than_were_given() {
    use gantry_tests::elf::{self, Entry};
    const GETEUID: u32 = 107;
    let mut world = World::new();
    let program = inside(&world, "bin/geteuid");
    std::fs::write(&program, elf::program(Entry::Long, GETEUID, &[], &[])).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    world.configure(|config| config["process"]["user"] = json!({"uid": 1000, "gid": 1000}));
    world.program(&["geteuid"]);
    assert_eq!(run(&mut world).code, 1000 & 0xff);
    world.configure(|config| config["process"]["noNewPrivileges"] = json!(false));
    assert_eq!(run(&mut world).code, 0, "without the protection it does");
}

/// CVE-2024-40635, CVE-2026-46680: a number that is none becomes root.
#[test]
fn a_user_id_that_is_none_is_an_error_and_never_root() {
    let mut world = World::new();
    let id = world.sleeping();
    for text in ["4294967296", "4294967295", "-1", "99999999999999999999999", "1:4294967296", "1:-1", "1:4294967295"] {
        let ran = world.command(&["exec", "-u", text, &id, "id"]);
        assert!(ran.code == 255 && ran.out.is_empty(), "{text}: {ran:?}");
    }
    world.program(&["id"]);
    for user in [r#"{"uid": 4294967296, "gid": 1}"#, r#"{"uid": -1, "gid": 1}"#, r#"{"uid": 1, "gid": 4294967295}"#] {
        let user: serde_json::Value = serde_json::from_str(user).unwrap();
        world.configure(|config| config["process"]["user"] = user.clone());
        let ran = run(&mut world);
        assert!(ran.code == 1 && ran.out.is_empty(), "{user}: {ran:?}");
    }
}

/// CVE-2026-47262: the whole file is read into memory.
#[test]
fn a_passwd_file_of_a_gigabyte_costs_no_memory() {
    let mut world = World::new();
    std::fs::File::create(inside(&world, "etc/passwd")).unwrap().set_len(1 << 30).unwrap();
    world.configure(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
        config["process"]["user"] = json!({"uid": 7, "gid": 7});
    });
    let ran = run_line(&mut world, "echo $HOME");
    assert_eq!(ran.out, "/\n", "{ran:?}");
    let id = world.sleeping();
    assert_eq!(world.ok(&["exec", "-u", "8", &id, "sh", "-c", "echo $HOME"]), "/\n");
}
