//! `images`, `history`, `inspect` and `rmi`: filters, columns, platforms, and who keeps an image.

use gantry_tests::{Cli, IMAGE, World, both};

fn own(world: &World, cli: &Cli<'_>, base: &str) -> String {
    let name = world.registry.name(&world.push_own(base).expect("push"));
    cli.ok(&["pull", "-q", &name]);
    name
}

/// An image on top of another, with a label that is the comment as well.
fn child(world: &World, cli: &Cli<'_>, base: &str, name: &str, label: &str) -> String {
    let container = world.name("maker");
    cli.ok(&["run", "--name", &container, base, "sh", "-c", "echo $RANDOM > /made"]);
    let id = cli.ok(&["commit", "-c", &format!("LABEL {label}"), "-m", label, &container, name]);
    cli.ok(&["rm", &container]);
    id
}

#[test]
fn images_are_filtered_by_label_age_and_kin() {
    both(|world, cli| {
        let (one, two, label) = (world.name("filter-one"), world.name("filter-two"), world.name("filtered"));
        let first = child(world, cli, IMAGE, &one, &format!("{label}=1"));
        let second = child(world, cli, IMAGE, &two, &format!("{label}=2"));
        let ids = |filters: &[&str]| -> Vec<String> {
            let filters = filters.iter().flat_map(|filter| ["--filter", filter]);
            let arguments: Vec<&str> = ["images", "-q", "--no-trunc"].into_iter().chain(filters).collect();
            cli.ok(&arguments).lines().map(str::to_owned).collect()
        };
        let labelled = format!("label={label}");
        assert_eq!(ids(&[&labelled]), [second.as_str(), first.as_str()], "newest first");
        assert_eq!(ids(&[&format!("label={label}=1")]), [first.as_str()]);
        assert_eq!(ids(&[&labelled, &format!("since={one}")]), [second.as_str()]);
        assert_eq!(ids(&[&labelled, &format!("before={two}")]), [first.as_str()]);
        assert_eq!(ids(&[&labelled, "until=1h"]), [""; 0], "they are younger");
        assert_eq!(ids(&[&labelled, "until=2100-01-01T00:00:00Z"]).len(), 2);
        assert_eq!(ids(&["reference=filter-*", &labelled]).len(), 2);
        assert_eq!(ids(&[&format!("reference={two}:latest"), &labelled]), [second.as_str()]);
        assert_eq!(ids(&[&labelled, "dangling=true"]), [""; 0]);
        cli.ok(&["tag", &two, &one]);
        assert_eq!(ids(&[&labelled, "dangling=true"]), [first.as_str()], "its name went to the other");
        let shown = cli.ok(&["images", "--filter", &labelled, "--format", "{{.Repository}}:{{.Tag}}"]);
        assert!(shown.lines().any(|line| line == "<none>:<none>"), "{shown}");
        cli.run(&["images", "--filter", "no-such=1"]).fails(1, "invalid filter");
        cli.run(&["images", "--filter", "until=yesterday"]).fails(1, "yesterday");
        cli.ok(&["rmi", &first, &one, &two]);
    });
}

