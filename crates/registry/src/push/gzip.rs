//! Compression of new layers: blocks side by side on all processors, the same bytes for the same input on any machine.
//!
//! Each block is deflated without a look at the one before and ends on a byte's boundary, so that the blocks in a row are
//! one stream, which every gunzip reads.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, Crc, FlushCompress};

/// Uncompressed bytes of a block. Part of what makes the digest: another size gives other bytes.
const BLOCK: usize = 512 << 10;
/// The level; so is this.
const LEVEL: u32 = 2;
/// Threads of one stream, however many processors there are.
const THREADS: usize = 8;
/// Deflate, no flags, no time, unknown system: nothing that would differ between two machines.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty last block of deflate.
const END: [u8; 2] = [3, 0];

/// A deflated block.
struct Block {
    bytes: Vec<u8>,
    crc: Crc,
}

type Job = (Vec<u8>, SyncSender<io::Result<Block>>);

/// Compresses what is written to it into `output`.
pub struct Gzip<W: Write> {
    output: W,
    block: Vec<u8>,
    crew: Option<Crew>,
    /// Blocks that are being deflated, in order.
    under_way: VecDeque<Receiver<io::Result<Block>>>,
    crc: Crc,
}

struct Crew {
    jobs: SyncSender<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl<W: Write> Gzip<W> {
    /// Begins a stream.
    pub fn new(mut output: W) -> io::Result<Self> {
        output.write_all(&HEADER)?;
        let block = Vec::with_capacity(BLOCK);
        Ok(Self { output, block, crew: None, under_way: VecDeque::new(), crc: Crc::new() })
    }

    /// Ends the stream.
    pub fn finish(mut self) -> io::Result<W> {
        if self.crew.is_none() {
            // One block is no reason for threads.
            let block = deflate(&self.block)?;
            self.pass_on(&block)?;
        } else if !self.block.is_empty() {
            self.hand_over()?;
        }
        while let Some(block) = self.under_way.pop_front() {
            self.take(&block)?;
        }
        if let Some(Crew { jobs, threads }) = self.crew.take() {
            drop(jobs);
            for thread in threads {
                thread.join().map_err(|_| io::Error::other("a thread that compresses crashed"))?;
            }
        }
        self.output.write_all(&END)?;
        self.output.write_all(&self.crc.sum().to_le_bytes())?;
        self.output.write_all(&self.crc.amount().to_le_bytes())?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn hand_over(&mut self) -> io::Result<()> {
        let crew = match &mut self.crew {
            Some(crew) => crew,
            none => none.insert(Crew::new()?),
        };
        let limit = crew.threads.len() + 1;
        let (sender, receiver) = sync_channel(1);
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        crew.jobs.send((block, sender)).map_err(|_| io::Error::other("the threads that compress have ended"))?;
        self.under_way.push_back(receiver);
        while self.under_way.len() > limit {
            let Some(first) = self.under_way.pop_front() else { break };
            self.take(&first)?;
        }
        Ok(())
    }

    fn take(&mut self, block: &Receiver<io::Result<Block>>) -> io::Result<()> {
        let block = block.recv().map_err(|_| io::Error::other("a thread that compresses crashed"))??;
        self.pass_on(&block)
    }

    fn pass_on(&mut self, block: &Block) -> io::Result<()> {
        self.crc.combine(&block.crc);
        self.output.write_all(&block.bytes)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not before there is more: what fits in one block needs no threads.
        if self.block.len() == BLOCK && !bytes.is_empty() {
            self.hand_over()?;
        }
        let length = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    /// What is compressed is passed on by the block.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Crew {
    fn new() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS);
        let (jobs, queue) = sync_channel::<Job>(1);
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..count).map(|_| {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name("compress".to_owned()).spawn(move || work(&queue))
        });
        Ok(Self { jobs, threads: threads.collect::<io::Result<_>>()? })
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((block, to)) = next else { return };
        // Nobody takes it where the stream was given up.
        let _ = to.send(deflate(&block));
    }
}

fn deflate(bytes: &[u8]) -> io::Result<Block> {
    let mut crc = Crc::new();
    crc.update(bytes);
    let mut deflated = Vec::with_capacity(bytes.len() / 2 + 1024);
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    loop {
        let read = usize::try_from(compress.total_in()).map_err(io::Error::other)?;
        compress.compress_vec(&bytes[read..], &mut deflated, FlushCompress::Sync).map_err(io::Error::other)?;
        // Whatever is left over is written while there is room for it.
        if compress.total_in() == bytes.len() as u64 && deflated.len() < deflated.capacity() {
            return Ok(Block { bytes: deflated, crc });
        }
        deflated.reserve(64 << 10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|at| if at % 7 == 0 { (at / 997 % 251) as u8 } else { b'a' + (at % 13) as u8 }).collect()
    }

    fn compressed(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut gzip = Gzip::new(Vec::new()).unwrap();
        bytes.chunks(piece).for_each(|piece| gzip.write_all(piece).unwrap());
        gzip.finish().unwrap()
    }

    #[test]
    fn what_is_compressed_is_one_gzip_stream_and_the_same_however_it_was_written() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 77] {
            let bytes = text(length);
            let first = compressed(&bytes, 64 << 10);
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(first.as_slice()).read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{length}");
            assert!(first == compressed(&bytes, 1000), "{length}");
        }
    }

    #[test]
    fn a_writer_that_fails_ends_the_stream_with_its_error() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut gzip = Gzip::new(Full(100_000)).unwrap();
        let failed = gzip.write_all(&text(20 * BLOCK)).and_then(|()| gzip.finish().map(drop));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
