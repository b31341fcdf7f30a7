//! Networks of others, and names that change hands: a team gets what it was judged by, and learns of nothing else.

use gantry_tests::http::{self, Response};
use gantry_tests::{IMAGE, Output};
use serde_json::{Value, json};

use super::{Doors, clients, doors, run};

fn team(doors: &Doors, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a home");
    let environment = [("DOCKER_HOST", format!("unix://{}", doors.file("team.sock").display()))];
    run(&clients()[0], home.path(), &environment, arguments)
}

fn post(doors: &Doors, path: &str, body: &Value) -> Response {
    http::unix(&doors.file("team.sock"), "POST", path, Some(body.to_string().as_bytes())).expect("an answer")
}

fn create(doors: &Doors, mode: &str, places: &Value) -> Response {
    let body = json!({ "Image": IMAGE, "Cmd": ["true"], "Labels": { "team": "a" },
        "HostConfig": { "NetworkMode": mode }, "NetworkingConfig": { "EndpointsConfig": places } });
    post(doors, "/containers/create", &body)
}

#[test]
fn no_answer_tells_a_team_of_a_network_that_is_not_its_own() {
    let doors = doors();
    let root = doors.world.gantry();
    // Until two begin alike: with sixteen digits no later than the seventeenth.
    let mut hidden: Vec<(String, String)> = Vec::new();
    let alike = loop {
        let name = doors.world.name(&format!("secret{}", hidden.len()));
        let id = root.ok(&["network", "create", "--driver", "bridge", "--internal", &name]);
        let digit = id[..1].to_owned();
        hidden.push((name, id));
        if hidden.iter().filter(|(_, id)| id.starts_with(&digit)).count() > 1 {
            break digit;
        }
    };
    let (name, id) = &hidden[0];
    let own = root.ok(&["create", "--label", "team=a", IMAGE, "true"]);
    let mut made = vec![own.clone()];
    for asked in [name, id, &id[..12].to_owned(), &alike] {
        let unknown = format!("network {asked} not found");
        let inspected = http::unix(&doors.file("team.sock"), "GET", &format!("/networks/{asked}"), None);
        let connect = post(&doors, &format!("/networks/{asked}/connect"), &json!({ "Container": own }));
        for (answer, status) in [
            (inspected.expect("an answer"), 404),
            (connect, 404),
            (create(&doors, asked, &json!({})), 400),
            (create(&doors, "bridge", &json!({ asked.as_str(): {} })), 400),
        ] {
            // A digit may be how one begins that everybody has, or a team's.
            if asked == &alike && !answer.text().contains("not found") {
                assert!(!answer.text().contains("secret"), "{}", answer.text());
                if answer.status == 201 {
                    made.push(answer.json()["Id"].as_str().expect("an id").to_owned());
                }
                continue;
            }
            assert_eq!((answer.status, answer.message()), (status, unknown.clone()), "{asked}");
        }
    }
    root.ok(&[&["rm"][..], &made.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    root.ok(&[&["network", "rm"][..], &hidden.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>()].concat());
}

#[test]
fn networks_that_a_team_names_are_shown_by_their_names_however_they_were_named() {
    let doors = doors();
    let root = doors.world.gantry();
    let net = doors.world.name("shown");
    let id = team(&doors, &["network", "create", "--label", "team=a", "--internal", &net]).ok();
    for mode in [net.as_str(), &id, &id[..12]] {
        for place in [net.as_str(), &id, &id[..12]] {
            let made = create(&doors, mode, &json!({ place: { "Aliases": ["alias"] } }));
            assert_eq!(made.status, 201, "{}", made.text());
            let made = made.json()["Id"].as_str().expect("an id").to_owned();
            let shown = root.inspect(
                &made,
                "{{.HostConfig.NetworkMode}} {{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.Aliases}}{{end}}",
            );
            assert_eq!(shown, format!("{net} {net} [alias]"), "{mode} {place}");
            root.ok(&["rm", &made]);
        }
    }
    let twice = create(&doors, &net, &json!({ net.as_str(): {}, id.as_str(): {} }));
    assert_eq!((twice.status, twice.message()), (400, format!("network {net} is named twice: name it once")));
    // Another container's is as good.
    let first = team(&doors, &["run", "-d", "--label", "team=a", "--network", &net, IMAGE, "sleep", "600"]).ok();
    for program in clients() {
        let home = tempfile::tempdir().expect("a home");
        let environment = [("DOCKER_HOST", format!("unix://{}", doors.file("team.sock").display()))];
        let other = format!("container:{}", root.inspect(&first, "{{slice .Name 1}}"));
        run(
            &program,
            home.path(),
            &environment,
            &["run", "--rm", "--label", "team=a", "--network", &other, IMAGE, "true"],
        )
        .ok();
    }
    root.ok(&["rm", "-f", &first]);
    root.ok(&["network", "rm", &net]);
}

#[test]
fn a_container_does_not_start_on_a_network_that_took_the_name_of_its_teams() {
    let doors = doors();
    let root = doors.world.gantry();
    let (net, second, own) = (doors.world.name("mode"), doors.world.name("place"), doors.world.name("placed"));
    for name in [&net, &second] {
        team(&doors, &["network", "create", "--label", "team=a", "--internal", name]).ok();
    }
    team(&doors, &["create", "--name", &own, "--label", "team=a", "--network", &net, IMAGE, "true"]).ok();
    team(&doors, &["network", "connect", &second, &own]).ok();
    team(&doors, &["start", &own]).ok();
    root.ok(&["wait", &own]);
    root.ok(&["network", "rm", &second]);
    root.ok(&["network", "create", "--internal", &second]);
    team(&doors, &["start", &own]).fails(1, &format!("network {second} not found"));
    root.ok(&["start", &own]);
    root.ok(&["wait", &own]);
    root.ok(&["rm", "-f", &own]);
    root.ok(&["network", "rm", &net, &second]);
}

#[test]
fn a_link_leads_to_the_container_that_was_called_so_when_it_was_made() {
    let doors = doors();
    let root = doors.world.gantry();
    let names = ["linknet", "linknet2", "linking", "linked", "linked-once"];
    let [net, other, own, linked, renamed] = names.map(|name| doors.world.name(name));
    for name in [&net, &other] {
        team(&doors, &["network", "create", "--label", "team=a", "--internal", name]).ok();
    }
    let id = team(&doors, &["create", "--name", &linked, "--label", "team=a", "--network", &net, IMAGE, "true"]).ok();
    let made = create(&doors, &net, &json!({ net.as_str(): { "Links": [format!("{linked}:alias")] } }));
    assert_eq!(made.status, 201, "{}", made.text());
    let linking = made.json()["Id"].as_str().expect("an id").to_owned();
    team(&doors, &["rename", &linking, &own]).ok();
    team(&doors, &["network", "connect", "--link", &format!("{linked}:other"), &other, &own]).ok();
    // Whoever is called so later is not meant.
    root.ok(&["rename", &linked, &renamed]);
    root.ok(&["create", "--name", &linked, IMAGE, "true"]);
    for (network, alias) in [(&net, "alias"), (&other, "other")] {
        let links = root.inspect(&own, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").Links}}}}"));
        assert_eq!(links, format!("[{id}:{alias}]"));
    }
    root.ok(&["rm", "-f", &own, &renamed, &linked]);
    root.ok(&["network", "rm", &net, &other]);
}
