//! Policies: what a read-only socket and one for a team let pass, judged on what would be done.

use gantry_tests::http::{self, Response};
use gantry_tests::{IMAGE, Options, Output, World, eventually};
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
        // Everything that is right in itself, so that nothing but the policy refuses it.
        let id = if path.starts_with("/jobs/") { "1" } else { "nope" };
        let path = path.replace("{name...}", &name).replace("{name}", &name).replace("{id}", id);
        let query = "path=/etc/passwd&stream=0&stdout=1&h=1&w=1&fromImage=busybox&repo=x&name=y";
        let body =
            (method == "POST").then(|| json!({ "Image": IMAGE, "Cmd": ["true"], "Name": "x", "Container": name }));
        let answer = ask(&doors, "read-only.sock", method, &format!("{path}?{query}"), body.as_ref());
        let (status, said) = (answer.status, answer.text());
        match method {
            "GET" | "HEAD" => assert_ne!(status, 403, "{method} {path}: {said}"),
            // There is no builder, and nothing to prune.
            _ if path == "/build/prune" => assert_eq!(status, 200, "{said}"),
            // There is no swarm either, whoever asks.
            _ if line.ends_with("_swarm;") => assert_eq!(status, 503, "{said}"),
            _ => assert_eq!(status, 403, "{method} {path}: {said}"),
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

#[test]
fn no_spelling_of_a_name_leads_to_what_a_team_must_not_see() {
    let doors = doors();
    let root = doors.world.gantry();
    let team = |arguments: &[&str]| through(&doors, "team.sock", arguments);
    // Until two begin alike: with sixteen digits no later than the seventeenth.
    let mut hidden: Vec<String> = Vec::new();
    let alike = loop {
        let id = root.ok(&["create", "--name", &doors.world.name(&format!("hidden{}", hidden.len())), IMAGE, "true"]);
        let digit = id[..1].to_owned();
        hidden.push(id);
        if hidden.iter().filter(|id| id.starts_with(&digit)).count() > 1 {
            break digit;
        }
    };
    for name in [&alike, &hidden[0][..12], &hidden[0]] {
        team(&["inspect", "--type", "container", name]).fails(1, "no such container");
        let filter = format!("before={name}");
        team(&["ps", "-a", "--filter", &filter]).fails(1, &format!("No such container: {name}"));
    }
    let net = doors.world.name("net");
    let own = doors.world.name("speller");
    team(&["network", "create", "--label", "team=a", &net]).ok();
    team(&["create", "--name", &own, "--label", "team=a", "--network", &net, IMAGE, "true"]).ok();
    let link = format!("{}:other", hidden[0]);
    let other_net = doors.world.name("net2");
    team(&["network", "create", "--label", "team=a", &other_net]).ok();
    team(&["network", "connect", "--link", &link, &other_net, &own]).fails(1, "No such container");
    team(&["network", "connect", &other_net, &own]).ok();
    // The host's network by its id, as the container's mode and among its places.
    let host = root.ok(&["network", "inspect", "host", "--format", "{{.Id}}"]);
    for id in [&host, &host[..12]] {
        team(&["create", "--label", "team=a", "--network", id, IMAGE, "true"]).fails(1, "host's network");
    }
    let labels = json!({ "team": "a" });
    let create = |host_config: serde_json::Value, networks: serde_json::Value| {
        let body = json!({ "Image": IMAGE, "Cmd": ["true"], "Labels": labels, "HostConfig": host_config,
            "NetworkingConfig": { "EndpointsConfig": networks } });
        ask(&doors, "team.sock", "POST", "/containers/create", Some(&body))
    };
    let answer = create(json!({}), json!({ host.as_str(): {} }));
    assert_eq!((answer.status, answer.message().contains("host's network")), (403, true), "{}", answer.text());
    let answer = create(json!({ "NetworkMode": net }), json!({ net.as_str(): { "Links": [link] } }));
    assert_eq!((answer.status, answer.message().contains("No such container")), (400, true), "{}", answer.text());
    for hole in ["MaskedPaths", "ReadonlyPaths"] {
        let answer = create(json!({ hole: [] }), json!({}));
        assert_eq!((answer.status, answer.message().contains("/proc")), (403, true), "{}", answer.text());
    }
    // What somebody else made without them is not for the team's hands.
    let open = doors.world.name("unmasked");
    let body =
        json!({ "Image": IMAGE, "Cmd": ["sleep", "600"], "Labels": labels, "HostConfig": { "MaskedPaths": [] } });
    let made = doors.world.daemon.post(&format!("/containers/create?name={open}"), Some(&body)).expect("an answer");
    assert_eq!(made.status, 201, "{}", made.text());
    root.ok(&["start", &open]);
    team(&["exec", &open, "true"]).fails(1, "confinement of /proc");
    root.ok(&["rm", "-f", &open, &own]);
    root.ok(&["network", "rm", &net, &other_net]);
    root.ok(&[&["rm"][..], &hidden.iter().map(String::as_str).collect::<Vec<_>>()].concat());
}

#[test]
fn a_name_that_changes_hands_does_not_lead_a_job_to_another_container() {
    let doors = doors();
    let root = doors.world.gantry();
    let victim = root.ok(&["run", "-d", IMAGE, "sleep", "600"]);
    let own = root.ok(&["create", "--label", "team=a", IMAGE, "true"]);
    // What the job is done to is what was judged: it knows no other name of it.
    root.ok(&["rename", &own, &doors.world.name("renamed")]);
    let called = root.inspect(&own, "{{slice .Name 1}}");
    let missing = ask(&doors, "team.sock", "GET", &format!("/containers/{called}/archive?path=/nope"), None);
    assert_eq!(missing.message(), format!("Could not find the file /nope in container {own}"));
    // A name that is the beginning of another one's id.
    let name = &victim[..12];
    let rename =
        |to: &str| ask(&doors, "team.sock", "POST", &format!("/containers/{own}/rename?name={to}"), None).status;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!((rename(name), rename(&format!("{name}-x"))), (204, 204));
            }
        });
        let stop = || {
            for _ in 0..150 {
                let status = ask(&doors, "team.sock", "POST", &format!("/containers/{name}/stop?t=0"), None).status;
                assert!(matches!(status, 304 | 404), "{status}");
            }
        };
        let stopping: Vec<_> = (0..3).map(|_| scope.spawn(stop)).collect();
        let stopped: Vec<_> = stopping.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(stopped.iter().all(Result::is_ok), "nothing but the team's own was reached");
    });
    assert_eq!(root.inspect(&victim, "{{.State.Running}}"), "true");
    root.ok(&["rm", "-f", &victim, &own]);
}

