//! A daemon behind ssh: both clients to us, by Debian's own sshd on loopback.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use gantry_tests::{command, eventually, paths};

use super::{clients, doors, free_port, run, work};

/// An sshd of a test's own; it ends with the value.
struct Sshd {
    child: Child,
    files: tempfile::TempDir,
    port: u16,
}

impl Sshd {
    fn start(socket: &Path) -> Option<Self> {
        let (Some(sshd), Some(ssh)) = (paths::program("sshd"), paths::program("ssh")) else {
            gantry_tests::skip("no openssh-server on this machine");
            return None;
        };
        let files = tempfile::tempdir().expect("a directory");
        let at = |name: &str| files.path().join(name);
        for key in ["host", "key"] {
            let mut keygen = Command::new(paths::need("ssh-keygen").expect("ssh-keygen"));
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key));
            command::succeed(&mut keygen, command::LIMIT).expect("a key");
        }
        std::fs::copy(at("key.pub"), at("authorized")).expect("authorise the key");
        std::fs::create_dir(at("bin")).expect("make a directory");
        let gantry = std::path::absolute(&clients()[0]).expect("the binary");
        // Docker's client runs `docker system dial-stdio` over there; ours looks for both.
        for name in ["gantry", "docker"] {
            symlink(&gantry, at("bin").join(name)).expect("link the binary");
        }
        let port = free_port();
        let here = files.path().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/host\nAuthorizedKeysFile {here}/authorized\n\
             PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             SetEnv PATH={here}/bin:/usr/bin:/bin DOCKER_HOST=unix://{}\n",
            socket.display()
        );
        std::fs::write(at("sshd_config"), config).expect("configure sshd");
        let config = format!(
            "IdentityFile {here}/key\nUserKnownHostsFile {here}/known\nStrictHostKeyChecking accept-new\nLogLevel ERROR\n"
        );
        std::fs::write(at("ssh_config"), config).expect("configure ssh");
        std::fs::create_dir(at("path")).expect("make a directory");
        let wrapper = format!("#!/bin/sh\nexec {} -F {here}/ssh_config \"$@\"\n", ssh.display());
        std::fs::write(at("path/ssh"), wrapper).expect("write the wrapper");
        std::fs::set_permissions(at("path/ssh"), std::fs::Permissions::from_mode(0o755)).expect("make it a program");
        // Debian's sshd wants it; empty, and everybody's.
        std::fs::create_dir_all("/run/sshd").expect("make /run/sshd");
        let mut command = Command::new(sshd);
        let child =
            command.arg("-D").arg("-f").arg(at("sshd_config")).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let sshd = Self { child: child.expect("start sshd"), files, port };
        eventually("sshd listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(sshd)
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let path = format!("{}/path:{}", self.files.path().display(), std::env::var("PATH").unwrap_or_default());
        vec![("DOCKER_HOST", format!("ssh://root@127.0.0.1:{}", self.port)), ("PATH", path)]
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn everything_works_through_ssh_with_both_clients() {
    let doors = doors();
    let Some(sshd) = Sshd::start(&doors.world.daemon.socket()) else { return };
    for program in clients() {
        work::works(&doors.world, &program, &sshd.environment());
    }
}

#[test]
fn what_ssh_complains_about_is_told_with_the_way_out() {
    let doors = doors();
    let Some(sshd) = Sshd::start(&doors.world.daemon.socket()) else { return };
    let home = tempfile::tempdir().expect("a home");
    std::fs::write(sshd.files.path().join("authorized"), "").expect("let nobody in");
    let output = run(&clients()[0], home.path(), &sshd.environment(), &["ps"]);
    output.fails(1, "Permission denied (publickey");
    output.fails(1, "see that 'ssh 127.0.0.1 true' works");
}
