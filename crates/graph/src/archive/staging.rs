//! An archive's files beside the store, until it is known what they are. Hostile input: bounded, and no name of it becomes a
//! name on disk.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use gantry_linux::{ResultExt, fs};
use tar::EntryType;

use crate::layers::decompress;
use crate::{DOCUMENT_LIMIT, Error, Result};

/// Files of one archive: images of a few hundred layers, some thousand times over.
const FILE_LIMIT: usize = 100_000;
/// Links that lead to links.
const LINK_LIMIT: usize = 16;

/// The files of an archive. They go when it is dropped.
pub(super) struct Staging {
    directory: PathBuf,
    members: HashMap<String, Member>,
}

enum Member {
    File(PathBuf),
    /// To another path of the archive.
    Link(String),
}

impl Staging {
    /// Reads the whole archive (gzip, zstd or plain) into `directory`, which it makes.
    pub(super) fn read(directory: PathBuf, input: &mut dyn Read) -> Result<Self> {
        fs::create_dir(&directory)?;
        let mut staging = Self { directory, members: HashMap::new() };
        let mut magic = Vec::new();
        (&mut *input).take(4).read_to_end(&mut magic).map_err(failed)?;
        let mut input = BufReader::with_capacity(128 << 10, io::Cursor::new(magic.clone()).chain(input));
        let mut archive = tar::Archive::new(decompress(&magic, &mut input)?);
        for entry in archive.entries().map_err(failed)? {
            staging.entry(&mut entry.map_err(failed)?)?;
        }
        let mut rest = archive.into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(failed)?;
        Ok(staging)
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<()> {
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refuse = |why: &str| Error::invalid("image archive", format!("entry {path:?}: {why}"));
        let name = normal(&path, "").ok_or_else(|| refuse("its path leads out of the archive"))?;
        if self.members.len() >= FILE_LIMIT {
            return Err(refuse(&format!("more than {FILE_LIMIT} files")));
        }
        let member = match entry.header().entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => return Ok(()),
            EntryType::Regular | EntryType::Continuous => {
                let staged = self.directory.join(self.members.len().to_string());
                let mut file = fs::open_with(&staged, OpenOptions::new().write(true).create_new(true))?;
                let mut writing = Writing { file: &mut file, failure: None };
                let copied = io::copy(entry, &mut writing);
                if let Some(source) = writing.failure {
                    return Err(gantry_linux::Error::new("write", staged.display().to_string(), source).into());
                }
                copied.map_err(failed)?;
                Member::File(staged)
            }
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let target = entry.link_name_bytes().ok_or_else(|| refuse("a link to nothing"))?;
                // A symbolic link starts where it lies, a hard link at the root.
                let base =
                    if kind == EntryType::Symlink { name.rsplit_once('/').map_or("", |(base, _)| base) } else { "" };
                let target = normal(&String::from_utf8_lossy(&target), base);
                Member::Link(target.ok_or_else(|| refuse("a link out of the archive"))?)
            }
            _ => return Err(refuse("neither a file nor a directory nor a link")),
        };
        if let Some(Member::File(replaced)) = self.members.insert(name, member) {
            fs::remove_file(replaced)?;
        }
        Ok(())
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.members.contains_key(path)
    }

    /// A file of the archive, by the path that its documents give.
    pub(super) fn open(&self, path: &str) -> Result<File> {
        let missing = || Error::invalid("image archive", format!("it names {path:?}, which is not in it"));
        let mut name = normal(path, "").ok_or_else(missing)?;
        for _ in 0..LINK_LIMIT {
            match self.members.get(&name) {
                Some(Member::File(staged)) => return Ok(fs::open(staged)?),
                Some(Member::Link(target)) => name.clone_from(target),
                None => return Err(missing()),
            }
        }
        Err(Error::invalid("image archive", format!("{path:?} is a link to a link to a link")))
    }

    /// A JSON document of the archive.
    pub(super) fn document(&self, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let limit = DOCUMENT_LIMIT as u64;
        self.open(path)?.take(limit + 1).read_to_end(&mut bytes).during("read", path)?;
        if bytes.len() as u64 > limit {
            return Err(Error::invalid(format!("{path} of the image archive"), format!("more than {limit} bytes")));
        }
        Ok(bytes)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, "a loaded archive's files stay until the next start");
        }
    }
}

/// A file that is written, and keeps its own error: it is not the archive's.
struct Writing<'a> {
    file: &'a mut File,
    failure: Option<io::Error>,
}

impl io::Write for Writing<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer).inspect_err(|error| {
            self.failure = error.raw_os_error().map(io::Error::from_raw_os_error);
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A path without `.`, `..` and needless slashes, from the archive's root; `None` when it leads out.
fn normal(path: &str, base: &str) -> Option<String> {
    let base = if path.starts_with('/') { "" } else { base };
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn failed(source: io::Error) -> Error {
    match source.kind() {
        // The archive's fault, not the stream's.
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Error::invalid("image archive", source),
        io::ErrorKind::Other if source.raw_os_error().is_none() => Error::invalid("image archive", source),
        _ => Error::Stream { what: "image archive".to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn paths_of_an_archive_stay_in_it() {
        for (path, base, wanted) in [
            ("./a//b", "", Some("a/b")),
            ("../x/layer.tar", "y", Some("x/layer.tar")),
            ("/a", "b", Some("a")),
            ("../../x", "y", None),
            ("..", "", None),
        ] {
            assert_eq!(normal(path, base).as_deref(), wanted, "{path} from {base}");
        }
    }
}
