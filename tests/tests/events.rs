//! events: everything that happens, as it happens, filtered.

use gantry_tests::{IMAGE, both};

#[test]
fn a_containers_life_is_told_in_order() {
    both(|world, cli| {
        let name = world.name("story");
        let filter = format!("container={name}");
        let format = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}";
        let mut session = cli.spawn(&["events", "--filter", &filter, "--format", format]);
        // Events from before the subscription are not told: make some until the first one is seen.
        gantry_tests::eventually("the subscription is there", || cli.ok(&["ps"]).contains("CONTAINER"));
        std::thread::sleep(std::time::Duration::from_millis(300));
        cli.run(&["run", "--name", &name, IMAGE, "sh", "-c", "exit 3"]).exits(3);
        cli.ok(&["rm", &name]);
        let mut told = Vec::new();
        loop {
            let line = session.line();
            let action = line.strip_prefix("container ").and_then(|rest| rest.strip_suffix(&format!(" {name}")));
            told.push(action.unwrap_or_else(|| panic!("{line}")).to_owned());
            if told.last().is_some_and(|action| action == "destroy") {
                break;
            }
        }
        told.retain(|action| action != "attach");
        assert_eq!(told, ["create", "start", "die", "destroy"]);
    });
}

/// The end of this second: a duration such as `0s` would be cut down to its beginning.
fn soon() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time after 1970");
    (now.as_secs() + 1).to_string()
}

#[test]
fn past_events_are_told_between_since_and_until() {
    both(|world, cli| {
        let name = world.name("past");
        cli.run(&["run", "--name", &name, "--label", "x=y", IMAGE, "sh", "-c", "exit 3"]).exits(3);
        cli.ok(&["rm", &name]);
        let killed = world.name("killed");
        cli.ok(&["run", "-d", "--name", &killed, IMAGE, "sleep", "600"]);
        cli.ok(&["stop", "-t", "0", &killed]);
        cli.ok(&["start", &killed]);
        cli.ok(&["rm", "-f", &killed]);
        let filter = format!("container={killed}");
        let format = "{{.Action}} {{.Actor.Attributes.signal}}";
        let told = cli.ok(&["events", "--since", "5m", "--until", &soon(), "--filter", &filter, "--format", format]);
        let told: Vec<&str> = told.lines().filter(|line| line.starts_with("kill") || line.starts_with("die")).collect();
        assert_eq!(told.len(), 5, "{told:?}");
        let absent = told[2].trim_start_matches("die");
        let die = format!("die{absent}");
        assert_eq!(told, ["kill 15", "kill 9", &die, "kill 9", &die]);
        let filter = format!("container={name}");
        let events =
            cli.ok(&["events", "--since", "5m", "--until", &soon(), "--filter", &filter, "--format", "{{json .}}"]);
        let events: Vec<serde_json::Value> =
            events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let die = events.iter().find(|event| event["Action"] == "die").expect("it died");
        assert_eq!(die["Actor"]["Attributes"]["exitCode"], "3");
        assert_eq!(die["Actor"]["Attributes"]["image"], IMAGE);
        assert_eq!(die["Actor"]["Attributes"]["x"], "y");
        let only =
            cli.ok(&["events", "--since", "5m", "--until", &soon(), "--filter", &filter, "--filter", "event=destroy"]);
        assert_eq!(only.lines().count(), 1, "{only}");
        assert!(only.contains(" container destroy "), "{only}");
    });
}

#[test]
fn image_events_are_told_too() {
    both(|world, cli| {
        let tag = world.name("told");
        cli.ok(&["tag", IMAGE, &tag]);
        cli.ok(&["rmi", &tag]);
        let format = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}";
        let told =
            cli.ok(&["events", "--since", "5m", "--until", &soon(), "--filter", "type=image", "--format", format]);
        assert!(told.contains(&format!("image tag {tag}:latest")), "{told}");
        assert!(told.contains("image untag "), "{told}");
    });
}
