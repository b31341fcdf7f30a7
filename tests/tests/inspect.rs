//! inspect, and the templates that scripts give to it.

use gantry_tests::{IMAGE, both};

#[test]
fn formats_walk_paths_json_range_index_and_len() {
    both(|world, cli| {
        let name = world.name("format");
        let mounts = world.daemon.home().display().to_string();
        let bind = format!("{mounts}:/mnt:ro");
        cli.ok(&[
            "create",
            "--name",
            &name,
            "-e",
            "A=1",
            "-v",
            &bind,
            "-p",
            "127.0.0.1:0:80",
            "--label",
            "x.y=z",
            IMAGE,
            "sh",
            "-c",
            "true",
        ]);
        let see = |format: &str| cli.inspect(&name, format);
        assert_eq!(see("{{.Name}}|{{.Config.Image}}|{{.State.Status}}"), format!("/{name}|{IMAGE}|created"));
        assert_eq!(see("{{json .Config.Cmd}}"), r#"["sh","-c","true"]"#);
        assert_eq!(see("{{index .Config.Cmd 1}}"), "-c");
        assert_eq!(see("{{index .Config.Labels \"x.y\"}}"), "z");
        assert_eq!(see("{{len .Config.Cmd}}"), "3");
        assert_eq!(see("{{range .Config.Cmd}}<{{.}}>{{end}}"), "<sh><-c><true>");
        assert_eq!(see("{{range $i, $e := .Config.Cmd}}{{$i}}={{$e}} {{end}}").trim(), "0=sh 1=-c 2=true");
        assert_eq!(see("{{range .Mounts}}{{.Source}}:{{.Destination}}:{{.RW}}{{end}}"), format!("{mounts}:/mnt:false"));
        assert_eq!(see("{{if .State.Running}}up{{else}}down{{end}}"), "down");
        assert_eq!(see("{{.HostConfig.Binds}}"), format!("[{bind}]"));
        assert_eq!(see("{{range $p, $b := .HostConfig.PortBindings}}{{$p}}{{end}}"), "80/tcp");
        cli.run(&["inspect", "-f", "{{.No.Such}}", &name]).fails(1, "no");
        cli.run(&["inspect", "-f", "{{", &name]).fails(64, "template");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn top_has_the_columns_that_are_asked_for() {
    both(|world, cli| {
        let name = world.name("top");
        cli.ok(&["run", "-d", "--name", &name, "--user", "1234", IMAGE, "sleep", "600"]);
        let lines = |arguments: &[&str]| -> Vec<Vec<String>> {
            let shown = cli.ok(&[&["top", &name], arguments].concat());
            shown.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
        };
        let pid = cli.inspect(&name, "{{.State.Pid}}");
        assert_eq!(
            lines(&["-o", "pid,uid,comm"]),
            [vec!["PID", "UID", "COMMAND"], vec![pid.as_str(), "1234", "sleep"]]
        );
        let long = lines(&["aux"]);
        assert_eq!(long[0].join(" "), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        assert_eq!((long[1][0].as_str(), &long[1][1], long[1][10..].join(" ")), ("1234", &pid, "sleep 600".to_owned()));
        cli.run(&["top", &name, "-o", "comm"]).fails(1, "PID");
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn inspect_prints_a_list_of_whole_documents() {
    both(|world, cli| {
        let name = world.name("document");
        let id = cli.ok(&["create", "--name", &name, IMAGE, "true"]);
        let text = cli.ok(&["inspect", &name, IMAGE]);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let list = value.as_array().expect("a list");
        assert_eq!(list.len(), 2);
        assert_eq!(list[0]["Id"], id.as_str());
        for key in
            ["Created", "Path", "Args", "State", "Image", "HostConfig", "Mounts", "Config", "NetworkSettings", "Driver"]
        {
            assert!(!list[0][key].is_null(), "no {key}");
        }
        assert_eq!(list[0]["Path"], "true");
        for key in ["Id", "RepoTags", "RepoDigests", "Created", "Architecture", "Os", "Size", "RootFS", "Config"] {
            assert!(!list[1][key].is_null(), "no {key} of the image");
        }
        assert_eq!(list[0]["Image"], list[1]["Id"]);
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn what_is_not_there_is_named_and_the_rest_is_shown() {
    both(|world, cli| {
        let name = world.name("partly");
        cli.ok(&["create", "--name", &name, IMAGE]);
        let out = cli.run(&["inspect", "-f", "{{.Name}}", &name, "no-such-thing"]);
        out.fails(1, "no such object: no-such-thing");
        assert_eq!(out.stdout, format!("/{name}\n"));
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn version_and_info_speak_for_client_and_daemon() {
    both(|world, cli| {
        let version = cli.ok(&["version", "--format", "{{.Server.APIVersion}} {{.Server.Os}}/{{.Server.Arch}}"]);
        assert!(version.ends_with(&format!(" linux/{}", gantry_tests::image::architecture())), "{version}");
        let root = world.daemon.data_root().display().to_string();
        assert_eq!(cli.ok(&["info", "--format", "{{.DockerRootDir}}"]), root);
        assert!(cli.ok(&["info"]).contains("Storage Driver: "));
    });
}

#[test]
fn inspect_says_where_the_layers_of_an_image_and_a_container_lie() {
    both(|world, cli| {
        let name = world.name("places");
        cli.ok(&["create", "--name", &name, IMAGE, "true"]);
        let see = |what: &str, key: &str| {
            let format = format!("{{{{with index .GraphDriver.Data {key:?}}}}}{{{{.}}}}{{{{end}}}}");
            cli.inspect(what, &format)
        };
        let upper = see(IMAGE, "UpperDir");
        assert!(std::path::Path::new(&upper).join("bin").is_dir(), "{upper}");
        assert_eq!(see(&name, "LowerDir").split(':').next(), Some(&*upper));
        assert!(see(IMAGE, "MergedDir").ends_with("/merged") && see(&name, "MergedDir").ends_with("/merged"));
        for key in ["UpperDir", "WorkDir"] {
            assert!(std::path::Path::new(&see(&name, key)).is_dir(), "{key}");
        }
        std::fs::write(std::path::Path::new(&see(&name, "UpperDir")).join("beside"), "x")
            .expect("write into the layer");
        assert_eq!(cli.ok(&["diff", &name]), "A /beside");
        cli.ok(&["rm", &name]);
    });
}
