//! What people are told who do not get to the daemon at all.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use gantry_tests::{Output, command, paths};

use super::{clients, run};

fn ask(socket: &Path) -> Output {
    let home = tempfile::tempdir().expect("a home");
    let address = format!("unix://{}", socket.display());
    run(&clients()[0], home.path(), &[("DOCKER_HOST", address.clone())], &["ps"])
}

#[test]
fn where_nobody_listens_the_person_is_asked_whether_the_daemon_runs() {
    let files = tempfile::tempdir().expect("a directory");
    let none = files.path().join("none.sock");
    ask(&none)
        .fails(1, &format!("Cannot connect to the Docker daemon at unix://{}. Is the docker daemon", none.display()));
    let left = files.path().join("left.sock");
    drop(UnixListener::bind(&left).expect("a socket"));
    ask(&left).fails(1, "Is the docker daemon running?");
    std::fs::write(files.path().join("file"), "").expect("write a file");
    ask(&files.path().join("file")).fails(1, "Is the docker daemon running?");
}

#[test]
fn who_may_not_use_the_socket_is_told_which_group_may() {
    let setpriv = paths::need("setpriv").expect("setpriv");
    let gantry = std::path::absolute(&clients()[0]).expect("the binary");
    let nobody = |program: &Path, arguments: &[&str]| -> Output {
        let mut command = Command::new(&setpriv);
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(arguments);
        command.env_remove("DOCKER_HOST").env("HOME", "/nonexistent");
        command::run(&mut command, None, command::LIMIT).unwrap_or_else(|error| panic!("{error:?}"))
    };
    if nobody(Path::new("test"), &["-x", &gantry.display().to_string()]).code != 0 {
        return gantry_tests::skip("the binary is where other users cannot run it");
    }
    let files = tempfile::tempdir().expect("a directory");
    let open =
        |mode: u32| std::fs::set_permissions(files.path(), std::fs::Permissions::from_mode(mode)).expect("chmod");
    let socket = files.path().join("sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let ask = |mode: u32| {
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(mode)).expect("chmod");
        nobody(&gantry, &["-H", &format!("unix://{}", socket.display()), "ps"])
    };
    open(0o755);
    // A group that every Debian has.
    chown(&socket, Some(0), Some(8)).expect("chown");
    let group = "it is for the members of group mail: join that group (usermod -aG mail USER), or run as root";
    ask(0o660).fails(
        1,
        &format!(
            "permission denied while trying to connect to the Docker daemon socket at unix://{}: {group}",
            socket.display()
        ),
    );
    ask(0o600).fails(1, "it is for its owner only: run as root");
    open(0o700);
    ask(0o666).fails(1, "its directory is closed to this user: run as root");
}