#[test]
fn digests_are_shown_as_they_were_pulled() {
    both(|world, cli| {
        let pushed = world.push_own("digests").expect("push");
        let (name, digest) =
            (world.registry.name(&pushed), world.registry.manifest_digest(&pushed, "latest").expect("a digest"));
        cli.ok(&["pull", "-q", &name]);
        let line =
            cli.ok(&["images", "--digests", "--no-trunc", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}", &name]);
        assert_eq!(line, format!("{name} latest {digest}"));
        let by_digest = format!("{name}@{digest}");
        assert_eq!(cli.inspect(&by_digest, "{{.Id}}"), cli.inspect(&name, "{{.Id}}"));
        let gone = cli.ok(&["rmi", &name]);
        assert!(gone.contains(&format!("Untagged: {by_digest}")) && gone.contains("Deleted: sha256:"), "{gone}");
    });
}

#[test]
fn the_history_names_the_images_on_the_way_down() {
    both(|world, cli| {
        let (one, two) = (world.name("history-one"), world.name("history-two"));
        let first = child(world, cli, IMAGE, &one, "a=1");
        let second = child(world, cli, &one, &two, "b=2");
        let ids = cli.ok(&["history", "-q", "--no-trunc", &two]);
        let ids: Vec<&str> = ids.lines().collect();
        assert_eq!(ids[..2], [second.as_str(), first.as_str()]);
        let steps = cli.ok(&["history", "--format", "{{.Comment}}", &two]);
        assert_eq!(steps.lines().take(2).collect::<Vec<_>>(), ["b=2", "a=1"], "newest first");
        cli.run(&["rmi", &one]).ok();
        assert_eq!(
            cli.ok(&["rmi", &two]).lines().filter(|line| line.starts_with("Deleted: ")).count(),
            4,
            "the nameless parent goes with it"
        );
        cli.run(&["inspect", &first]).fails(1, "no such");
    });
}

#[test]
fn an_image_is_for_its_platform_and_says_so() {
    both(|world, cli| {
        let name = own(world, cli, "platform");
        let file = world.daemon.home().join(world.name("platform.tar")).display().to_string();
        cli.run(&["save", "--platform", "linux/s390x", "-o", &file, &name])
            .fails(1, "does not match the specified platform");
        cli.ok(&["save", "--platform", &format!("linux/{}", gantry_tests::image::architecture()), "-o", &file, &name]);
        cli.run(&["load", "--platform", "linux/s390x", "-i", &file]).fails(1, "linux/s390x");
        cli.run(&["pull", "--platform", "linux/s390x", &name]).fails(1, "s390x");
        cli.run(&["pull", "--platform", "not a platform", &name]).fails(1, "platform");
        std::fs::remove_file(&file).expect("the archive");
        cli.ok(&["rmi", &name]);
    });
}

#[test]
fn rmi_keeps_what_is_used_and_takes_all_names_by_force() {
    both(|world, cli| {
        let (name, other, container) = (own(world, cli, "kept"), world.name("kept-too"), world.name("keeper"));
        let id = cli.inspect(&name, "{{.Id}}");
        cli.ok(&["tag", &name, &other]);
        cli.run(&["rmi", &id]).fails(1, "must be forced) - image is referenced in multiple repositories");
        cli.ok(&["create", "--name", &container, &name, "sleep", "1000"]);
        let short = cli.inspect(&container, "{{.Id}}")[..12].to_owned();
        assert!(cli.ok(&["rmi", &other]).starts_with("Untagged: "), "another name may go");
        cli.run(&["rmi", &name]).fails(1, &format!("container {short} is using its referenced image"));
        cli.run(&["rmi", &id]).fails(1, &format!("image is being used by stopped container {short}"));
        cli.ok(&["start", &container]);
        cli.ok(&["rmi", "-f", &name]);
        assert_eq!(cli.inspect(&id, "{{json .RepoTags}}"), "[]", "it is in use and stays without a name");
        cli.ok(&["rm", "-f", &container]);
        cli.ok(&["rmi", "-f", &id]);
        let name = own(world, cli, "forced");
        cli.ok(&["create", "--name", &container, &name]);
        let gone = cli.ok(&["rmi", "-f", &name]);
        assert!(gone.contains("Deleted: sha256:"), "a stopped container keeps no image by force: {gone}");
        assert_eq!(cli.ok(&["start", "-a", &container]), "new", "and has its files all the same");
        cli.ok(&["rm", &container]);
    });
}

#[test]
fn the_graph_is_drawn() {
    both(|world, cli| {
        let name = own(world, cli, "drawn");
        let dot = world.daemon.get("/images/viz").expect("the graph");
        assert_eq!(dot.status, 200);
        assert!(dot.text().starts_with("digraph docker {") && dot.text().contains(&name), "{}", dot.text());
        if cli.kind == gantry_tests::Kind::Gantry {
            let drawn = cli.ok(&["images", "--viz"]);
            assert!(drawn.starts_with("digraph docker {") && drawn.contains(&name), "{drawn}");
            let tree = cli.ok(&["images", "--tree"]);
            let line = tree.lines().find(|line| line.contains(&name)).unwrap_or_else(|| panic!("{tree}"));
            assert!(line.contains("─") && line.contains(" Virtual Size: "), "{line}");
        }
        cli.ok(&["rmi", &name]);
    });
}
