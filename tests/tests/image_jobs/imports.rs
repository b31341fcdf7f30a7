//! `import` from addresses, with changes and a platform; `commit` with all that it takes.

use std::io::{Read, Write};
use std::net::TcpListener;

use gantry_tests::{IMAGE, both, image};

/// Answers one request with `head` and `body`, and returns its address.
fn serve_once(head: &'static str, body: Vec<u8>) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a request");
        let mut request = [0; 4096];
        let got = stream.read(&mut request).expect("a head");
        assert!(request[..got].starts_with(b"GET "), "{}", String::from_utf8_lossy(&request[..got]));
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).expect("an answer");
    });
    (address, server)
}

#[test]
fn an_archive_is_imported_from_its_address() {
    both(|world, cli| {
        let name = world.name("from-url");
        let (address, server) = serve_once("200 OK", image::busybox_layer().expect("a layer"));
        let url = format!("http://{address}/root.tar");
        let said = cli.ok(&["import", "-c", "CMD [\"echo\", \"fetched\"]", &url, &name]);
        server.join().expect("it was asked");
        assert!(said.lines().last().is_some_and(|line| line.starts_with("sha256:")), "{said}");
        assert_eq!(cli.inspect(&name, "{{.Comment}}"), format!("Imported from {url}"));
        assert_eq!(cli.ok(&["run", "--rm", &name]), "fetched");
        let other = format!("{name}:other");
        let layer = image::Layer::default().file("file", 0o644, "x").finish().expect("a layer");
        for (asked, kept, variant) in [
            ("linux/s390x", "linux/s390x", None),
            ("armhf", "linux/arm", Some("v7")),
            ("linux/x86_64", "linux/amd64", None),
        ] {
            cli.input(&["import", "--platform", asked, "-", &other], &layer).ok();
            assert_eq!(cli.inspect(&other, "{{.Os}}/{{.Architecture}}"), kept);
            if let Some(variant) = variant {
                assert_eq!(cli.inspect(&other, "{{.Variant}}"), variant);
            }
        }
        let refused = ["import", "--platform", "windows/amd64", "-", &other];
        cli.input(&refused, vec![0; 8 << 20]).fails(1, "operating system is not supported");
        cli.ok(&["rmi", &name, &other]);
    });
}

#[test]
fn an_address_that_has_no_archive_is_an_error_and_no_image() {
    both(|world, cli| {
        let name = world.name("from-nowhere");
        let (address, server) = serve_once("404 Not Found", b"none".to_vec());
        cli.run(&["import", &format!("http://{address}/none.tar"), &name]).fails(1, "404");
        server.join().expect("it was asked");
        let (address, server) = serve_once(
            "200 OK",
            b"<html>this is no archive, but a page of more than five hundred bytes</html>".repeat(20),
        );
        assert_ne!(cli.run(&["import", &format!("http://{address}/page"), &name]).code, 0);
        server.join().expect("it was asked");
        cli.run(&["import", "http://127.0.0.1:1/closed.tar", &name]).fails(1, "127.0.0.1:1");
        cli.run(&["inspect", &name]).fails(1, "no such");
    });
}

