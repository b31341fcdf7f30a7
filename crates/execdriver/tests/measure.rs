//! What a start costs; ignored by default: `cargo test --test measure -- --ignored --nocapture`.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a measurement is printed")]
#![allow(unsafe_code, reason = "the test binary is its own template: see common")]

mod common;

const DRIVER: &str = "native";

use std::time::{Duration, Instant};

use common::{Rig, exec, process};

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

/// CPU time of this process and of everything that ran in the test's cgroups is not to be had exactly: this is the
/// machine's, less what it uses idle.
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let numbers: Vec<f64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|number| number.parse().unwrap()).collect();
    (numbers[0] + numbers[2] + numbers[5] + numbers[6]) * 10.0
}

fn pss(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn what_a_start_costs() {
    let Some(rig) = Rig::new() else { return };
    let (mut prepare, mut start, mut wait, mut whole) = (vec![], vec![], vec![], vec![]);
    let rounds = 40;
    let before = busy();
    for round in 0..rounds {
        let mut config = rig.config("true");
        config.process.args = vec!["true".into()];
        let begin = Instant::now();
        let sandbox = rig.driver().prepare().unwrap();
        let prepared = Instant::now();
        let log = gantry_execdriver::LogFile { path: rig.log_path(&config), max_size: None, max_files: 1 };
        let container = sandbox
            .start(gantry_execdriver::Start {
                config,
                log: Some(log),
                open_stdin: false,
                stdin_once: false,
                attached: vec![],
            })
            .unwrap();
        let started = Instant::now();
        container.wait().unwrap();
        let ended = Instant::now();
        if round > 4 {
            prepare.push(prepared - begin);
            start.push(started - prepared);
            wait.push(ended - started);
            whole.push(ended - begin);
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    let cpu = (busy() - before) / f64::from(rounds);
    println!(
        "prepare {:.2} start {:.2} wait {:.2} whole {:.2} ms; machine busy {cpu:.1} ms per run",
        median(prepare),
        median(start),
        median(wait),
        median(whole)
    );
    let containers: Vec<_> = (0..10).map(|_| rig.start(&rig.config("exec sleep 60"))).collect();
    let mut execs = vec![];
    for number in 0..30 {
        let begin = Instant::now();
        exec(&*containers[0], &format!("e{number}"), process(&["true"])).unwrap();
        execs.push(begin.elapsed());
    }
    println!("exec {:.2} ms", median(execs));
    std::thread::sleep(Duration::from_millis(300));
    let mut total = (0, 0);
    for container in &containers {
        let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
        let parent: i32 = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        total.0 += pss(parent);
        for child in children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()) {
            if child != container.pid() {
                total.1 += pss(child);
            }
        }
    }
    println!("PSS of 10: supervisor {} kB, seed {} kB each", total.0 / 10, total.1 / 10);
    for container in containers {
        container.kill_all().unwrap();
        container.wait().unwrap();
    }
}
