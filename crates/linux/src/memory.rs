//! The C library's allocator, in a process that lives for months (`mallopt(3)`, `malloc_trim(3)`). Another C library than
//! glibc gives memory back by itself: there both functions do nothing.
#![allow(unsafe_code, reason = "rustix has no door to the allocator")]

/// Heaps beside each other. The default is eight for each processor, and what a heap once held it keeps.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// Bytes of one piece that come from the kernel and go back to it. The default grows with each piece that is freed, to 32 MiB.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 512 << 10;

/// Keeps the heap small. To be called before there are threads.
pub fn be_frugal() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the calls take numbers and change settings of the allocator, which it guards by its own lock. A setting that it
    // refuses stays as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Gives to the kernel what is free in the heap.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches pages that hold nothing, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    /// Pages of the heap and of anonymous mappings that are in memory.
    fn resident() -> usize {
        let statm = crate::fs::read_to_string("/proc/self/statm").unwrap();
        let field = |index: usize| statm.split(' ').nth(index).unwrap().trim().parse::<usize>().unwrap();
        field(1) - field(2)
    }

    #[test]
    fn what_was_freed_goes_back_to_the_kernel() {
        be_frugal();
        // Small pieces, of which the last one stays: the heap cannot shrink from its end.
        let pieces: Vec<Vec<u8>> = (0..64 << 10).map(|_| vec![1; 1 << 10]).collect();
        let held = resident();
        let last = pieces.into_iter().next_back();
        give_back();
        let left = resident();
        assert!(left + (32 << 20) / rustix::param::page_size() < held, "{held} pages, then {left}");
        drop(last);
    }
}
