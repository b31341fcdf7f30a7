//! What cannot be is refused, and the kernel stays as it is.

use gantry_tests::kernel::Snapshot;
use gantry_tests::{IMAGE, Options, World};

use super::subnet;

#[test]
fn what_cannot_be_is_refused_with_dockers_status_and_nothing_changes() {
    // Its own, as what others do meanwhile changes the kernel, too.
    let world = World::start(Options::default()).expect("a daemon");
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    let (network, container) = (world.name("there"), world.name("c"));
    let base = subnet(&world, 2);
    cli.ok(&["network", "create", "--subnet", &format!("{base}/28"), &network]);
    cli.ok(&["run", "-d", "--name", &container, "--network", &network, IMAGE, "sleep", "600"]);
    let before = Snapshot::settled(&world.daemon);
    let create = |body: serde_json::Value| ("/networks/create".to_owned(), Some(body));
    let ipam = |config: serde_json::Value| serde_json::json!({"Name": "bad", "IPAM": {"Config": [config]}});
    let connect = |network: &str, body: serde_json::Value| (format!("/networks/{network}/connect"), Some(body));
    let overlapping = format!("{base}/29");
    let refused = [
        (create(serde_json::json!({"Name": network})), 409, "already exists"),
        (create(serde_json::json!({"Name": ""})), 400, "name is empty"),
        (create(serde_json::json!({"Name": "bridge"})), 403, "predefined bridge network"),
        (create(serde_json::json!({"Name": "bad", "Driver": "no-such"})), 404, "plugin not found"),
        (create(serde_json::json!({"Name": "bad", "Driver": "host"})), 403, "only one instance of \"host\""),
        (create(serde_json::json!({"Name": "bad", "EnableIPv4": false})), 400, "IPv4 or IPv6 must be enabled"),
        (
            create(ipam(serde_json::json!({"Subnet": overlapping}))),
            403,
            "Pool overlaps with other one on this address space",
        ),
        (create(ipam(serde_json::json!({"Subnet": "10.1.0.0/33"}))), 400, "invalid CIDR block notation"),
        (create(ipam(serde_json::json!({"Subnet": "10.1.0.1/24"}))), 400, "it should be 10.1.0.0/24"),
        (
            create(ipam(serde_json::json!({"Subnet": "10.1.0.0/24", "Gateway": "10.2.0.1"}))),
            400,
            "doesn't contain this address",
        ),
        (
            create(ipam(serde_json::json!({"Subnet": "10.1.0.0/24", "IPRange": "10.2.0.0/25"}))),
            400,
            "doesn't contain ip-range",
        ),
        (
            create(serde_json::json!({"Name": "bad", "Options": {"com.docker.network.driver.mtu": "x"}})),
            400,
            "com.docker.network.driver.mtu",
        ),
        (
            create(serde_json::json!({"Name": "bad", "Options": {"com.docker.network.bridge.name": "lo"}})),
            403,
            "is no bridge",
        ),
        (connect("no-such", serde_json::json!({"Container": container})), 404, "network no-such not found"),
        (connect(&network, serde_json::json!({"Container": "no-such"})), 404, "No such container: no-such"),
        (connect(&network, serde_json::json!({"Container": container})), 403, "already exists in network"),
        (connect("host", serde_json::json!({"Container": container})), 400, "cannot connect container to host network"),
        (connect("none", serde_json::json!({"Container": container})), 400, "private (none) mode"),
        (
            connect(
                "bridge",
                serde_json::json!({"Container": container,
                "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.1.1.1"}}}),
            ),
            400,
            "user specified IP address is supported on user defined networks only",
        ),
        (
            connect("bridge", serde_json::json!({"Container": container, "EndpointConfig": {"MacAddress": "x"}})),
            400,
            "invalid MAC address",
        ),
        (
            (format!("/networks/{network}/disconnect"), Some(serde_json::json!({"Container": "no-such"}))),
            404,
            "no-such",
        ),
        (
            ("/networks/bridge/disconnect".into(), Some(serde_json::json!({"Container": container}))),
            500,
            "is not connected",
        ),
    ];
    for ((path, body), status, text) in refused {
        let answer = world.daemon.post(&path, body.as_ref()).expect("an answer");
        let said = format!("{path} {body:?}: {} {}", answer.status, answer.text());
        assert!(answer.status == status && answer.message().contains(text), "want {status} {text:?}: {said}");
    }
    for (name, status, text) in [
        ("bridge", 403, "is a pre-defined network and cannot be removed"),
        ("no-such", 404, "network no-such not found"),
        (network.as_str(), 403, "has active endpoints"),
    ] {
        let answer = world.daemon.delete(&format!("/networks/{name}")).expect("an answer");
        assert!(
            answer.status == status && answer.message().contains(text),
            "{name}: {} {}",
            answer.status,
            answer.text()
        );
    }
    for (flags, text) in [
        (
            vec!["--network", &network, "--ip", "10.1.1.1"],
            "no configured subnet or ip-range contain the IP address 10.1.1.1",
        ),
        (vec!["--network", "bridge", "--network", "host"], "cannot attach both user-defined and non-user-defined"),
        (vec!["--network-alias", "a"], "network-scoped alias"),
        (vec!["--network", "no-such"], "network no-such not found"),
    ] {
        cli.run(&[&["run", "--rm"], &flags[..], &[IMAGE, "true"]].concat()).fails(125, text);
    }
    before.assert_restored(&world.daemon);
    cli.ok(&["rm", "-f", &container]);
    cli.ok(&["network", "rm", &network]);
}

#[test]
fn a_network_with_ipv6_is_refused_where_the_kernel_has_none_and_nothing_changes() {
    // Without the settings of IPv6, as on a kernel that runs without it.
    let hidden = r#"mount -t tmpfs none /proc/sys/net/ipv6 && exec "$@""#;
    let before = ["unshare", "--mount", "/bin/sh", "-c", hidden, "hidden"].map(str::to_owned).to_vec();
    let world = World::start(Options { before, ..Options::default() }).expect("a daemon");
    let before = Snapshot::settled(&world.daemon);
    let asked = serde_json::json!({"Name": "bad", "EnableIPv6": true});
    let answer = world.daemon.post("/networks/create", Some(&asked)).expect("an answer");
    assert!(answer.status == 400 && answer.message().contains("IPv6 is not available"), "{}", answer.text());
    before.assert_restored(&world.daemon);
}
