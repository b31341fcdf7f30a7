//! The end of a container: nothing of it is left running, its exit is recorded, then everybody is told.

use std::time::Instant;

use super::REMOVAL;
use super::serve::Work;
use crate::Exit;
use crate::native::protocol::Tell;

impl Work {
    /// Ends the processes that the first one has left behind: they hold its output open.
    pub(super) fn clear_cgroup(&mut self) {
        self.supervisor.uproot_seed();
        if !self.new_pid_namespace {
            // With a pid namespace the kernel has ended them. What cannot be killed shows when the cgroup is removed.
            let _ = self.supervisor.leaf.kill_all(Instant::now() + REMOVAL);
        }
    }

    /// Records the exit, tells it, removes the cgroup. Returns the supervisor's exit code.
    pub(super) fn end(mut self) -> i32 {
        let oom_killed = self.supervisor.leaf.oom_kills().is_ok_and(|kills| kills > 0);
        let Some(mut container) = self.tasks.drain(..).next() else { return 1 };
        let (code, finished_at) = container.ended.unwrap_or((255, std::time::SystemTime::now()));
        let exit = Exit { code, oom_killed, finished_at };
        let recorded = self.record.set_exit(&exit);
        // The name goes first: a daemon that looks now finds the record, or this supervisor, never nothing.
        let unlinked = self.record.remove_socket();
        container.finish();
        for connection in &mut self.connections {
            connection.tell(&Tell::Exited(exit.clone()), &[]);
        }
        let removed = self.supervisor.leaf.remove(Instant::now() + REMOVAL);
        i32::from(recorded.is_err() || unlinked.is_err() || removed.is_err())
    }
}
