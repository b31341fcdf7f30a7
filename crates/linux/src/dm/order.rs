//! The messages of the device mapper's interface: a header that every order has, and what follows it.
#![allow(unsafe_code, reason = "the kernel reads and writes a buffer of a length that is told in it")]

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use super::{Number, Target};
use crate::{Error, Result};

/// The numbers of the orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Version = 0,
    List = 2,
    Create = 3,
    Remove = 4,
    Suspend = 6,
    Status = 7,
    Load = 9,
    Dependencies = 11,
    TableStatus = 12,
    Message = 14,
    TargetVersion = 17,
}

/// `struct dm_ioctl`, for its size, which is a part of the orders' numbers.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; NAME_LIMIT],
    uuid: [u8; 129],
    data: [u8; 7],
}

const HEADER: usize = size_of::<Header>();
const NAME_LIMIT: usize = 128;
/// `struct dm_target_spec`: start, length, status, next, name of the target.
const SPEC: usize = 40;
const KIND_LIMIT: usize = 16;
const BUFFER_FULL: u32 = 1 << 8;
/// Room for an answer; more is taken where it does not fit.
const ROOM: usize = 4096;

/// An order in the making.
pub(super) struct Order {
    operation: &'static str,
    subject: String,
    name: String,
    flags: u32,
    targets: u32,
    payload: Vec<u8>,
}

impl Order {
    pub(super) fn new(operation: &'static str, subject: impl Into<String>) -> Self {
        let subject = subject.into();
        Self { operation, subject, name: String::new(), flags: 0, targets: 0, payload: Vec::new() }
    }

    pub(super) fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    pub(super) fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    pub(super) fn table(mut self, table: &[Target]) -> Self {
        for target in table {
            let start = self.payload.len();
            self.payload.extend(target.start.to_ne_bytes());
            self.payload.extend(target.sectors.to_ne_bytes());
            let length = (SPEC + target.parameters.len() + 1).next_multiple_of(8);
            self.payload.extend(0_i32.to_ne_bytes());
            self.payload.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
            let mut kind = target.kind.clone().into_bytes();
            kind.truncate(KIND_LIMIT - 1);
            kind.resize(KIND_LIMIT, 0);
            self.payload.extend(kind);
            self.payload.extend(target.parameters.bytes());
            self.payload.resize(start + length, 0);
            self.targets += 1;
        }
        self
    }

    /// `struct dm_target_msg`: a sector, and the text.
    pub(super) fn message(mut self, text: &str) -> Self {
        self.payload.extend(0_u64.to_ne_bytes());
        self.payload.extend(text.bytes());
        self.payload.push(0);
        self
    }

    pub(super) fn run(&self, control: &OwnedFd, command: Command) -> Result<Answer> {
        let refuse = |error: Errno| Error::new(self.operation, &*self.subject, error);
        if self.name.len() >= NAME_LIMIT {
            return Err(refuse(Errno::NAMETOOLONG));
        }
        let mut room = ROOM;
        loop {
            let mut buffer = self.encode(room).ok_or_else(|| refuse(Errno::NOMEM))?;
            let code = rustix::ioctl::opcode::read_write::<Header>(0xfd, command as u8);
            // SAFETY: each of these orders reads and writes no more than the length that stands in the header, which is
            // that of the buffer.
            let result = unsafe { libc::ioctl(control.as_raw_fd(), code.into(), buffer.as_mut_ptr()) };
            if result < 0 {
                return Err(Error::new(self.operation, &*self.subject, std::io::Error::last_os_error()));
            }
            let answer = Answer(buffer);
            if !answer.has_flag(BUFFER_FULL) {
                return Ok(answer);
            }
            room *= 4;
        }
    }

    fn encode(&self, room: usize) -> Option<Vec<u8>> {
        let size = u32::try_from(HEADER + self.payload.len() + room).ok()?;
        let mut buffer = Vec::with_capacity(HEADER + self.payload.len() + room);
        let start = u32::try_from(HEADER).ok()?;
        // Version 4.0.0 is what every kernel understands; event number and padding are 0.
        for number in [4, 0, 0, size, start, self.targets, 0, self.flags, 0, 0] {
            buffer.extend(number.to_ne_bytes());
        }
        buffer.extend(0_u64.to_ne_bytes());
        buffer.extend(self.name.bytes());
        buffer.resize(HEADER, 0);
        buffer.extend(&self.payload);
        buffer.resize(HEADER + self.payload.len() + room, 0);
        Some(buffer)
    }
}

