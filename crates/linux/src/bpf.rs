//! Programs that decide which devices a cgroup may use: loaded, attached to a cgroup2 directory, replaced.
#![allow(unsafe_code, reason = "bpf(2) takes a union of structures, and no library wraps it")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Error, Result};

/// Another program may be attached beside it, here and below; all of them must allow.
const ALLOW_MULTI: u32 = 1 << 1;
/// The new program takes the place of a given one in one step.
const REPLACE: u32 = 1 << 2;
/// The kernel's numbers of commands, of the program type and of the attach type.
const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
/// The kernel attaches no more than this to one cgroup.
const MOST_PROGRAMS: usize = 64;
/// Bytes of a program's name, with the null byte at its end.
const NAME_LENGTH: usize = 16;

/// One instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, operation and kind of operand.
    pub code: u8,
    /// The destination register in the low four bits, the source register in the high four.
    pub registers: u8,
    /// Of a jump, counted from the next instruction; of a memory access.
    pub offset: i16,
    /// The operand.
    pub immediate: i32,
}

/// `union bpf_attr` of the program's load.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_LENGTH],
    interface: u32,
    expected_attach_type: u32,
}

/// `union bpf_attr` of attaching and detaching.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

/// `union bpf_attr` of the query of what is attached.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    /// Kernels since 6.17 write here, whatever the length of the structure that they were given.
    revision: u64,
}

/// `union bpf_attr` of the lookup by id.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    open_flags: u32,
}

/// `union bpf_attr` of the question for an object's properties.
#[repr(C)]
#[derive(Default)]
struct Info {
    program: u32,
    length: u32,
    info: u64,
}

/// The first part of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct Properties {
    kind: u32,
    id: u32,
    tag: u64,
    jited_length: u32,
    xlated_length: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by: u32,
    maps: u32,
    map_ids: u64,
    name: [u8; NAME_LENGTH],
}

fn bpf<T>(command: i32, attributes: &mut T) -> std::io::Result<i32> {
    // SAFETY: `attributes` is the layout of this command, as long as said, and lives through the call; every pointer in
    // it is to memory of the caller's that lives as long, with its length beside it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    match i32::try_from(result) {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn named(name: &str) -> [u8; NAME_LENGTH] {
    let mut bytes = [0; NAME_LENGTH];
    let length = name.len().min(NAME_LENGTH - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// Has the kernel verify and compile a program for devices. `name`: up to 15 letters, digits, `_` and `.`.
pub fn load_device_program(instructions: &[Instruction], name: &str) -> Result<OwnedFd> {
    let mut attributes = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        name: named(name),
        expected_attach_type: CGROUP_DEVICE,
        ..Load::default()
    };
    bpf(PROG_LOAD, &mut attributes)
        .map(owned)
        .map_err(|error| Error::new("load device program", format!("of {} instructions", instructions.len()), error))
}

/// The ids of the device programs attached to this very cgroup.
pub fn device_programs(cgroup: impl AsFd) -> Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST_PROGRAMS];
    let mut attributes = Query {
        target: number(cgroup.as_fd()),
        kind: CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut attributes).map_err(|error| Error::new("list", "device programs of cgroup", error))?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

/// A descriptor of the program with this id, if it has this name.
pub fn program_named(id: u32, name: &str) -> Result<Option<OwnedFd>> {
    let failed = |error| Error::new("look at device program", id.to_string(), error);
    let program = bpf(PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() }).map(owned).map_err(failed)?;
    let mut properties = Properties::default();
    let mut attributes = Info {
        program: number(program.as_fd()),
        length: u32::try_from(size_of::<Properties>()).unwrap_or(0),
        info: std::ptr::from_mut(&mut properties) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes).map_err(failed)?;
    Ok((properties.name == named(name)).then_some(program))
}

/// Puts the program to work for everything in the cgroup and below, in the place of `replaced` or beside what is there.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd, replaced: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut attributes = Attach {
        target: number(cgroup.as_fd()),
        program: number(program.as_fd()),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replaced: replaced.map_or(0, number),
    };
    bpf(PROG_ATTACH, &mut attributes).map(drop).map_err(|error| Error::new("attach", "device program to cgroup", error))
}

/// Takes a program away from the cgroup.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    let mut attributes = Attach {
        target: number(cgroup.as_fd()),
        program: number(program.as_fd()),
        kind: CGROUP_DEVICE,
        ..Attach::default()
    };
    bpf(PROG_DETACH, &mut attributes)
        .map(drop)
        .map_err(|error| Error::new("detach", "device program from cgroup", error))
}