#[test]
fn every_instruction_of_a_change_is_in_the_image() {
    both(|world, cli| {
        let (container, name) = (world.name("changes"), world.name("changed"));
        cli.ok(&["create", "--name", &container, "-e", "KEPT=1", IMAGE, "sh"]);
        let changes = [
            "ENV NEW=2 OTHER=\"3 4\" PATH=/own:$PATH",
            "EXPOSE 80/tcp",
            "LABEL a=b c='d e'",
            "USER alice",
            "VOLUME /data",
            "WORKDIR /srv",
            "ENTRYPOINT [\"echo\", \"entry\"]",
            "CMD [\"default\"]",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN true",
        ];
        let flags: Vec<&str> = changes.iter().flat_map(|change| ["--change", change]).collect();
        let rest = ["--author", "somebody <a@b>", "--message", "why", "--pause=false", &container, &name];
        cli.ok(&[&["commit"], &flags[..], &rest[..]].concat());
        let show = "{{.Config.User}} {{.Config.WorkingDir}} {{json .Config.ExposedPorts}} {{json .Config.Volumes}} \
                    {{json .Config.Entrypoint}} {{json .Config.Cmd}} {{.Author}} {{.Comment}} {{json .Config.Labels}}";
        assert_eq!(
            cli.inspect(&name, show),
            "alice /srv {\"80/tcp\":{}} {\"/data\":{}} [\"echo\",\"entry\"] [\"default\"] somebody <a@b> why \
             {\"a\":\"b\",\"c\":\"d e\"}"
        );
        let env = cli.inspect(&name, "{{json .Config.Env}}");
        let path = cli.inspect(IMAGE, "{{json .Config.Env}}").replace("PATH=", "PATH=/own:");
        let path = path.trim_matches(['[', ']']);
        assert_eq!(env, format!("[{path},\"KEPT=1\",\"NEW=2\",\"OTHER=3 4\"]"));
        assert_eq!(cli.ok(&["run", "--rm", "--network", "none", &name]), "entry default");
        cli.ok(&["rm", &container]);
        cli.ok(&["rmi", &name]);
    });
}

#[test]
fn an_exported_container_is_imported_as_it_was() {
    both(|world, cli| {
        let (container, name) = (world.name("exported"), world.name("exported-image"));
        cli.ok(&[
            "run",
            "--name",
            &container,
            "-v",
            "/volume",
            IMAGE,
            "sh",
            "-c",
            "echo kept > /kept; ln /kept /again; echo x > /volume/x; chmod 4755 /bin/busybox",
        ]);
        let archive = cli.run(&["export", &container]);
        assert_eq!(archive.code, 0, "{archive}");
        cli.input(&["import", "-", &name], &archive.bytes).ok();
        let seen = "cat /kept; stat -c '%h %a' /again /bin/busybox; ls /volume | wc -l";
        assert_eq!(cli.ok(&["run", "--rm", &name, "sh", "-c", seen]), "kept\n2 644\n1 4755\n0");
        cli.ok(&["rm", "-v", &container]);
        cli.ok(&["rmi", &name]);
    });
}

/// As Docker 1.2 saved it: a directory for each layer, and `repositories`.
fn old_archive(name: &str) -> Vec<u8> {
    let id = "0123456789abcdef".repeat(4);
    let config = serde_json::json!({
        "id": id, "created": "2014-08-20T00:00:00Z", "docker_version": "1.2.0", "os": "linux",
        "architecture": image::architecture(), "config": {"Cmd": ["echo", "old"]},
        "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) ADD file"]},
    });
    let repositories = serde_json::json!({name: {"v1": id}});
    image::Layer::default()
        .directory(&id, 0o755)
        .file(&format!("{id}/VERSION"), 0o644, "1.0")
        .file(&format!("{id}/json"), 0o644, config.to_string())
        .file(&format!("{id}/layer.tar"), 0o644, image::busybox_layer().expect("a layer"))
        .file("repositories", 0o644, repositories.to_string())
        .finish()
        .expect("an archive")
}

#[test]
fn an_archive_from_before_there_were_digests_is_loaded_and_runs() {
    both(|world, cli| {
        let name = world.name("ancient");
        let loaded = cli.input(&["load"], old_archive(&name)).ok();
        assert!(loaded.contains(&format!("Loaded image: {name}:v1")), "{loaded}");
        assert_eq!(cli.ok(&["run", "--rm", &format!("{name}:v1")]), "old");
        let history = cli.ok(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", &format!("{name}:v1")]);
        assert_eq!(history, "/bin/sh -c #(nop) ADD file");
        cli.ok(&["rmi", &format!("{name}:v1")]);
    });
}
