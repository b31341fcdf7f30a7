//! A real terminal: tmux, whose screen a test reads and whose keys it presses.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{Output, command, paths, until};

/// One terminal of 80 × 24 with a program in it.
#[derive(Debug)]
pub struct Terminal {
    server: String,
}

impl Terminal {
    /// Runs a shell line; the terminal stays open when it has ended and shows `[exit N]`.
    pub fn start(line: &str) -> Result<Self> {
        paths::need("tmux")?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let terminal = Self { server: format!("gantry-{}-{unique}", std::process::id()) };
        let line = format!("{line}; echo [exit $?]; exec sleep 600");
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", &line])?;
        Ok(terminal)
    }

    /// Types text.
    pub fn write(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]).expect("type into the terminal");
    }

    /// Presses keys by tmux's names: `Enter`, `C-p`.
    pub fn press(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys"];
        arguments.extend(keys);
        self.tmux(&arguments).expect("press keys in the terminal");
    }

    /// Changes the size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (x, y) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-x", &x, "-y", &y]).expect("resize the terminal");
    }

    /// What the screen shows.
    #[must_use]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-200"]).map(|output| output.stdout).unwrap_or_default()
    }

    /// Waits until the screen shows `text`.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let seen = until(Duration::from_secs(15), || self.screen().contains(text).then_some(()));
        assert!(seen.is_some(), "the terminal does not show {text:?}:\n{}", self.screen());
    }

    fn tmux(&self, arguments: &[&str]) -> Result<Output> {
        let mut tmux = Command::new(paths::need("tmux")?);
        tmux.args(["-L", &self.server]).args(arguments).env("TERM", "xterm").env_remove("TMUX");
        command::succeed(&mut tmux, Duration::from_secs(10)).context("drive tmux")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The server is gone already when its program was killed.
        self.tmux(&["kill-server"]).ok();
    }
}
