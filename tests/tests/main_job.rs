//! The main job: a real Debian image, from a real registry, in a real container, by our client and by Docker's own.

use gantry_tests::{Daemon, Registry, Terminal, command, paths, skip};

#[test]
fn a_debian_image_is_pulled_and_runs() {
    let registry = Registry::with_debian().expect("a registry with a Debian image");
    let image = registry.name("debian:12");
    let mut clients = vec![paths::gantry().expect("the binary")];
    match paths::program("docker") {
        Some(docker) => clients.push(docker),
        None => skip("no docker CLI on this machine"),
    }
    for program in clients {
        // A daemon each, so that both pull.
        let daemon = Daemon::start().expect("a daemon");
        let run = |arguments: &[&str]| {
            let output = command::run(daemon.client(&program).args(arguments), None, command::LIMIT);
            output.unwrap_or_else(|error| panic!("{error:?}\n{}", daemon.log()))
        };
        let pulled = run(&["pull", &image]).ok();
        assert!(pulled.contains("Status: Downloaded newer image"), "{pulled}");
        assert!(run(&["run", "--rm", &image, "cat", "/etc/os-release"]).ok().contains("Debian GNU/Linux 12"));
        assert_eq!(run(&["run", "--rm", &image, "sh", "-c", "dpkg --audit | wc -l; id -u"]).ok(), "0\n0");
        let packages =
            run(&["run", "--rm", "--network", "none", &image, "dpkg-query", "-W", "-f", "${Package}\n"]).ok();
        assert!(packages.lines().any(|name| name == "bash"), "{packages}");
        run(&["run", "-d", "--name", "shell", "-it", &image, "bash"]).ok();
        let line = format!("DOCKER_HOST={} HOME=/nowhere {} exec -it shell bash", daemon.host(), program.display());
        let terminal = Terminal::start(&line).expect("a terminal");
        terminal.shows("root@");
        terminal.write("echo $((6 * 7)) && exit 9\n");
        terminal.shows("42");
        terminal.shows("[exit 9]");
        run(&["rm", "-f", "shell"]).ok();
    }
}
