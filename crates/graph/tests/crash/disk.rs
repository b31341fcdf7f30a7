//! A disk that remembers: one file on a FUSE file system, below a loop device, whose writes and flushes are recorded in the
//! order in which they arrive. It is served by a process of its own, so that nobody waits for a disk that he serves himself.
//!
//! The requests are those of `linux/fuse.h`; the few that a single file needs.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::copy::run;

/// What the serving process is told: the directory of the image, the log and the mount.
const ORDER: &str = "GANTRY_DISK_ORDER";
/// Bytes of a request beside its data.
const ROOM: usize = 4096;
const LARGEST_WRITE: usize = 256 << 10;

/// One thing that a disk was asked to do.
#[derive(Debug)]
pub enum Record {
    Write(u64, Vec<u8>),
    /// Everything before it is on the disk.
    Flush,
}

/// A file system on a disk that remembers.
pub struct Disk {
    server: Child,
    /// Where it goes on talking.
    _said: BufReader<ChildStdout>,
    place: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Serves the file system on the image `place/disk.img` and mounts it at [`Disk::root`]; the calling thread has a mount
    /// namespace of its own.
    pub fn mount(place: &Path, options: &str) -> Self {
        for directory in ["fuse", "root"] {
            std::fs::create_dir(place.join(directory)).unwrap();
        }
        let mut server = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::server", "--nocapture", "--test-threads=1"])
            .env(ORDER, place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(server.stdout.take().unwrap());
        assert!((&mut said).lines().any(|line| line.is_ok_and(|line| line == "ready")), "the server ended");
        let mut disk = Self { server, _said: said, place: place.to_path_buf(), mounted: false };
        let file = place.join("fuse/disk");
        let found = Command::new("losetup")
            .args(["--direct-io=on", "--find", "--show"])
            .arg(&file)
            .output()
            .expect("losetup, of mount");
        assert!(found.status.success(), "losetup: {}", String::from_utf8_lossy(&found.stderr));
        let device = String::from_utf8(found.stdout).unwrap().trim().to_owned();
        let mounted = Command::new("mount").args(["-o", options, &device]).arg(disk.root()).status();
        // From now on it goes with the mount.
        run("losetup", &["--detach", &device]);
        assert!(mounted.unwrap().success(), "mount {device}");
        disk.mounted = true;
        disk
    }

    pub fn root(&self) -> PathBuf {
        self.place.join("root")
    }

    /// Bytes of the log: a position in what happened.
    pub fn position(&self) -> u64 {
        self.place.join("log").metadata().unwrap().len()
    }

    /// Unmounts it, and reads what happened; each record with its position.
    pub fn end(self) -> Vec<(u64, Record)> {
        let log = self.place.join("log");
        drop(self);
        let mut log = BufReader::new(File::open(log).unwrap());
        let (mut records, mut position) = (Vec::new(), 0);
        let mut head = [0; 12];
        while log.read_exact(&mut head).is_ok() {
            let offset = u64::from_ne_bytes(head[..8].try_into().unwrap());
            let length = u32::from_ne_bytes(head[8..].try_into().unwrap());
            let mut data = vec![0; length as usize];
            log.read_exact(&mut data).unwrap();
            records.push((position, if length == 0 { Record::Flush } else { Record::Write(offset, data) }));
            position += 12 + u64::from(length);
        }
        records
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What fails here fails loudly below: the server does not end while it is mounted.
        for directory in ["root", "fuse"] {
            if directory == "fuse" || self.mounted {
                let unmounted = Command::new("umount").arg("--lazy").arg(self.place.join(directory)).status();
                if !unmounted.is_ok_and(|status| status.success()) {
                    self.server.kill().ok();
                }
            }
        }
        self.server.wait().ok();
    }
}

/// Not a test: the process that serves the disk.
#[test]
fn server() {
    let Some(place) = std::env::var_os(ORDER) else { return };
    let place = PathBuf::from(place);
    // Whoever started it may be killed.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
    let options = std::ffi::CString::new(options).unwrap();
    let flags = rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOSUID;
    rustix::mount::mount("gantry-disk", place.join("fuse"), "fuse", flags, Some(options.as_c_str())).unwrap();
    let image = OpenOptions::new().read(true).write(true).open(place.join("disk.img")).unwrap();
    let size = image.metadata().unwrap().len();
    let log = OpenOptions::new().create(true).append(true).open(place.join("log")).unwrap();
    println!("\nready");
    let mut server = Server { fuse, image, size, log };
    let mut request = vec![0; ROOM + LARGEST_WRITE];
    loop {
        match server.fuse.read(&mut request) {
            Ok(length) => server.answer(&request[..length]),
            // The call was interrupted before it was read.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            // Unmounted.
            Err(_) => return,
        }
    }
}

struct Server {
    fuse: File,
    image: File,
    size: u64,
    log: File,
}

const ROOT: u64 = 1;
const DISK: u64 = 2;

impl Server {
    fn answer(&mut self, request: &[u8]) {
        let number = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        let small = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let (operation, unique, node) = (small(4), number(8), number(16));
        let body = 40;
        let reply = match operation {
            // FORGET, INTERRUPT, BATCH_FORGET: nobody waits.
            2 | 36 | 42 => return,
            // INIT: the version, read-ahead, big writes, requests at once, their size.
            26 => Ok(init(small(body + 8))),
            // LOOKUP
            1 if request[body..].starts_with(b"disk\0") => {
                Ok([&DISK.to_ne_bytes()[..], &[0; 32], &self.attributes(DISK)].concat())
            }
            1 => Err(libc::ENOENT),
            // GETATTR, SETATTR
            3 | 4 => Ok([&[0; 16][..], &self.attributes(node)].concat()),
            // OPEN, OPENDIR: nothing is cached.
            14 | 27 => Ok([&[0; 8][..], &1_u32.to_ne_bytes(), &[0; 4]].concat()),
            // READ
            15 => {
                let offset = number(body + 8);
                let mut data = vec![0; (u64::from(small(body + 16))).min(self.size.saturating_sub(offset)) as usize];
                self.image.read_exact_at(&mut data, offset).map(|()| data).map_err(|_| libc::EIO)
            }
            // WRITE
            16 => {
                let (offset, data) = (number(body + 8), &request[body + 40..]);
                self.record(offset, data);
                self.image.write_all_at(data, offset).unwrap();
                Ok([&small(body + 16).to_ne_bytes()[..], &[0; 4]].concat())
            }
            // FSYNC
            20 => {
                self.record(0, &[]);
                Ok(Vec::new())
            }
            // STATFS
            17 => {
                Ok([&[0; 40][..], &4096_u32.to_ne_bytes(), &255_u32.to_ne_bytes(), &4096_u32.to_ne_bytes(), &[0; 28]]
                    .concat())
            }
            // RELEASE, FLUSH, RELEASEDIR, FSYNCDIR, DESTROY
            18 | 25 | 29 | 30 | 38 => Ok(Vec::new()),
            // FALLOCATE: discards are not recorded.
            43 => Err(libc::EOPNOTSUPP),
            _ => Err(libc::ENOSYS),
        };
        let (error, data) = reply.map_or_else(|error| (-error, Vec::new()), |data| (0, data));
        let length = u32::try_from(16 + data.len()).unwrap();
        let head = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &unique.to_ne_bytes()].concat();
        // Who asked may have been killed meanwhile.
        let _ = self.fuse.write(&[head, data].concat());
    }

