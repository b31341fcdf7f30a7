//! Policies: what a read-only socket and one for a team let pass, judged on what would be done.

use gantry_tests::http::{self, Response};
use gantry_tests::{IMAGE, Output};
use serde_json::json;

use super::{Doors, clients, doors, run};

fn through(doors: &Doors, socket: &str, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a home");
    let environment = [("DOCKER_HOST", format!("unix://{}", doors.file(socket).display()))];
    run(&clients()[0], home.path(), &environment, arguments)
}

fn ask(doors: &Doors, socket: &str, method: &str, path: &str, body: Option<&serde_json::Value>) -> Response {
    let body = body.map(ToString::to_string);
    http::unix(&doors.file(socket), method, path, body.as_deref().map(str::as_bytes)).expect("an answer")
}

#[test]
fn a_read_only_socket_lets_every_get_pass_and_no_change() {
    let doors = doors();
    let name = doors.world.name("seen");
    doors.world.gantry().ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
    let routes = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/server/src/routes.rs"));
    let routes = routes.expect("the table of routes");
    let mut seen = 0;
    for line in routes.lines().map(str::trim) {
        let mut words = line.split_whitespace();
        let (Some(method), Some(path)) = (words.next(), words.next()) else { continue };
        let Some(path) = path.strip_prefix('"').and_then(|path| path.strip_suffix('"')) else { continue };
        // These ask registries; waiting would not end.
        let asks_others = ["/auth", "/images/search"].contains(&path) || path.starts_with("/distribution");
        if asks_others
            || !["GET", "POST", "PUT", "DELETE", "HEAD"].contains(&method)
            || path.ends_with("/events")
            || path.ends_with("/wait")
        {
            continue;
        }
        seen += 1;
        let path = path.replace("{name...}", &name).replace("{name}", &name).replace("{id}", "nope");
        let query = if path.ends_with("/archive") { "?path=/etc/passwd" } else { "?stream=0&stdout=1" };
        let body =
            (method == "POST").then(|| json!({ "Image": IMAGE, "Cmd": ["true"], "Name": "x", "Container": name }));
        let answer = ask(&doors, "read-only.sock", method, &format!("{path}{query}"), body.as_ref());
        let harmless = path == "/build/prune";
        match method {
            "GET" | "HEAD" => assert_ne!(answer.status, 403, "{method} {path}: {}", answer.text()),
            _ if harmless => {}
            _ => {
                // What is wrong in itself may be told first; nothing else may happen.
                assert!(matches!(answer.status, 400 | 403), "{method} {path}: {} {}", answer.status, answer.text());
            }
        }
    }
    assert!(seen > 50, "the table was read: {seen}");
    for (arguments, says) in [
        (&["exec", name.as_str(), "true"][..], "exec_create: not allowed through unix://"),
        (&["attach", name.as_str()], "attach: not allowed"),
        (&["stop", name.as_str()], "it changes something"),
        (&["run", "--rm", IMAGE, "true"], "create: not allowed"),
        (&["cp", "/etc/hostname", &format!("{name}:/tmp/x")], "container_put: not allowed"),
    ] {
        let output = through(&doors, "read-only.sock", arguments);
        assert_ne!(output.code, 0, "{output}");
        assert!(output.stderr.contains(says), "{output}");
    }
    assert!(through(&doors, "read-only.sock", &["ps"]).ok().contains(&name));
    assert_eq!(doors.world.gantry().inspect(&name, "{{.State.Running}}"), "true");
    doors.world.gantry().ok(&["rm", "-f", &name]);
}

