//! Programs of one system call, made byte by byte: so that a test can enter the kernel by any of its doors without a
//! compiler for it.

/// By which door the call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A 64-bit program, by `syscall`.
    Long,
    /// A 32-bit program, by `int 0x80`.
    Short,
    /// A 64-bit program that uses the 32-bit door, by `int 0x80`: the numbers are those of 32 bits.
    ShortFromLong,
}

const BASE: u32 = 0x0040_0000;
const WORDS_AT: usize = 0x400;

/// The address of the first of the words that a program is given.
pub const WORDS: u32 = BASE + 0x400;

/// A static program for x86 that makes the system call `number` and ends with the lowest byte of its result as exit code:
/// what failed with `errno` gives `256 - errno`. `words` lie at [`WORDS`].
#[must_use]
pub fn program(entry: Entry, number: u32, arguments: &[u32], words: &[u32]) -> Vec<u8> {
    let mut file = if entry == Entry::Short { header_32() } else { header_64() };
    file.extend(code(entry, number, arguments));
    file.resize(WORDS_AT, 0);
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    file.resize(0x1000, 0);
    file
}

fn code(entry: Entry, number: u32, arguments: &[u32]) -> Vec<u8> {
    // `mov register, value`, which clears the upper half: ebx, ecx, edx, esi, edi; or edi, esi, edx, r10d, r8d.
    let short: [&[u8]; 5] = [&[0xbb], &[0xb9], &[0xba], &[0xbe], &[0xbf]];
    let long: [&[u8]; 5] = [&[0xbf], &[0xbe], &[0xba], &[0x41, 0xba], &[0x41, 0xb8]];
    let registers = if entry == Entry::Long { long } else { short };
    let mut code = Vec::new();
    for (register, value) in registers.iter().zip(arguments) {
        code.extend_from_slice(register);
        code.extend(value.to_le_bytes());
    }
    code.push(0xb8); // mov eax, number
    code.extend(number.to_le_bytes());
    code.extend_from_slice(if entry == Entry::Long { &[0x0f, 0x05] } else { &[0xcd, 0x80] });
    code.extend_from_slice(match entry {
        // mov ebx, eax; mov eax, 1; int 0x80
        Entry::Short => &[0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80],
        // mov edi, eax; mov eax, 60; syscall
        Entry::Long | Entry::ShortFromLong => &[0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05],
    });
    code
}

/// An executable of one segment that is the whole file, entered behind these headers.
fn header_64() -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0];
    let mut word = |value: u64| file.extend(value.to_le_bytes());
    word(u64::from(BASE) + 120); // entry
    word(64); // program headers
    word(0); // section headers
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]); // to be loaded, readable and executable
    let mut word = |value: u64| file.extend(value.to_le_bytes());
    for value in [0, u64::from(BASE), u64::from(BASE), 0x1000, 0x1000, 0x1000] {
        word(value);
    }
    file
}

fn header_32() -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 1, 0, 0, 0];
    // Entry, program headers, section headers, flags.
    file.extend([BASE + 84, 52, 0, 0].into_iter().flat_map(u32::to_le_bytes));
    file.extend([52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // To be loaded: offset, addresses, sizes, readable and executable, alignment.
    file.extend([1, 0, BASE, BASE, 0x1000, 0x1000, 5, 0x1000].into_iter().flat_map(u32::to_le_bytes));
    file
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_makes_its_call_by_each_door() {
        let dir = tempfile::tempdir().expect("a directory");
        // `getppid` and `close(9)`, by the numbers of each table.
        for (entry, parent, close) in [(Entry::Long, 110, 3), (Entry::Short, 64, 6), (Entry::ShortFromLong, 64, 6)] {
            let run = |name: &str, number, arguments: &[u32]| {
                let path = dir.path().join(format!("{name}-{entry:?}"));
                std::fs::write(&path, program(entry, number, arguments, &[])).expect("a program");
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
                let status = ended(&path);
                status.code().expect("it was not killed")
            };
            let own = u8::try_from(std::process::id() & 0xff).expect("a byte");
            assert_eq!(run("parent", parent, &[]), i32::from(own), "{entry:?}");
            assert_eq!(run("close", close, &[999]), 256 - 9, "{entry:?}");
        }
    }

    /// Another thread's child may hold the file open for writing for a moment.
    fn ended(path: &std::path::Path) -> std::process::ExitStatus {
        let ran = crate::until(std::time::Duration::from_secs(5), || match std::process::Command::new(path).status() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
            other => Some(other.expect("it runs")),
        });
        ran.expect("it is busy no more")
    }
}
