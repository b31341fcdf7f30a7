//! Contexts: both programs share one store, whoever has written it.

use gantry_tests::Output;

use super::{clients, doors, run};

#[test]
fn a_context_that_one_program_makes_is_the_others_too() {
    let doors = doors();
    let home = tempfile::tempdir().expect("a home");
    let programs = clients();
    let ask = |program: usize, arguments: &[&str]| -> Output { run(&programs[program], home.path(), &[], arguments) };
    let other = programs.len() - 1;
    let tls = doors.file("tls").display().to_string();
    let endpoint = format!("host=tcp://127.0.0.1:{},ca={tls}/ca.pem,cert={tls}/cert.pem,key={tls}/key.pem", doors.port);
    for (maker, user) in [(0, other), (other, 0)] {
        let name = format!("made-by-{maker}");
        let made = ask(maker, &["context", "create", &name, "--description", "far away", "--docker", &endpoint]);
        assert_eq!(made.ok(), name);
        assert!(made.stderr.contains(&format!("Successfully created context \"{name}\"")), "{made}");
        assert_eq!(ask(user, &["--context", &name, "ps", "-q"]).stderr, "");
        let format = "{{.Name}} {{.Endpoints.docker.Host}}";
        let expected = format!("{name} tcp://127.0.0.1:{}", doors.port);
        assert!(ask(user, &["context", "inspect", &name]).ok().contains("\"Description\": \"far away\""));
        assert_eq!(ask(user, &["context", "inspect", "--format", format, &name]).ok(), expected);
        assert_eq!(ask(user, &["context", "use", &name]).ok(), name);
        assert_eq!(ask(maker, &["context", "show"]).ok(), name);
        ask(maker, &["version"]).ok();
        let lists = [maker, user].map(|program| {
            ask(program, &["context", "ls", "--format", "{{.Name}}|{{.Current}}|{{.DockerEndpoint}}"]).ok()
        });
        assert_eq!(lists[0], lists[1]);
        // A file of one is read by the other.
        let file = home.path().join(format!("{name}.tar")).display().to_string();
        ask(maker, &["context", "export", &name, &file]).ok();
        let copy = format!("{name}-copy");
        assert_eq!(ask(user, &["context", "import", &copy, &file]).ok(), copy);
        ask(user, &["--context", &copy, "version"]).ok();
        ask(user, &["context", "update", &copy, "--description", "a copy"]).ok();
        assert!(ask(maker, &["context", "ls"]).ok().contains("a copy"));
        ask(maker, &["context", "rm", &copy]).ok();
        ask(user, &["context", "rm", &name]).fails(1, "is in use, set -f flag to force remove");
        ask(user, &["context", "rm", "-f", &name]).ok();
    }
    assert_eq!(ask(0, &["context", "show"]).ok(), "default");
}

#[test]
fn mistakes_with_contexts_are_told() {
    let home = tempfile::tempdir().expect("a home");
    let gantry = &clients()[0];
    let ask = |arguments: &[&str]| run(gantry, home.path(), &[], arguments);
    ask(&["--context", "nope", "ps"]).fails(1, "context \"nope\" not found");
    ask(&["-H", "unix:///x", "--context", "nope", "ps"]).fails(1, "cannot specify both --host and --context");
    ask(&["context", "create", "default"]).fails(1, "\"default\" is a reserved context name");
    ask(&["context", "create", "x/y"]).fails(1, "is invalid");
    ask(&["context", "create", "xy", "--docker", "host=gopher://x"]).fails(1, "unknown scheme");
    ask(&["context", "rm", "nope"]).fails(1, "not found");
    ask(&["context", "use", "nope"]).fails(1, "not found");
    let lost = run(gantry, home.path(), &[("DOCKER_CONTEXT", "gone".to_owned())], &["context", "ls"]);
    assert!(lost.ok().contains("context not found"), "{lost}");
}
