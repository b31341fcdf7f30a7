//! How the kernel treats a program: each attribute is read back inside of the container.

use crate::common::{Rig, exec, process};
use gantry_execdriver::Error;
use libcontainer::config::{
    CapSet, Capabilities, CpuAffinity, IoClass, IoPriority, MemoryMode, MemoryPolicy, Personality, Process, Rlimit,
    Scheduler, SchedulerPolicy, User,
};

/// Field of `/proc/self/status` and the value that it is to have.
fn line(name: &str, value: &str) -> String {
    format!("{name}:\t{value}\n")
}

#[test]
fn each_of_five_capability_sets_is_as_configured() {
    let Some(rig) = Rig::new() else { return };
    let set = |names: &[&str]| CapSet::parse(names).unwrap();
    let mut config = rig.config("grep Cap /proc/self/status");
    config.process.user = "web".into();
    config.process.capabilities = Capabilities {
        bounding: set(&["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]),
        effective: set(&["CAP_CHOWN"]),
        permitted: set(&["CAP_CHOWN", "CAP_KILL"]),
        inheritable: set(&["CAP_KILL"]),
        ambient: set(&["CAP_KILL"]),
    };
    let (exit, output) = rig.run(&config);
    // What is ambient is permitted and effective in the program; the rest a user who is not root loses by executing it.
    let expected = [
        line("CapInh", "0000000000000020"),
        line("CapPrm", "0000000000000020"),
        line("CapEff", "0000000000000020"),
        line("CapBnd", "0000000000002021"),
        line("CapAmb", "0000000000000020"),
    ];
    assert_eq!((exit.code, output), (0, expected.concat()));
}

#[test]
fn users_by_id_are_exactly_that_with_their_umask() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("grep -E '^(Uid|Gid|Groups)' /proc/self/status; umask; echo $HOME");
    config.process.user = User::Ids { uid: 1000, gid: 7, additional_gids: vec![8, 9] };
    config.process.umask = Some(0o27);
    let (_, output) = rig.run(&config);
    let expected = "Uid:\t1000\t1000\t1000\t1000\nGid:\t7\t7\t7\t7\nGroups:\t8 9 \n0027\n/home/web\n";
    assert_eq!(output, expected);
}

/// What the kernel says of the first process, from its script; and of an exec with the same attributes.
fn first_and_exec(rig: &Rig, script: &str, change: impl Fn(&mut Process)) -> [String; 2] {
    let mut config = rig.config(script);
    change(&mut config.process);
    let (exit, first) = rig.run(&config);
    assert_eq!(exit.code, 0, "{first}");
    let mut holder = rig.config("read wait");
    holder.id.push_str("-holder");
    let running = rig.start_with(holder, |start| start.open_stdin = true).unwrap();
    let mut further = process(&["sh", "-c", script]);
    change(&mut further);
    let (code, second, error) = exec(&*running, "further", further).unwrap();
    assert_eq!(code, 0, "{second}{error}");
    running.kill_all().unwrap();
    running.wait().unwrap();
    [first, second]
}

#[test]
fn scheduling_affinity_and_memory_are_as_configured() {
    let Some(rig) = Rig::new() else { return };
    // Field 19 of stat is the nice value, 41 the policy.
    let script = "set -- $(cat /proc/self/stat); echo nice ${19} policy ${41}; grep Cpus_allowed_list /proc/self/status; \
                  grep -m1 -o bind:0 /proc/self/numa_maps || true";
    let outputs = first_and_exec(&rig, script, |process| {
        process.scheduler = Some(Scheduler { policy: SchedulerPolicy::Batch, nice: 7, ..Scheduler::default() });
        process.io_priority = Some(IoPriority { class: IoClass::Idle, level: 0 });
        process.cpu_affinity = Some(CpuAffinity { initial: "0".into(), last: "0".into() });
        process.memory_policy = Some(MemoryPolicy {
            mode: MemoryMode::Bind,
            nodes: "0".into(),
            static_nodes: false,
            relative_nodes: false,
            numa_balancing: false,
        });
    });
    let has_numa = std::path::Path::new("/proc/self/numa_maps").exists();
    let memory = if has_numa { "bind:0\n" } else { "" };
    for output in outputs {
        assert_eq!(output, format!("nice 7 policy 3\nCpus_allowed_list:\t0\n{memory}"));
    }
}

#[test]
fn a_personality_is_seen_by_uname() {
    let Some(rig) = Rig::new() else { return };
    for output in first_and_exec(&rig, "uname -m", |process| process.personality = Some(Personality::Linux32)) {
        assert!(["i686\n", "armv8l\n"].contains(&output.as_str()), "{output}");
    }
}

#[test]
fn real_time_and_deadlines_are_as_configured_or_refused_with_the_reason() {
    let Some(rig) = Rig::new() else { return };
    let script = "set -- $(cat /proc/self/stat); echo ${40} ${41}";
    let mut config = rig.config(script);
    config.process.scheduler = Some(Scheduler { policy: SchedulerPolicy::Fifo, priority: 3, ..Scheduler::default() });
    match rig.start_with(config.clone(), |_| ()) {
        Ok(running) => {
            running.wait().unwrap();
            assert_eq!(rig.output(&config), "3 1\n");
        }
        // A group of cgroup v1 without time for real-time tasks refuses them.
        Err(error) => assert!(error.to_string().contains("set scheduler policy 1 priority 3"), "{error}"),
    }
    config.id.push('2');
    config.process.scheduler = Some(Scheduler { policy: SchedulerPolicy::Fifo, ..Scheduler::default() });
    let error = rig.start_with(config, |_| ()).map(drop).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

#[test]
fn a_process_has_the_session_keyring_that_was_asked_for() {
    let Some(rig) = Rig::new() else { return };
    // The keyrings of other containers of the same user are seen there too.
    let script = "cat /proc/keys | grep -o '_ses[.]gantry-suite: empty' | sort -u";
    let outputs = first_and_exec(&rig, script, |process| process.keyring = Some("_ses.gantry-suite".into()));
    for output in outputs {
        assert_eq!(output, "_ses.gantry-suite: empty\n");
    }
}

#[test]
fn a_limit_too_low_to_work_with_keeps_nobody_from_starting() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("ulimit -n; ulimit -f");
    let limit = |name: &str, value| Rlimit { name: name.into(), soft: value, hard: value };
    config.process.rlimits = vec![limit("RLIMIT_NOFILE", 4), limit("RLIMIT_FSIZE", 0)];
    config.init = true;
    let (exit, output) = rig.run(&config);
    assert_eq!((exit.code, output.as_str()), (0, "4\n0\n"));
    config.id.push('2');
    config.process.rlimits.push(limit("RLIMIT_NOFILE", 5));
    let error = rig.start_with(config, |_| ()).map(drop).unwrap_err();
    assert!(error.to_string().contains("given twice"), "{error}");
}

#[test]
fn a_profile_is_never_written_to_what_an_image_has_for_proc() {
    let Some(rig) = Rig::new() else { return };
    if libcontainer::lsm::apparmor::enabled() {
        // There the kernel is asked for the profile itself, in the virtual machine's tests.
        return;
    }
    // CVE-2019-16884: a directory that looks like procfs would take the profile, and the program would run without.
    let mut config = rig.config("echo unconfined");
    config.mounts.retain(|mount| mount.destination != std::path::Path::new("/proc"));
    config.masked_paths.clear();
    config.readonly_paths.clear();
    let fake = rig.dir.path().join("fake");
    std::fs::create_dir_all(fake.join("thread-self/attr/apparmor")).unwrap();
    for name in ["exec", "apparmor/exec"] {
        std::fs::write(fake.join("thread-self/attr").join(name), "").unwrap();
    }
    config.mounts.push(crate::common::bind(&fake, "/proc", false));
    config.process.apparmor_profile = Some("some-profile".into());
    let error = rig.start_with(config, |_| ()).map(drop).unwrap_err();
    assert!(error.to_string().contains("apparmor is not enabled"), "{error}");
    assert_eq!(std::fs::read_to_string(fake.join("thread-self/attr/apparmor/exec")).unwrap(), "");
}
