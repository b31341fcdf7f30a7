//! A daemon that dies leaves its containers running and is told by the next driver how they ended; nothing leaks.

use crate::common::{Rig, client, eventually, exec, process};
use gantry_execdriver::Error;

#[test]
fn the_next_driver_takes_running_containers_up() {
    let Some(mut rig) = Rig::new() else { return };
    let config = rig.config("echo before; trap 'echo after; exit 6' TERM; while :; do sleep 0.01; done");
    let first = rig.start(&config);
    let pid = first.pid();
    drop(first);
    rig.driver = None;
    rig.driver = Some(rig.new_driver());
    assert_eq!(rig.driver().list().unwrap(), std::slice::from_ref(&config.id));
    let again = rig.driver().restore(&config.id).unwrap();
    assert_eq!(again.pid(), pid);
    assert_eq!(exec(&*again, "e", process(&["hostname"])).unwrap().1, "box\n");
    let (mut stream, attach) = client(false);
    again.attach(attach).unwrap();
    again.signal(15).unwrap();
    assert_eq!(crate::common::read_frames(&mut stream).0, "after\n");
    let exit = again.wait().unwrap();
    assert_eq!(exit.code, 6);
    assert_eq!(rig.output(&config), "before\nafter\n");
    assert_eq!(rig.driver().last_exit(&config.id).unwrap(), Some(exit));
    assert!(matches!(rig.driver().restore(&config.id).map(drop), Err(Error::NotFound(_))));
}

#[test]
fn a_driver_of_the_other_kind_takes_running_containers_up() {
    let Some(mut rig) = Rig::new() else { return };
    if gantry_execdriver::lxc::Tools::find().is_err() {
        return;
    }
    let other = if crate::DRIVER == "native" { "lxc" } else { "native" };
    let config = rig.config("trap 'exit 9' TERM; while :; do sleep 0.01; done");
    let pid = rig.start(&config).pid();
    rig.driver = None;
    rig.driver = Some(rig.driver_of(other));
    assert_eq!(rig.driver().name(), other);
    let again = rig.driver().restore(&config.id).unwrap();
    assert_eq!(again.pid(), pid);
    assert_eq!(exec(&*again, "e", process(&["hostname"])).unwrap().1, "box\n");
    again.signal(15).unwrap();
    assert_eq!(again.wait().unwrap().code, 9);
    assert_eq!(rig.start(&config).pid(), rig.driver().restore(&config.id).unwrap().pid(), "and starts it again");
    rig.driver().restore(&config.id).unwrap().kill_all().unwrap();
    rig.driver().restore(&config.id).map_or(Ok(()), |running| running.wait().map(drop)).unwrap();
}

#[test]
fn an_exit_that_nobody_listens_to_is_recorded() {
    let Some(mut rig) = Rig::new() else { return };
    let config = rig.config("sleep 0.1; echo said; exit 4");
    rig.start(&config);
    rig.driver = None;
    let exit_file = rig.dir.path().join("run/c").join(&config.id).join("exit");
    eventually("exit record", || exit_file.exists());
    rig.driver = Some(rig.new_driver());
    assert_eq!(rig.driver().last_exit(&config.id).unwrap().unwrap().code, 4);
    assert_eq!(rig.output(&config), "said\n");
}

#[test]
fn two_daemons_may_talk_to_one_supervisor() {
    let Some(rig) = Rig::new() else { return };
    let config = rig.config("exec sleep 60");
    let one = rig.start(&config);
    let two = rig.driver().restore(&config.id).unwrap();
    two.signal(9).unwrap();
    assert_eq!(one.wait().unwrap().code, 137);
    assert_eq!(two.wait().unwrap().code, 137);
}

#[test]
fn a_killed_supervisor_takes_its_container_with_it_and_is_cleaned_up() {
    let Some(rig) = Rig::new() else { return };
    let config = rig.config("exec sleep 60");
    let container = rig.start(&config);
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    let parent: i32 = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    let parent = rustix::process::Pid::from_raw(parent).unwrap();
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
    assert_eq!(container.wait().unwrap().code, 137);
    eventually("dead", || std::fs::metadata(format!("/proc/{}", container.pid())).is_err());
    assert!(matches!(rig.driver().restore(&config.id).map(drop), Err(Error::NotFound(_))));
    rig.driver().forget(&config.id).unwrap();
    assert!(rig.driver().list().unwrap().is_empty());
}