/// What came back.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    fn number_at(&self, at: usize) -> u32 {
        read(&self.0, at).map_or(0, u32::from_ne_bytes)
    }

    pub(super) fn version(&self) -> (u32, u32, u32) {
        (self.number_at(0), self.number_at(4), self.number_at(8))
    }

    pub(super) fn users(&self) -> i32 {
        read(&self.0, 24).map_or(0, i32::from_ne_bytes)
    }

    pub(super) fn has_flag(&self, flag: u32) -> bool {
        self.number_at(28) & flag != 0
    }

    pub(super) fn number(&self) -> Number {
        Number::of(read(&self.0, 40).map_or(0, u64::from_ne_bytes))
    }

    /// What follows the header.
    fn data(&self) -> &[u8] {
        let (start, end) = (self.number_at(16) as usize, self.number_at(12) as usize);
        self.0.get(start..end.min(self.0.len())).unwrap_or_default()
    }

    pub(super) fn targets(&self) -> Vec<Target> {
        let data = self.data();
        let mut targets = Vec::new();
        let mut at = 0;
        for _ in 0..self.number_at(20) {
            let Some(spec) = data.get(at..at + SPEC) else { break };
            let word = |at| read(spec, at).map_or(0, u64::from_ne_bytes);
            targets.push(Target {
                start: word(0),
                sectors: word(8),
                kind: text(&spec[24..]),
                parameters: text(&data[at + SPEC..]),
            });
            // Counted from the first one.
            at = read(spec, 20).map_or(0, u32::from_ne_bytes) as usize;
        }
        targets
    }

    /// `struct dm_target_deps`: a count, padding, numbers.
    pub(super) fn dependencies(&self) -> Vec<Number> {
        let data = self.data();
        let count = read(data, 0).map_or(0, u32::from_ne_bytes) as usize;
        let number = |index| read(data, 8 + 8 * index).map(|bytes| Number::of(u64::from_ne_bytes(bytes)));
        (0..count).map_while(number).collect()
    }

    /// `struct dm_name_list`: a number, the distance to the next one, the name.
    pub(super) fn names(&self) -> Vec<(String, Number)> {
        let data = self.data();
        let mut names = Vec::new();
        let mut at = 0;
        while let (Some(number), Some(next), Some(name)) = (read(data, at), read(data, at + 8), data.get(at + 12..)) {
            let (number, next) = (u64::from_ne_bytes(number), u32::from_ne_bytes(next) as usize);
            if number == 0 {
                break;
            }
            names.push((text(name), Number::of(number)));
            if next == 0 {
                break;
            }
            at += next;
        }
        names
    }
}

fn read<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at + N)?.try_into().ok()
}

/// The text before the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a file of the machine")]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let thin = |start, parameters: &str| Target {
            start,
            sectors: 8,
            kind: "thin-pool".to_owned(),
            parameters: parameters.to_owned(),
        };
        let table = [thin(0, "7:0 7:1 128 0"), thin(8, "")];
        let mut buffer = Order::new("load", "x").named("x").table(&table).encode(100).unwrap();
        assert_eq!((HEADER, buffer.len()), (312, 312 + 56 + 48 + 100));
        // The kernel counts the distance from the first one; so does the second.
        buffer[312 + 56 + 20..312 + 56 + 24].copy_from_slice(&104_u32.to_ne_bytes());
        let answer = Answer(buffer);
        assert_eq!(answer.targets(), table);
        assert_eq!(answer.version(), (4, 0, 0));
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused_before_the_kernel_is_asked() {
        // It takes no order at all: one that is given fails otherwise.
        let control = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let refused = |length: usize| {
            let order = Order::new("make", "x").named(&"n".repeat(length));
            Errno::from_raw_os_error(order.run(&control, Command::Create).err().unwrap().errno())
        };
        assert_eq!(refused(NAME_LIMIT), Errno::NAMETOOLONG);
        assert_eq!(refused(NAME_LIMIT - 1), Errno::NOTTY);
    }

    #[test]
    fn what_an_answer_says_of_its_own_lengths_leads_nowhere_outside_it() {
        let table = [Target { start: 0, sectors: 8, kind: "thin".to_owned(), parameters: "7:0 1".to_owned() }];
        let whole = Order::new("load", "x").named("x").table(&table).encode(64).unwrap();
        for at in [12, 16, 20, HEADER, HEADER + 4, HEADER + 8, HEADER + 20] {
            for value in [1_u32, 7, 311, 1 << 20, u32::MAX] {
                let mut buffer = whole.clone();
                buffer[at..at + 4].copy_from_slice(&value.to_ne_bytes());
                buffer.truncate(HEADER + 60);
                let answer = Answer(buffer);
                assert!(answer.targets().len() <= 2, "{at}: {value}");
                assert!(answer.names().len() < 1000 && answer.dependencies().len() < 1000, "{at}: {value}");
            }
        }
    }
}
