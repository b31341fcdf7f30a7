//! The json-file log: appended in few writes, rotated without losing an entry.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use gantry_linux::{Result, fs};

use crate::LogFile;

/// Entries are collected up to this many bytes before they are written.
const BATCH: usize = 64 * 1024;

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    settings: LogFile,
    file: File,
    /// Bytes since the last rotation, or since the last attempt at one: not the file's length then.
    size: u64,
    batch: Vec<u8>,
    /// Entries that could not be written: the disk is full, or gone. The container is not stopped by that.
    pub lost: u64,
    batched: u64,
}

impl Log {
    /// Opens the log, and appends to what is there.
    pub fn open(settings: LogFile) -> Result<Self> {
        let file = open(&settings.path)?;
        let size = fs::metadata(&settings.path)?.len();
        Ok(Self { settings, file, size, batch: Vec::new(), lost: 0, batched: 0 })
    }

    /// Adds an entry; it is in the file after the next [`Log::flush`] at the latest.
    pub fn push(&mut self, entry: &[u8]) {
        let after = self.size + (self.batch.len() + entry.len()) as u64;
        let full = self.settings.max_size.is_some_and(|most| after > most);
        if full && self.size + self.batch.len() as u64 > 0 {
            self.flush();
            if let Err(_error) = self.rotate() {
                // It goes on in the file that it has: a log that is too long is better than none.
                self.size = 0;
            }
        }
        self.batch.extend_from_slice(entry);
        self.batched += 1;
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Writes what was collected.
    pub fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let before = self.file.metadata().map(|metadata| metadata.len());
        match self.file.write_all(&self.batch) {
            Ok(()) => self.size += self.batch.len() as u64,
            Err(_) => {
                self.lost += self.batched;
                if let Ok(before) = before {
                    self.end_torn_entry(before);
                }
            }
        }
        self.batched = 0;
        self.batch.clear();
        self.batch.shrink_to(4096);
    }

    /// A write that failed half-way left half an entry: what was written of the batch is taken back.
    fn end_torn_entry(&mut self, before: u64) {
        // Where even that fails the next entry follows the half one.
        let _ = self.file.set_len(before);
    }

    /// `log` becomes `log.1`, that `log.2` and so on; the oldest is replaced. Readers that follow have the old file open.
    fn rotate(&mut self) -> Result<()> {
        for number in (1..self.settings.max_files).rev() {
            let from = if number == 1 { self.settings.path.clone() } else { self.numbered(number - 1) };
            match fs::rename(from, self.numbered(number)) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        if self.settings.max_files <= 1 {
            fs::remove_file(&self.settings.path)?;
        }
        self.file = open(&self.settings.path)?;
        self.size = 0;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.settings.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open(path: &std::path::Path) -> Result<File> {
    fs::open_with(path, OpenOptions::new().append(true).create(true).mode(0o640))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests look at files plainly")]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_the_newest_files_and_every_entry_in_them_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let settings = LogFile { path: path.clone(), max_size: Some(100), max_files: 3 };
        let mut log = Log::open(settings).unwrap();
        for number in 0..50 {
            log.push(format!("entry {number:03}\n").as_bytes());
        }
        log.flush();
        let read = |suffix: &str| std::fs::read_to_string(format!("{}{suffix}", path.display())).unwrap();
        let all = [read(".2"), read(".1"), read("")].concat();
        let expected: String = (20..50).map(|number| format!("entry {number:03}\n")).collect();
        assert_eq!(all, expected);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(log.lost, 0);
    }

    #[test]
    fn a_single_file_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(LogFile { path: path.clone(), max_size: Some(20), max_files: 1 }).unwrap();
        for entry in ["first entry\n", "second entry\n"] {
            log.push(entry.as_bytes());
        }
        log.flush();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "second entry\n");
    }

    #[test]
    fn a_disk_that_is_full_takes_nothing_of_what_is_in_the_log() {
        // In a thread with mounts of its own: the disk is a tmpfs of two pages.
        let seen = std::thread::spawn(|| {
            use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
            gantry_linux::process::unshare(gantry_linux::process::CloneFlags::NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
            let dir = tempfile::tempdir().unwrap();
            mount("log", dir.path(), "tmpfs", MountFlags::empty(), Some(c"size=8192")).unwrap();
            let path = dir.path().join("log");
            // Rotation fails as well: there is something in its way.
            std::fs::create_dir_all(dir.path().join("log.1/x")).unwrap();
            let settings = LogFile { path: path.clone(), max_size: Some(3000), max_files: 2 };
            let mut log = Log::open(settings).unwrap();
            let entry = |number: u32| format!("{number:0999}\n");
            for number in 0..20 {
                log.push(entry(number).as_bytes());
                log.flush();
            }
            let text = std::fs::read_to_string(&path).unwrap();
            rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
            (text, (0..20).map(entry).collect::<String>(), log.lost)
        });
        let (text, all, lost) = seen.join().unwrap();
        assert!(lost > 0 && text.len() >= 7000 && text.len() % 1000 == 0, "{} bytes, {lost} lost", text.len());
        assert!(all.starts_with(&text));
    }
}
