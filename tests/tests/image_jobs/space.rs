//! `system df` says what the data root occupies, and says it at once.

use std::process::Command;

use gantry_tests::{Options, World, command, eventually};

/// What `du` says of the data root.
fn du(world: &World) -> u64 {
    let mut du = Command::new("du");
    du.args(["-s", "--block-size=1"]).arg(world.daemon.data_root());
    let said = command::succeed(&mut du, command::LIMIT).expect("du").stdout;
    said.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number")
}

/// What `system df` says of everything, of an API that Docker's CLI speaks.
fn df(world: &World) -> u64 {
    let answer = world.daemon.get("/v1.47/system/df").expect("df").json();
    let sum = |list: &str, size: &dyn Fn(&serde_json::Value) -> Option<u64>| -> u64 {
        answer[list].as_array().expect("a list").iter().filter_map(size).sum()
    };
    let layers = answer["LayersSize"].as_u64().expect("a number");
    layers + sum("Containers", &|c| c["SizeRw"].as_u64()) + sum("Volumes", &|v| v["UsageData"]["Size"].as_u64())
}

#[test]
fn df_is_what_du_says_within_one_percent() {
    let world = World::start(Options::default()).expect("a daemon of one's own");
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    for image in ["web", "seeded", "layered"] {
        world.pull(image).expect("pull");
    }
    // Hard links, a sparse file, small files, a big one; in layers, a container and a volume.
    let script = "mkdir -p $0/small && cd $0 && for i in $(seq 400); do echo $i > small/$i; done; \
                  dd if=/dev/urandom of=big bs=1M count=8 2> /dev/null; for i in 1 2 3; do ln big big$i; done; \
                  dd if=/dev/urandom of=sparse bs=1M count=1 seek=64 2> /dev/null; head -c 2000000 /dev/zero | tr '\\0' x | fold -w 1000";
    cli.ok(&["run", "--name", "one", "-v", "volume:/volume", "busybox", "sh", "-c", script, "/made"]);
    cli.ok(&["run", "--name", "two", "-v", "volume:/volume", "busybox", "sh", "-c", script, "/volume"]);
    cli.ok(&["commit", "one", "committed"]);
    cli.ok(&["run", "-d", "--name", "runs", "committed", "sleep", "600"]);
    // Whatever was removed meanwhile is swept off the path, and the kernel gives blocks to what was written.
    rustix::fs::sync();
    let apart = |(du, df): (u64, u64)| du.abs_diff(df) * 100 > du;
    let mut seen = (0, 0);
    eventually("df and du agree", || {
        seen = (du(&world), df(&world));
        !apart(seen)
    });
    assert!(seen.0 > 30_000_000, "the store holds something: {seen:?}");
    assert!(seen.0 < 180_000_000, "holes do not count: {seen:?}");
    let table = cli.ok(&["system", "df", "--format", "{{.Type}} {{.Size}}"]);
    let images =
        world.daemon.get("/v1.47/system/df?type=image").expect("df").json()["LayersSize"].as_u64().expect("bytes");
    // Four digits of it, rounded.
    let shown = table.lines().find_map(|line| line.strip_prefix("Images ")?.strip_suffix("MB")?.parse::<f64>().ok());
    assert!(shown.is_some_and(|shown| (shown * 1e6 - images as f64).abs() < 60_000.0), "{table} should show {images}");
}
