//! Images: pull, tag, rmi, import, by tag and digest.

use std::process::Command;

use gantry_tests::{IMAGE, both, command, image};

#[test]
fn pull_says_what_it_did_and_a_second_one_that_nothing_changed() {
    both(|world, cli| {
        let own = world.push_own("pulled").expect("push");
        let name = world.registry.name(&own);
        let digest = world.registry.manifest_digest(&own, "latest").expect("a digest");
        let first = cli.ok(&["pull", &name]);
        assert!(first.contains(&format!("Digest: {digest}")), "{first}");
        assert!(first.contains(&format!("Status: Downloaded newer image for {name}:latest")), "{first}");
        assert!(first.contains("Using default tag: latest"), "{first}");
        let again = cli.ok(&["pull", &name]);
        assert!(again.contains(&format!("Status: Image is up to date for {name}:latest")), "{again}");
        assert!(again.ends_with(&format!("{name}:latest")), "{again}");
        cli.ok(&["rmi", &name]);
    });
}

#[test]
fn pull_by_digest_runs_and_is_listed_without_a_tag() {
    both(|world, cli| {
        let own = world.push_own("digest").expect("push");
        let digest = world.registry.manifest_digest(&own, "latest").expect("a digest");
        let name = format!("{}@{digest}", world.registry.name(&own));
        cli.ok(&["pull", "-q", &name]);
        assert_eq!(cli.ok(&["run", "--rm", &name]), "new");
        assert!(cli.inspect(&name, "{{json .RepoDigests}}").contains(&digest));
        cli.ok(&["rmi", &name]);
    });
}

#[test]
fn every_tag_of_a_repository_comes_with_all_tags() {
    both(|world, cli| {
        let own = world.name("tagged");
        let standard = image::standard().expect("images");
        for (tag, (_, image)) in ["1", "2.0", "latest"].iter().zip(&standard) {
            world.registry.push(&own, tag, image).expect("push");
        }
        let name = world.registry.name(&own);
        let said = cli.ok(&["pull", "-a", &name]);
        let has = |tag: &str| said.contains(&format!("{tag}: Pulling from {own}"));
        assert!(["1", "2.0", "latest"].into_iter().all(has), "{said}");
        assert_eq!(said.matches(&format!("Status: Downloaded newer image for {name}")).count(), 1, "{said}");
        let mut tags: Vec<_> = cli.ok(&["images", "--format", "{{.Tag}}", &name]).lines().map(str::to_owned).collect();
        tags.sort();
        assert_eq!(tags, ["1", "2.0", "latest"]);
        cli.run(&["pull", "-a", &format!("{name}:1")]).fails(1, "tag can't be used with --all-tags/-a");
        ["1", "2.0", "latest"].iter().for_each(|tag| drop(cli.ok(&["rmi", &format!("{name}:{tag}")])));
    });
}

#[test]
fn layers_whiteouts_and_ownership_are_as_in_the_archive() {
    both(|world, cli| {
        let name = world.registry.name("layered");
        assert_eq!(cli.ok(&["run", "--rm", &name, "ls", "/data"]), "new", "the whiteout hides the seed");
        let name = world.registry.name("seeded");
        let out = cli.ok(&["run", "--rm", &name, "stat", "-c", "%u:%g %a %s", "/data/seed"]);
        assert_eq!(out, "1000:1000 640 15");
    });
}

#[test]
fn what_cannot_be_pulled_is_named() {
    both(|world, cli| {
        let absent = world.registry.name("no-such-image");
        let out = cli.run(&["pull", &absent]);
        assert_eq!(out.code, 1, "{out}");
        assert!(out.stderr.contains("no-such-image"), "{out}");
        let out = cli.run(&["pull", &format!("{}:no-such-tag", world.registry.name("busybox"))]);
        out.fails(1, "no-such-tag");
        let (name, tag) = absent.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((&absent, "latest"));
        let answer = world.daemon.post(&format!("/images/create?fromImage={name}&tag={tag}"), None).expect("an answer");
        assert_eq!(answer.status, 404, "programs look at the status: {}", answer.text());
        cli.run(&["pull", "UPPER/Case"]).fails(1, "invalid reference format");
        cli.run(&["pull", "127.0.0.1:1/nobody/there"]).fails(1, "127.0.0.1:1");
    });
}

