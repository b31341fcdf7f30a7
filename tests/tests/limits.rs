//! Limits, from inside and from outside.

use std::fs;
use std::path::PathBuf;

use gantry_tests::{Cli, IMAGE, both, cgroups, eventually};

/// The value of a control file of a container, whatever hierarchy it is in.
fn outside(cli: &Cli<'_>, name: &str, files: &[&str]) -> String {
    let pid = cli.inspect(name, "{{.State.Pid}}");
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    let mut candidates: Vec<PathBuf> = Vec::new();
    for (options, point) in cgroups::hierarchies() {
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let same = if names.is_empty() {
                options.is_empty()
            } else {
                names.split(',').all(|n| options.split(',').any(|o| o == n))
            };
            if same {
                candidates.extend(files.iter().map(|file| point.join(path.trim_start_matches('/')).join(file)));
            }
        }
    }
    let found = candidates.iter().find_map(|path| fs::read_to_string(path).ok());
    found.unwrap_or_else(|| panic!("none of {candidates:?}")).trim().to_owned()
}

#[test]
fn over_the_memory_limit_it_dies_and_says_so() {
    both(|world, cli| {
        let name = world.name("oom");
        let out = cli.run(&["run", "--name", &name, "-m", "16m", IMAGE, "sh", "-c", "x=$(tail /dev/zero)"]);
        if out.code == 137 {
            assert_eq!(cli.inspect(&name, "{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137");
        } else {
            // The shell survived its child: the container still saw the killer.
            assert_eq!(cli.inspect(&name, "{{.State.OOMKilled}}"), "true");
        }
        cli.ok(&["rm", &name]);
        let out = cli.run(&["run", "--name", &name, "-m", "16m", IMAGE, "tail", "/dev/zero"]);
        assert_eq!(out.code, 137, "{out}");
        assert_eq!(cli.inspect(&name, "{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137");
        assert!(cli.ok(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).contains(&format!("{name} Exited (137)")));
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn memory_and_swap_limits_are_in_force() {
    both(|world, cli| {
        let name = world.name("memory");
        cli.ok(&["run", "-d", "--name", &name, "-m", "64m", "--memory-swap", "64m", IMAGE, "sleep", "600"]);
        assert_eq!(outside(cli, &name, &["memory.limit_in_bytes", "memory.max"]), "67108864");
        assert_eq!(cli.inspect(&name, "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}"), "67108864 67108864");
        let inside = cli.ok(&[
            "exec",
            &name,
            "sh",
            "-c",
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true",
        ]);
        assert_eq!(inside, "67108864");
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn the_number_of_processes_is_bounded() {
    both(|world, cli| {
        let name = world.name("pids");
        let script = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; true";
        let out = cli.run(&["run", "--name", &name, "--pids-limit", "10", IMAGE, "sh", "-c", script]);
        assert!(out.stderr.to_lowercase().contains("can't fork"), "{out}");
        assert_eq!(cli.inspect(&name, "{{.HostConfig.PidsLimit}}"), "10");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn cpu_quota_shares_and_set_are_in_force() {
    both(|world, cli| {
        let name = world.name("cpu");
        cli.ok(&[
            "run",
            "-d",
            "--name",
            &name,
            "--cpus",
            "0.5",
            "--cpu-shares",
            "512",
            "--cpuset-cpus",
            "0",
            IMAGE,
            "sleep",
            "600",
        ]);
        let quota = outside(cli, &name, &["cpu.cfs_quota_us", "cpu.max"]);
        assert!(quota == "50000" || quota == "50000 100000", "{quota}");
        assert_eq!(outside(cli, &name, &["cpuset.cpus"]), "0");
        assert_eq!(cli.ok(&["exec", &name, "nproc"]), "1");
        assert_eq!(
            cli.inspect(&name, "{{.HostConfig.NanoCpus}} {{.HostConfig.CpuShares}} {{.HostConfig.CpusetCpus}}"),
            "500000000 512 0"
        );
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn update_changes_what_runs_and_holds_at_the_next_start() {
    both(|world, cli| {
        let name = world.name("update");
        let limits = ["-m", "64m", "--memory-swap", "64m", "--cpus", "0.5"];
        cli.ok(&[&["run", "-d", "--name", &name], &limits[..], &[IMAGE, "sleep", "600"]].concat());
        let larger = ["-m", "96m", "--memory-swap", "96m", "--cpus", "0.25", "--pids-limit", "20"];
        assert_eq!(cli.ok(&[&["update"], &larger[..], &["--restart", "on-failure:3", &name]].concat()), name);
        let in_force = || {
            let memory = outside(cli, &name, &["memory.limit_in_bytes", "memory.max"]);
            let quota = outside(cli, &name, &["cpu.cfs_quota_us", "cpu.max"]);
            assert_eq!((memory.as_str(), quota.split(' ').next()), ("100663296", Some("25000")));
        };
        in_force();
        let told = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} \
                    {{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}";
        assert_eq!(cli.inspect(&name, told), "100663296 250000000 20 on-failure:3");
        cli.ok(&["restart", "-t", "0", &name]);
        in_force();
        cli.run(&["update", "-m", "128m", &name]).fails(1, "memoryswap");
        cli.run(&["update", "--cpu-quota", "5000", &name]).fails(1, "NanoCPUs");
        in_force();
        cli.ok(&["stop", "-t", "0", &name]);
        cli.ok(&["update", "-m", "80m", "--memory-swap", "80m", &name]);
        cli.ok(&["start", &name]);
        assert_eq!(outside(cli, &name, &["memory.limit_in_bytes", "memory.max"]), "83886080");
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn a_cpu_quota_slows_down() {
    both(|world, cli| {
        let name = world.name("slow");
        cli.ok(&["run", "-d", "--name", &name, "--cpus", "0.1", IMAGE, "sh", "-c", "while :; do :; done"]);
        eventually("it is throttled", || {
            let stat = outside(cli, &name, &["cpu.stat"]);
            stat.lines().any(|line| line.starts_with("nr_throttled") && !line.ends_with(" 0"))
        });
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn bad_limits_are_refused_with_the_bound() {
    both(|_, cli| {
        cli.run(&["run", "--rm", "-m", "1k", IMAGE, "true"]).fails(125, "memory limit");
        cli.run(&["run", "--rm", "--cpus", "1000", IMAGE, "true"]).fails(125, "cpus");
        cli.run(&["run", "--rm", "--cpuset-cpus", "500", IMAGE, "true"]).fails(125, "500");
        cli.run(&["run", "--rm", "-m", "64m", "--memory-swap", "32m", IMAGE, "true"]).fails(125, "swap");
        assert_eq!(cli.run(&["run", "--rm", "-m", "lots", IMAGE, "true"]).code, 125);
    });
}

#[test]
fn statistics_tell_what_is_used_and_that_a_paused_container_stands_still() {
    both(|world, cli| {
        let name = world.name("stats");
        let limits = ["-m", "64m", "--pids-limit", "20", "--cpus", "0.5"];
        let busy = [IMAGE, "sh", "-c", "while :; do :; done"];
        cli.ok(&[&["run", "-d", "--name", &name], &limits[..], &busy[..]].concat());
        let shown = cli.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", &name]);
        assert!(shown.ends_with("iB / 64MiB 1"), "{shown}");
        // Of two moments a second apart.
        let sample = || {
            let answer = world.daemon.get(&format!("/containers/{name}/stats?stream=false")).expect("statistics");
            answer.json()
        };
        let used = |sample: &serde_json::Value, when: &str| sample[when]["cpu_usage"]["total_usage"].as_u64();
        let running = sample();
        assert!(used(&running, "cpu_stats") > used(&running, "precpu_stats"), "{running}");
        assert_eq!(running["memory_stats"]["limit"], 64 << 20, "{running}");
        assert!(running["memory_stats"]["usage"].as_u64().is_some_and(|bytes| bytes > 0), "{running}");
        cli.ok(&["pause", &name]);
        let paused = sample();
        assert_eq!(used(&paused, "cpu_stats"), used(&paused, "precpu_stats"), "{paused}");
        assert!(used(&paused, "cpu_stats") >= used(&running, "cpu_stats"), "{paused}");
        cli.ok(&["unpause", &name]);
        cli.ok(&["rm", "-f", &name]);
    });
}
