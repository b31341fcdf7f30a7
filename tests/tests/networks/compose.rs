//! Applications of several services by Docker's own `docker-compose`.

use std::process::Command;

use gantry_tests::{World, command, eventually, paths, skip, world};

const APPLICATION: &str = "
version: \"3.8\"
services:
  api:
    image: web
    ports: [\"127.0.0.1::80\"]
    volumes: [\"/data\"]
  worker:
    image: busybox
    command: sleep 600
    depends_on: [api]
    networks: [default, back]
networks:
  back:
    internal: true
";

/// `docker-compose` of one application.
struct Compose<'a> {
    world: &'a World,
    project: String,
    directory: tempfile::TempDir,
}

impl Compose<'_> {
    fn command(&self) -> Option<Command> {
        let mut command = self.world.daemon.client(&paths::program("docker-compose")?);
        command
            .args(["--project-name", &self.project, "--ansi", "never", "--file"])
            .arg(self.directory.path().join("app.yml"));
        command.env_remove("COMPOSE_API_VERSION").current_dir(self.directory.path());
        Some(command)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let mut command = self.command().expect("docker-compose");
        command::run(command.args(arguments), None, command::LIMIT).expect("run docker-compose").ok()
    }

    fn answers(&self) -> bool {
        let ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 api 80";
        let mut command = self.command().expect("docker-compose");
        let output = command::run(command.args(["exec", "-T", "worker", "sh", "-c", ask]), None, command::LIMIT);
        output.expect("run docker-compose").stdout.contains("hello")
    }
}

#[test]
fn docker_compose_brings_an_application_up_makes_it_anew_and_takes_it_down() {
    let world = world();
    world.pull("web").expect("pull");
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("app.yml"), APPLICATION).expect("write the application");
    let compose = Compose { world: &world, project: world.name("composed"), directory };
    if compose.command().is_none() {
        skip("no docker-compose on this machine");
        return;
    }
    let cli = world.gantry();
    compose.ok(&["up", "-d"]);
    eventually("the service answers by its name", || compose.answers());
    let before = compose.ok(&["ps", "-q"]);
    assert_eq!(before.lines().count(), 2, "{before}");
    compose.ok(&["up", "-d", "--force-recreate"]);
    let after = compose.ok(&["ps", "-q"]);
    assert!(after.lines().count() == 2 && after.lines().all(|id| !before.contains(id)), "{before}: {after}");
    eventually("the new one answers by the same name", || compose.answers());
    compose.ok(&["up", "-d", "--scale", "worker=2"]);
    assert_eq!(compose.ok(&["ps", "-q", "worker"]).lines().count(), 2);
    compose.ok(&["down", "--volumes", "--timeout", "1"]);
    let label = format!("label=com.docker.compose.project={}", compose.project);
    assert_eq!(cli.ok(&["ps", "-aq", "--filter", &label]), "");
    assert_eq!(cli.ok(&["network", "ls", "-q", "--filter", &label]), "");
}
