//! What changes of networks leave as it was, and what they refuse.

use gantry_tests::{IMAGE, both, eventually, http};

use crate::{inside, of_network};

#[test]
fn a_second_connect_is_refused_whether_the_container_runs_or_not() {
    both(|world, cli| {
        let (network, name) = (world.name("net"), world.name("c"));
        cli.ok(&["network", "create", &network]);
        cli.ok(&["create", "--name", &name, IMAGE, "sleep", "600"]);
        cli.ok(&["network", "connect", "--alias", "first", &network, &name]);
        let again = ["network", "connect", "--alias", "second", &network, &name];
        cli.run(&again).fails(1, &format!("endpoint with name {name} already exists in network {network}"));
        cli.ok(&["start", &name]);
        cli.run(&again).fails(1, "already exists in network");
        assert!(of_network(cli, &name, &network, "Aliases").contains("first"));
        cli.ok(&["rm", "-f", &name]);
        cli.ok(&["network", "rm", &network]);
    });
}

#[test]
fn a_connect_that_fails_leaves_the_published_port_with_its_number() {
    both(|world, cli| {
        world.pull("web").expect("pull");
        let (first, second, name) = (world.name("m"), world.name("n"), world.name("web"));
        let prefix = world.daemon.slot().prefix();
        let numbers: Vec<&str> = prefix.split('.').collect();
        let subnet = format!("fd00:6a19:{}:{}::", numbers[1], numbers[2]);
        cli.ok(&["network", "create", "--ipv6", "--subnet", &format!("{subnet}/64"), &first]);
        cli.ok(&["network", "create", &second]);
        cli.ok(&["run", "-d", "--name", &name, "--network", &first, "-p", "[::]::80", "web"]);
        let port = || cli.inspect(&name, "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}");
        let before = port();
        let number: u16 = before.parse().expect("a port");
        let answers = || http::fetch(&format!("{subnet}1"), number).is_ok_and(|page| page.contains("hello"));
        eventually("it answers", answers);
        // The other network has no IPv6 to publish it by.
        let connect = ["network", "connect", "--gw-priority", "1", &second, &name];
        cli.run(&connect).fails(1, "has no IPv6");
        assert_eq!(port(), before);
        assert!(answers(), "it answers still");
        assert!(!inside(cli, &name).contains("eth1"));
        cli.ok(&["rm", "-f", &name]);
        cli.ok(&["network", "rm", &first, &second]);
    });
}

#[test]
fn what_a_container_wrote_into_its_hosts_file_stays_when_its_networks_and_links_change() {
    both(|world, cli| {
        let (network, db, web) = (world.name("net"), world.name("db"), world.name("web"));
        cli.ok(&["network", "create", &network]);
        cli.ok(&["run", "-d", "--name", &db, IMAGE, "sleep", "600"]);
        cli.ok(&["run", "-d", "--name", &web, "--link", &format!("{db}:db"), IMAGE, "sleep", "600"]);
        cli.ok(&["exec", &web, "sh", "-c", "echo '10.9.9.9 mine # own' >> /etc/hosts"]);
        let hosts = || cli.ok(&["exec", &web, "cat", "/etc/hosts"]);
        let has = |line: &str| hosts().lines().filter(|other| *other == line).count();
        let hostname = cli.inspect(&web, "{{.Config.Hostname}}");
        cli.ok(&["network", "connect", &network, &web]);
        let place = format!("{}\t{hostname}", of_network(cli, &web, &network, "IPAddress"));
        assert_eq!((has("10.9.9.9 mine # own"), has(&place)), (1, 1), "{}", hosts());
        cli.ok(&["network", "disconnect", &network, &web]);
        assert_eq!((has("10.9.9.9 mine # own"), has(&place)), (1, 0), "{}", hosts());
        // With another address, or the same one.
        let keeper = world.name("keeper");
        cli.ok(&["stop", "-t", "0", &db]);
        cli.ok(&["run", "-d", "--name", &keeper, IMAGE, "sleep", "600"]);
        cli.ok(&["start", &db]);
        let line =
            format!("{}\tdb {} {db}", of_network(cli, &db, "bridge", "IPAddress"), &cli.inspect(&db, "{{.Id}}")[..12]);
        assert_eq!((has("10.9.9.9 mine # own"), has(&line)), (1, 1), "{}", hosts());
        assert_eq!(hosts().matches("\tdb ").count(), 1, "{}", hosts());
        let answer = world.daemon.delete(&format!("/containers/{web}/db?link=1")).expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!((has("10.9.9.9 mine # own"), has(&line)), (1, 0), "{}", hosts());
        cli.ok(&["rm", "-f", &web, &db, &keeper]);
        cli.ok(&["network", "rm", &network]);
    });
}