#[test]
fn tags_are_names_and_rmi_removes_the_last_one_with_the_image() {
    both(|world, cli| {
        let source = world.registry.name(&world.push_own("tagged").expect("push"));
        cli.ok(&["pull", "-q", &source]);
        let id = cli.inspect(&source, "{{.Id}}");
        let (one, two) = (world.name("tag-a"), format!("example.com/team/{}:v1", world.name("tag-b")));
        cli.ok(&["tag", &source, &one]);
        cli.ok(&["tag", &one, &two]);
        assert_eq!(cli.inspect(&two, "{{.Id}}"), id);
        let images = cli.ok(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
        assert!(images.contains(&format!("{one}:latest {}", &id["sha256:".len()..][..12])), "{images}");
        assert!(images.contains(&two), "{images}");
        let out = cli.ok(&["rmi", &two]);
        assert!(out.contains(&format!("Untagged: {two}")) && !out.contains("Deleted"), "{out}");
        cli.ok(&["rmi", &one]);
        cli.run(&["inspect", &one]).fails(1, "no such");
        cli.run(&["tag", "no-such-image", "x"]).fails(1, "no such image: no-such-image");
        cli.run(&["tag", IMAGE, "sha256:x"]).fails(1, "ambiguous tag");
        cli.run(&["tag", IMAGE, "Not:Valid:Ref"]).fails(1, "invalid reference format");
        cli.run(&["rmi", "no-such-image"]).fails(1, "no such image: no-such-image");
    });
}

#[test]
fn an_image_in_use_is_kept_unless_forced() {
    both(|world, cli| {
        let source = world.registry.name(&world.push_own("used").expect("push"));
        cli.ok(&["pull", "-q", &source]);
        let name = world.name("user");
        cli.ok(&["run", "-d", "--name", &name, &source, "sleep", "600"]);
        let out = cli.run(&["rmi", &source]);
        assert_eq!(out.code, 1, "{out}");
        assert!(out.stderr.contains("is using") || out.stderr.contains("is being used"), "{out}");
        cli.ok(&["rm", "-f", &name]);
        cli.ok(&["rmi", &source]);
    });
}

#[test]
fn import_makes_an_image_of_a_root_file_system() {
    both(|world, cli| {
        let name = world.name("imported");
        let archive = world.daemon.home().join(format!("{name}.tar"));
        std::fs::write(&archive, image::busybox_layer().expect("a layer")).expect("an archive");
        let path = archive.display().to_string();
        let id = cli.ok(&[
            "import",
            "-c",
            "CMD [\"echo\",\"hello\"]",
            "-c",
            "ENV A=b",
            "-m",
            "made by a test",
            &path,
            &name,
        ]);
        assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
        assert_eq!(cli.ok(&["run", "--rm", &name]), "hello");
        assert!(cli.inspect(&name, "{{json .Config.Env}}").contains("A=b"));
        let bytes = std::fs::read(&archive).expect("the archive");
        let again = cli.input(&["import", "-", &format!("{name}:stdin")], bytes);
        assert!(again.ok().starts_with("sha256:"), "{again}");
        cli.ok(&["rmi", &name, &format!("{name}:stdin")]);
    });
}

#[test]
fn import_takes_a_compressed_archive() {
    both(|world, cli| {
        let name = world.name("gzipped");
        let archive = world.daemon.home().join(format!("{name}.tar"));
        std::fs::write(&archive, image::busybox_layer().expect("a layer")).expect("an archive");
        command::succeed(Command::new("gzip").arg("-1f").arg(&archive), command::LIMIT).expect("gzip");
        cli.ok(&["import", &format!("{}.gz", archive.display()), &name]);
        assert_eq!(cli.ok(&["run", "--rm", &name, "echo", "ok"]), "ok");
        cli.ok(&["rmi", &name]);
    });
}

#[test]
fn images_filters_and_quiet() {
    both(|_, cli| {
        let short = cli.ok(&["images", "-q", IMAGE]);
        assert_eq!(short.len(), 12, "{short}");
        let long = cli.ok(&["images", "-q", "--no-trunc", IMAGE]);
        assert!(long.starts_with("sha256:") && long.contains(&short), "{long}");
        let table = cli.ok(&["images", IMAGE]);
        let head: Vec<&str> =
            table.lines().next().unwrap_or_default().split("  ").map(str::trim).filter(|w| !w.is_empty()).collect();
        assert_eq!(head, ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
        assert_eq!(cli.ok(&["images", "-q", "--filter", "reference=no-such*"]), "");
    });
}

#[test]
fn an_image_for_another_architecture_says_so() {
    both(|world, cli| {
        let name = world.registry.name("wrongarch");
        let out = cli.run(&["run", "--rm", &name]);
        assert!(out.stderr.contains("s390x"), "the architecture is named: {out}");
        cli.run(&["rmi", "-f", &name]).ok();
    });
}
