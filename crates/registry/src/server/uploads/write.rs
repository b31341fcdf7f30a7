//! Many pieces into a file at once.

use std::fs::File;
use std::io::IoSlice;

use bytes::Bytes;

/// As many pieces as the kernel takes at once.
const SLICES: usize = 1024;

/// In as few calls as the kernel takes: a file system has more of the work per call than per byte.
pub fn write_all(file: &File, batch: &[Bytes], mut at: u64) -> std::io::Result<()> {
    let mut slices: Vec<_> = batch.iter().map(|bytes| IoSlice::new(bytes)).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let written = match rustix::io::pwritev(file, &left[..left.len().min(SLICES)], at) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        at += written as u64;
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_pieces_than_one_call_takes_are_there_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        gantry_linux::fs::write(&path, b"before").unwrap();
        let file = gantry_linux::fs::open_with(&path, std::fs::OpenOptions::new().write(true)).unwrap();
        let pieces: Vec<Bytes> = (0..SLICES + 500).map(|at| vec![(at % 251) as u8; at % 7].into()).collect();
        write_all(&file, &pieces, 6).unwrap();
        let expected = [b"before".as_slice(), &pieces.concat()].concat();
        assert!(gantry_linux::fs::read(&path).unwrap() == expected);
    }
}
