//! Pieces of a body into a file, or nowhere.

use std::fs::File;
use std::io::IoSlice;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

/// As many pieces as the kernel takes at once.
const SLICES: usize = 1024;
const DRAINED: usize = 256 << 20;
const DRAIN: Duration = Duration::from_secs(10);

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

/// Takes what still comes of a body that is of no use any more: who is in the middle of sending it would not hear the answer. Only for
/// a while, and only so much of it.
pub async fn drain<B: Body<Data = Bytes> + Unpin>(body: &mut B) {
    let rest = async {
        let mut left = DRAINED;
        while let (Some(Ok(frame)), true) = (body.frame().await, left > 0) {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    // Who sends for longer sees the connection break off.
    let _ = tokio::time::timeout(DRAIN, rest).await;
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
