//! Local files to a tar stream.

use std::fs::{self, Metadata};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

/// Writes what is at `source` (not followed when it is a link) under `name`, or its entries when there is no name.
///
/// # Errors
/// What cannot be read, with its path.
pub fn pack(source: &Path, name: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    let mut builder = Builder::new(out);
    builder.follow_symlinks(false);
    let metadata = fs::symlink_metadata(source).map_err(|error| named(source, &error))?;
    match name {
        Some(name) => tree(&mut builder, source, Path::new(name), &metadata)?,
        None => children(&mut builder, source, Path::new(""))?,
    }
    builder.into_inner()?.flush()
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {}", path.display(), crate::failure::reason(error)))
}

fn tree(builder: &mut Builder<&mut dyn Write>, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_metadata(metadata);
    header.set_mode(metadata.mode() & 0o7777);
    let kind = metadata.file_type();
    if kind.is_dir() {
        let mut directory = PathBuf::from(name);
        directory.push("");
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        builder.append_data(&mut header, directory, io::empty())?;
        return children(builder, path, name);
    }
    if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        let target = fs::read_link(path).map_err(|error| named(path, &error))?;
        return builder.append_link(&mut header, name, target);
    }
    if kind.is_file() {
        header.set_entry_type(EntryType::Regular);
        header.set_size(metadata.len());
        let file = fs::File::open(path).map_err(|error| named(path, &error))?;
        // A file that grows meanwhile is cut, one that shrinks is filled up, so that the stream stays whole.
        return builder.append_data(&mut header, name, file.chain(io::repeat(0)).take(metadata.len()));
    }
    if kind.is_socket() {
        return Ok(());
    }
    header.set_size(0);
    if kind.is_fifo() {
        header.set_entry_type(EntryType::Fifo);
    } else {
        let device = metadata.rdev();
        header.set_entry_type(if kind.is_block_device() { EntryType::Block } else { EntryType::Char });
        header.set_device_major(rustix::fs::major(device))?;
        header.set_device_minor(rustix::fs::minor(device))?;
    }
    builder.append_data(&mut header, name, io::empty())
}

fn children(builder: &mut Builder<&mut dyn Write>, path: &Path, name: &Path) -> io::Result<()> {
    let mut entries: Vec<_> =
        fs::read_dir(path).and_then(Iterator::collect::<io::Result<_>>).map_err(|error| named(path, &error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let metadata = entry.metadata().map_err(|error| named(&entry.path(), &error))?;
        tree(builder, &entry.path(), &name.join(entry.file_name()), &metadata)?;
    }
    Ok(())
}