#[test]
fn a_team_sees_and_touches_only_what_has_its_label() {
    let doors = doors();
    let (own, other) = (doors.world.name("own"), doors.world.name("other"));
    let root = doors.world.gantry();
    root.ok(&["run", "-d", "--name", &other, "--label", "team=b", IMAGE, "sleep", "600"]);
    let team = |arguments: &[&str]| through(&doors, "team.sock", arguments);
    team(&["run", "-d", "--name", &own, IMAGE, "sleep", "600"]).fails(125, "it must have the labels team=a");
    team(&["run", "-d", "--name", &own, "--label", "team=a", IMAGE, "sleep", "600"]).ok();
    let list = team(&["ps", "-a", "--format", "{{.Names}}"]).ok();
    assert_eq!(list, own);
    assert_eq!(team(&["exec", &own, "echo", "hello"]).ok(), "hello");
    for arguments in [
        &["inspect", "--type", "container", other.as_str()][..],
        &["logs", &other],
        &["exec", &other, "true"],
        &["stop", &other],
        &["rm", "-f", &other],
        &["cp", &format!("{other}:/etc/passwd"), "-"],
        &["run", "--rm", "--label", "team=a", "--volumes-from", &other, IMAGE, "true"],
        &["run", "--rm", "--label", "team=a", "--network", &format!("container:{other}"), IMAGE, "true"],
        &["run", "--rm", "--label", "team=a", "--pid", &format!("container:{other}"), IMAGE, "true"],
    ] {
        let output = team(arguments);
        let said = output.stderr.to_lowercase();
        // Docker's `rm -f` of what is not there is no failure.
        assert!(output.code != 0 || arguments[0] == "rm", "{output}");
        assert!(said.contains("no such container") || said.contains("no such object"), "{output}");
    }
    let doctor = ask(&doors, "team.sock", "GET", &format!("/network-doctor/{other}"), None);
    assert_eq!(doctor.status, 404, "{}", doctor.text());
    let places = team(&["network", "inspect", "bridge", "--format", "{{json .Containers}}"]).ok();
    assert!(places.contains(&own) && !places.contains(&other), "{places}");
    // Not on the list of jobs, and about everybody.
    team(&["kill", &own]).fails(1, "kill: not allowed");
    team(&["container", "prune", "-f"]).fails(1, "containers_prune: not allowed");
    let events = team(&["events", "--since", "1h", "--until", "0s", "--format", "{{.Actor.Attributes.name}}"]).ok();
    assert!(events.contains(&own) && !events.contains(&other), "{events}");
    assert_eq!(root.inspect(&other, "{{.State.Running}}"), "true");
    team(&["rm", "-f", &own]).ok();
    root.ok(&["rm", "-f", &other]);
}

