//! `gantry network doctor`.

use gantry_tests::{IMAGE, world};

#[test]
fn the_doctor_says_in_one_sentence_what_is_wrong_and_what_helps() {
    let world = world();
    let cli = world.gantry();
    let (network, name) = (world.name("ward"), world.name("patient"));
    // What an internal network needs, any host has.
    cli.ok(&["network", "create", "--internal", &network]);
    cli.ok(&["run", "-d", "--name", &name, "--cap-add", "NET_ADMIN", "--network", &network, IMAGE, "sleep", "600"]);
    let doctor = || cli.run(&["network", "doctor", &name]);
    let well = format!("{name}: all is well on network {network}");
    assert_eq!(doctor().ok(), well);
    let finds = |words: &str| {
        let out = doctor();
        assert!(out.code == 1 && out.stdout.lines().count() == 1 && out.stdout.contains(words), "{words}: {out}");
    };
    let (second, third) = (world.name("second"), world.name("third"));
    for (name, other) in [(&second, &name), (&third, &second)] {
        cli.ok(&["run", "-d", "--name", name, "--network", &format!("container:{other}"), IMAGE, "sleep", "600"]);
    }
    assert_eq!(cli.run(&["network", "doctor", &third]).ok(), well, "whose network it is, however it is shared");
    cli.ok(&["stop", "-t", "0", &third, &second]);
    cli.ok(&["exec", &name, "ip", "link", "set", "lo", "down"]);
    let restart = format!("restart the container, which makes it anew: gantry restart {name}");
    finds(&format!("{name}, network {network}: link lo is down inside the container: {restart}"));
    let out = cli.run(&["network", "doctor", "--format", "json", &name]);
    let told: serde_json::Value = serde_json::from_str(&out.stdout).expect("JSON");
    assert_eq!((out.code, &told["Check"], &told["Healthy"]), (1, &"link".into(), &false.into()), "{out}");
    assert_eq!(
        (&told["Remedy"], &told["Fix"]),
        (&"restart".into(), &"restart the container, which makes it anew".into())
    );
    cli.ok(&["restart", "-t", "0", &name]);
    assert_eq!(doctor().ok(), well, "what it said helps");
    cli.ok(&["exec", &name, "sh", "-c", "echo '# nothing' > /etc/resolv.conf"]);
    finds("the container's /etc/resolv.conf names no server");
    cli.ok(&["exec", &name, "ip", "addr", "flush", "dev", "eth0"]);
    finds("link eth0 of the container has no address");
    cli.ok(&["stop", "-t", "0", &name]);
    finds("it is not running");
    cli.run(&["network", "doctor", "no-such"]).fails(1, "No such container: no-such");
    cli.ok(&["rm", "-f", &name]);
    let gone = cli.run(&["network", "doctor", &third]);
    assert!(gone.code == 1 && gone.stdout.contains("the container whose network it shares is gone"), "{gone}");
    cli.ok(&["rm", "-f", &second, &third]);
    cli.ok(&["network", "rm", &network]);
}