#[test]
fn the_hosts_cgroup_namespace_is_not_had_by_asking_for_nothing() {
    let files = tempfile::tempdir().expect("a directory");
    let at = |name: &str| files.path().join(name).display().to_string();
    std::fs::write(at("policy"), r#"{"jobs": ["*"]}"#).expect("write the policy");
    let socket = format!("--socket=path={},policy={},mode=0600", at("guarded.sock"), at("policy"));
    let flags = vec!["--default-cgroupns-mode=host".to_owned(), socket];
    let _world = World::start(Options { flags, ..Options::default() }).unwrap_or_else(|error| panic!("{error:?}"));
    let home = tempfile::tempdir().expect("a home");
    let environment = [("DOCKER_HOST", format!("unix://{}", at("guarded.sock")))];
    for program in clients() {
        let ask = |arguments: &[&str]| run(&program, home.path(), &environment, arguments);
        ask(&["create", IMAGE, "true"]).fails(1, "the host's cgroup namespace");
        ask(&["create", "--cgroupns", "private", IMAGE, "true"]).ok();
    }
}

#[test]
fn a_link_that_comes_later_leads_no_restart_elsewhere() {
    let doors = doors();
    let root = doors.world.gantry();
    let name = doors.world.name("relinked");
    let base = std::path::Path::new("/srv/gantry-doors-links").join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(base.join("real/sub")).expect("make a directory");
    std::os::unix::fs::symlink(base.join("real"), base.join("link")).expect("a link");
    // Through a link that leads to what is listed: it is looked at once.
    let bind = format!("{}:/x", base.join("link/sub").display());
    let made = ["run", "-d", "--restart", "always", "--label", "team=a", "--name", &name, "-v", &bind, IMAGE];
    through(
        &doors,
        "team.sock",
        &[&made[..], &["sh", "-c", "trap 'exit 1' USR1; echo ready; sleep 600 & wait"]].concat(),
    )
    .ok();
    // Without its trap the signal does nothing to a first process.
    let is_ready = |times: usize| root.run(&["logs", &name]).stdout.lines().count() == times;
    eventually("it waits", || is_ready(1));
    let source = root.inspect(&name, "{{(index .Mounts 0).Source}}");
    assert_eq!(source, base.join("real/sub").display().to_string());
    std::fs::remove_file(base.join("link")).expect("take the link away");
    std::os::unix::fs::symlink("/etc", base.join("link")).expect("another link");
    root.ok(&["kill", "-s", "USR1", &name]);
    eventually("its policy restarts it", || root.inspect(&name, "{{.RestartCount}}") == "1");
    eventually("it runs", || is_ready(2));
    root.ok(&["exec", &name, "test", "!", "-e", "/x/passwd"]);
    // What it was made with becomes a link.
    std::fs::remove_dir(base.join("real/sub")).expect("take the directory away");
    std::os::unix::fs::symlink("/etc", base.join("real/sub")).expect("a link");
    root.ok(&["kill", "-s", "USR1", &name]);
    eventually("it is not started", || root.inspect(&name, "{{.State.Error}}").contains("there is a link on the way"));
    root.ok(&["stop", "-t", "0", &name]);
    root.run(&["start", &name]).fails(1, "there is a link on the way");
    root.ok(&["rm", "-f", &name]);
    std::fs::remove_dir_all(&base).expect("put the directory away");
    std::fs::remove_dir("/srv/gantry-doors-links").expect("put the directory away");
}
