//! A registry whose disk is full.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use gantry_tests::command::{self, LIMIT};
use gantry_tests::{Registry, paths};

use super::Served;

/// A small disk in memory.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Self {
        let disk = Self(tempfile::tempdir().expect("a directory"));
        let mut mount = Command::new(paths::need("mount").expect("mount"));
        mount.args(["-t", "tmpfs", "-o", "size=8m,mode=700", "gantry-test"]).arg(disk.0.path());
        command::run(&mut mount, None, LIMIT).expect("run mount").ok();
        disk
    }

    fn free(&self) -> u64 {
        let statistics = rustix::fs::statvfs(self.0.path()).expect("ask the disk");
        statistics.f_bavail * statistics.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
        assert!(unmounted.is_ok() || std::thread::panicking(), "unmount the disk: {unmounted:?}");
    }
}

#[test]
fn a_full_disk_is_told_to_whoever_pushes_and_its_space_is_back_at_once() {
    let disk = Disk::mount();
    let place = |at: &Path| {
        symlink(disk.0.path(), at.join("root")).expect("lead to the disk");
        fs::write(at.join("large"), vec![b'x'; 12 << 20]).expect("write what is too large");
        String::new()
    };
    let served = Served::start(&[], place);
    let before = disk.free();
    let large = served.at("large").display().to_string();
    let begun = served.curl(&["-X", "POST"], "/v2/team/app/blobs/uploads/");
    let upload = begun.lines().find_map(|line| line.strip_prefix("location: ")).expect("a place").trim().to_owned();
    let refused = served.curl(&["-X", "PATCH", "-T", &large], &upload);
    assert!(refused.contains(" 507 ") && refused.contains("no space left on the registry's storage"), "{refused}");
    let gone = served.curl(&[], &upload);
    assert!(gone.contains(" 404 ") && gone.contains("BLOB_UPLOAD_UNKNOWN"), "{gone}");
    assert!(disk.free() + (64 << 10) >= before, "{} bytes are free of {before}", disk.free());
    // The same server takes what fits.
    let source = Registry::start().expect("a registry with images");
    let (from, to) = (format!("docker://{}", source.name("busybox:latest")), served.name("team/app:1"));
    let copy = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &format!("docker://{to}")];
    served.skopeo(&copy).ok();
}