#[test]
fn no_way_to_more_power_is_open_to_a_team() {
    let doors = doors();
    let root = doors.world.gantry();
    std::fs::create_dir_all("/srv/gantry-doors/sub").expect("make a directory");
    std::os::unix::fs::symlink("/etc", "/srv/gantry-doors/link").ok();
    let plain = doors.world.name("others-volume");
    root.ok(&["volume", "create", &plain]);
    let denied: &[(&[&str], &str)] = &[
        (&["--privileged"], "a privileged container"),
        (&["--cap-add", "SYS_ADMIN"], "capabilities"),
        (&["--device", "/dev/kmsg"], "devices"),
        (&["--device-cgroup-rule", "c *:* rwm"], "devices"),
        (&["--security-opt", "seccomp=unconfined"], "confinement"),
        (&["--security-opt", "systempaths=unconfined"], "confinement"),
        (&["--cgroup-parent", "/x"], "cgroup"),
        (&["--network", "host"], "host's network"),
        (&["--pid", "host"], "host's pid"),
        (&["--ipc", "host"], "host's ipc"),
        (&["--uts", "host"], "host's uts"),
        (&["--userns", "host"], "host's user"),
        (&["--cgroupns", "host"], "host's cgroup"),
        (&["-v", "/etc:/x"], "a mount of /etc"),
        (&["-v", "/:/x"], "a mount of /"),
        (&["--mount", "type=bind,source=/etc,target=/x"], "a mount of /etc"),
        (&["-v", "/srv/gantry-doors/../../etc:/x"], "not on the list"),
        (&["-v", "/srv/gantry-doors-not:/x"], "not on the list"),
        (&["-v", "/srv/gantry-doors/link:/x"], "not on the list"),
        (&["-v", "/srv/gantry-doors/link/ssh:/x"], "not on the list"),
        (&["-v", &format!("{plain}:/x")], "not one with the labels"),
        (
            &["--mount", "type=volume,target=/x,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=/etc"],
            "options",
        ),
    ];
    for (flags, says) in denied {
        let arguments = [&["create", "--label", "team=a"][..], flags, &[IMAGE, "true"]].concat();
        through(&doors, "team.sock", &arguments).fails(1, says);
    }
    let name = doors.world.name("fine");
    let fine = ["-v", "/srv/gantry-doors/sub:/x", "-v", "/y", "--security-opt", "no-new-privileges", "--memory", "64m"];
    let arguments =
        [&["run", "-d", "--name", &name, "--label", "team=a"][..], &fine, &[IMAGE, "sleep", "600"]].concat();
    through(&doors, "team.sock", &arguments).ok();
    through(&doors, "team.sock", &["exec", "--privileged", &name, "true"]).fails(1, "a privileged process");
    through(&doors, "team.sock", &["rm", "-f", &name]).ok();
    // One that somebody else made mighty is not for the team's hands either, whatever its labels.
    root.ok(&["run", "-d", "--name", &name, "--label", "team=a", "--privileged", IMAGE, "sleep", "600"]);
    through(&doors, "team.sock", &["exec", &name, "true"]).fails(1, "a privileged container");
    through(&doors, "team.sock", &["stop", "-t", "0", &name]).ok();
    through(&doors, "team.sock", &["start", &name]).fails(1, "a privileged container");
    root.ok(&["rm", "-f", &name]);
    what_others_have_is_not_handed_on(&doors);
    let bridge = ["-o", "com.docker.network.bridge.name=gantry-doors0"];
    let arguments = [&["network", "create", "--label", "team=a"][..], &bridge, &[&name]].concat();
    through(&doors, "team.sock", &arguments).fails(1, "any bridge of the host");
    root.ok(&["volume", "rm", &plain]);
    std::fs::remove_dir_all("/srv/gantry-doors").expect("put the directory away");
}

/// A team's containers that somebody mightier made: their namespaces, what they mount, and whom they have it from.
fn what_others_have_is_not_handed_on(doors: &Doors) {
    let root = doors.world.gantry();
    let [hosted, handed, first, second] = ["hosted", "handed", "first", "second"].map(|name| doors.world.name(name));
    let made = ["create", "--label", "team=a", "--name"];
    let make = |name: &str, flags: &[&str]| root.ok(&[&made[..], &[name], flags, &[IMAGE, "true"]].concat());
    make(&hosted, &["--network", "host", "--pid", "host"]);
    make(&handed, &["--network", &format!("container:{hosted}")]);
    make(&first, &["-v", "/etc:/h"]);
    make(&second, &["--volumes-from", &first]);
    let other = doors.world.name("not-made");
    for (flag, of, says) in [
        ("--network", format!("container:{hosted}"), "host's network"),
        ("--network", format!("container:{handed}"), "host's network"),
        ("--pid", format!("container:{hosted}"), "host's pid"),
        ("--volumes-from", first.clone(), "a mount of /etc"),
        ("--volumes-from", second.clone(), "a mount of /etc"),
    ] {
        let arguments = [&made[..], &[&other, flag, &of, IMAGE, "true"]].concat();
        through(doors, "team.sock", &arguments).fails(1, says);
    }
    through(doors, "team.sock", &["start", &second]).fails(1, "a mount of /etc");
    through(doors, "team.sock", &["cp", &format!("{second}:/h/passwd"), "-"]).fails(1, "a mount of /etc");
    root.ok(&["rm", "-f", &hosted, &handed, &first, &second]);
}