    fn record(&mut self, offset: u64, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        let record = [&offset.to_ne_bytes()[..], &length.to_ne_bytes(), data].concat();
        self.log.write_all(&record).unwrap();
    }

    fn attributes(&self, node: u64) -> Vec<u8> {
        let (size, mode) = if node == ROOT { (0, libc::S_IFDIR | 0o700) } else { (self.size, libc::S_IFREG | 0o600) };
        let mut attributes = Vec::new();
        for number in [node, size, size / 512, 0, 0, 0] {
            attributes.extend(number.to_ne_bytes());
        }
        for number in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
            attributes.extend(number.to_ne_bytes());
        }
        attributes
    }
}

/// Version 7.31; asynchronous reads and direct I/O, big writes, as many pages as a write may have.
fn init(read_ahead: u32) -> Vec<u8> {
    let flags: u32 = 1 | 1 << 5 | 1 << 15 | 1 << 22;
    let mut reply = Vec::new();
    for number in [7, 31, read_ahead, flags] {
        reply.extend(number.to_ne_bytes());
    }
    // Requests at once.
    reply.extend([64_u16, 48].into_iter().flat_map(u16::to_ne_bytes));
    reply.extend((LARGEST_WRITE as u32).to_ne_bytes());
    reply.extend(1_u32.to_ne_bytes());
    reply.extend(((LARGEST_WRITE / 4096) as u16).to_ne_bytes());
    reply.resize(64, 0);
    reply
}