#[test]
fn a_link_local_address_is_there_beside_the_networks_own() {
    both(|world, cli| {
        let (network, name) = (world.name("net"), world.name("c"));
        cli.ok(&["network", "create", &network]);
        let flags = ["--network", &network, "--link-local-ip", "169.254.7.9", "--link-local-ip", "fe80::7:9"];
        cli.ok(&[&["run", "-d", "--name", &name], &flags[..], &[IMAGE, "sleep", "600"]].concat());
        let seen = cli.ok(&["exec", &name, "ip", "-o", "addr", "show", "eth0"]);
        assert!(seen.contains("inet 169.254.7.9/16") && seen.contains("inet6 fe80::7:9/64"), "{seen}");
        assert!(seen.contains(&format!("inet {}/", of_network(cli, &name, &network, "IPAddress"))), "{seen}");
        assert_eq!(of_network(cli, &name, &network, "IPAMConfig.LinkLocalIPs"), "[169.254.7.9 fe80::7:9]");
        cli.ok(&["network", "disconnect", &network, &name]);
        cli.ok(&["network", "connect", "--link-local-ip", "169.254.7.10", &network, &name]);
        let seen = cli.ok(&["exec", &name, "ip", "-o", "addr", "show", "eth0"]);
        assert!(seen.contains("inet 169.254.7.10/16"), "{seen}");
        let bad = ["run", "--rm", "--network", &network, "--link-local-ip", "odd", IMAGE, "true"];
        cli.run(&bad).fails(125, "odd");
        cli.ok(&["rm", "-f", &name]);
        cli.ok(&["network", "rm", &network]);
    });
}

#[test]
fn an_application_of_two_services_finds_its_parts_by_their_names() {
    both(|world, cli| {
        world.pull("web").expect("pull");
        let project = world.name("app");
        let (network, api, worker) =
            (format!("{project}_default"), format!("{project}-api-1"), format!("{project}-worker-1"));
        let label = format!("com.docker.compose.project={project}");
        cli.ok(&["network", "create", "--label", &label, "--attachable", &network]);
        // As compose makes a service: with the service's name as an alias.
        let service = ["run", "-d", "--label", &label, "--network", &network, "--network-alias"];
        cli.ok(&[&service[..], &["api", "--name", &api, "web"]].concat());
        cli.ok(&[&service[..], &["worker", "--name", &worker, IMAGE, "sleep", "600"]].concat());
        let ask = |from: &str, name: &str| {
            let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {name} 80 | tail -1");
            cli.run(&["exec", from, "sh", "-c", &script]).stdout
        };
        eventually("the service answers by its name", || ask(&worker, "api").contains("hello"));
        assert!(ask(&worker, &api).contains("hello"), "by the container's");
        cli.ok(&["exec", &api, "nslookup", "worker"]);
        // A second one of it shares the name; the first goes.
        let second = format!("{project}-api-2");
        cli.ok(&[&service[..], &["api", "--name", &second, "web"]].concat());
        cli.ok(&["rm", "-f", &api]);
        eventually("the other one answers by the same name", || ask(&worker, "api").contains("hello"));
        let all = cli.ok(&["ps", "-aq", "--filter", &format!("label={label}")]);
        cli.ok(&[&["rm", "-f"][..], &all.lines().collect::<Vec<_>>()].concat());
        cli.ok(&["network", "rm", &network]);
    });
}
