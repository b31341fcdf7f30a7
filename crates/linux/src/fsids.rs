//! Files made for another user: with the owner from the first moment, which a mount that shows owners through a mapping
//! demands.
#![allow(unsafe_code, reason = "rustix has no setfsuid and setfsgid")]

use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

use crate::{Error, Result, ResultExt};

/// Runs `work` on a thread whose new files belong to this user and group, and which keeps every other right of the caller.
pub fn as_owner<T: Send, E: From<Error> + Send>(
    (uid, gid): (u32, u32),
    work: impl FnOnce() -> std::result::Result<T, E> + Send,
) -> std::result::Result<T, E> {
    let thread = std::thread::Builder::new().name("owner".into());
    std::thread::scope(|scope| {
        let thread = thread
            .spawn_scoped(scope, || {
                become_owner(uid, gid)?;
                work()
            })
            .during("start", "a thread for another owner's files")?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::new("run", "a thread for another owner's files", std::io::Error::other("it crashed")).into())
        })
    })
}

/// For good: the thread ends with it.
fn become_owner(uid: u32, gid: u32) -> Result<()> {
    let held = capabilities(None).during("read", "capabilities")?;
    // SAFETY: the calls change the calling thread alone and touch no memory. They return the id before; whether it was
    // changed is seen when it is given once more.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        (libc::syscall(libc::SYS_setfsuid, uid), libc::syscall(libc::SYS_setfsgid, gid))
    };
    if now != (i64::from(uid), i64::from(gid)) {
        return Err(Error::new("make files as", format!("user {uid} and group {gid}"), rustix::io::Errno::PERM));
    }
    // With another user the rights over other people's files went from the effective ones.
    let sets = CapabilitySets { effective: held.permitted, ..held };
    set_capabilities(None, sets).during("keep", "capabilities")
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare files plainly")]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn files_belong_to_the_owner_and_everything_else_may_still_be_done() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let file = dir.path().join("f");
        let made: Result<()> = as_owner((1234, 5678), || {
            std::fs::write(&file, "x").unwrap();
            std::os::unix::fs::chown(dir.path(), Some(7), None).unwrap();
            Ok(())
        });
        made.unwrap();
        let stat = std::fs::metadata(&file).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (1234, 5678));
        assert_eq!(std::fs::metadata(dir.path()).unwrap().uid(), 7);
        std::fs::write(dir.path().join("after"), "").unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("after")).unwrap().uid(), 0);
    }
}
