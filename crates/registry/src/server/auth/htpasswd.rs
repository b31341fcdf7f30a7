//! Users and their passwords: an htpasswd file of bcrypt entries, read again when it changes.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::Semaphore;

/// The largest file that is read.
const FILE_LIMIT: usize = 4 << 20;
/// How long a password that was right is remembered. A changed entry is another key, so nothing old is believed.
const REMEMBERED: Duration = Duration::from_secs(300);
/// The most passwords that are remembered.
const CACHE_LIMIT: usize = 4096;
/// Bcrypt takes a fifth of a second on purpose: no more of them at once than leave the machine to others.
const CONCURRENT: usize = 2;
/// Costs that are believed: a higher one would hold a thread for minutes.
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;
/// Longer names and passwords are not looked at.
const WORD_LIMIT: usize = 1024;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HtpasswdError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] gantry_linux::Error),
    /// A line of it is wrong.
    #[error("htpasswd file {path} line {line}: {reason}")]
    Line {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// The users of one file.
pub struct Htpasswd {
    path: PathBuf,
    state: Mutex<State>,
    /// Makes the keys of the cache useless to whoever reads this process's memory later.
    key: hmac::Key,
    cache: Mutex<HashMap<[u8; 32], Instant>>,
    pub(super) slots: Semaphore,
}

/// A user's line in the file, as it was when it was looked at.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The user.
    pub user: String,
    hash: String,
}

struct State {
    seen: Option<Stamp>,
    users: Arc<Users>,
}

/// What tells one content of a file from the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug, Default)]
struct Users {
    hashes: HashMap<String, String>,
    /// Compared with when the user is unknown: as dear as the dearest of the file, and nobody's.
    nobody: String,
}

impl Htpasswd {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or an entry is not bcrypt's.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, HtpasswdError> {
        let path = path.into();
        let stamp = Stamp::of(&gantry_linux::fs::metadata(&path)?);
        let users = Arc::new(read(&path)?);
        let mut secret = [0; 32];
        rand::fill(&mut secret).expect("the kernel has random bytes");
        Ok(Self {
            path,
            state: Mutex::new(State { seen: Some(stamp), users }),
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            cache: Mutex::default(),
            slots: Semaphore::new(CONCURRENT),
        })
    }

    /// Whether the user is in the file at this moment.
    pub fn knows(&self, user: &str) -> bool {
        self.users().hashes.contains_key(user)
    }

    /// The user's entry at this moment.
    pub fn entry(&self, user: &str) -> Option<Entry> {
        let hash = self.users().hashes.get(user)?.clone();
        Some(Entry { user: user.to_owned(), hash })
    }

    /// The user's entry, when this password for it was right a moment ago. Costs nothing; `None` says nothing.
    pub fn remembers(&self, user: &str, password: &str) -> Option<Entry> {
        self.entry(user).filter(|entry| self.is_remembered(&self.remembered_as(user, password, &entry.hash)))
    }

    /// The entry that this password was compared with and is right for; the file may have another one by now. It takes as long for
    /// a user who is not there.
    pub async fn check(&self, user: &str, password: &str) -> Option<Entry> {
        let too_long = user.len() > WORD_LIMIT || password.len() > WORD_LIMIT;
        // A NUL ends a password in some implementations and not in others.
        if too_long || password.contains('\0') {
            return None;
        }
        let users = self.users();
        let known = users.hashes.get(user);
        let hash = known.unwrap_or(&users.nobody).clone();
        let key = self.remembered_as(user, password, &hash);
        let entry = known.map(|hash| Entry { user: user.to_owned(), hash: hash.clone() });
        if entry.is_some() && self.is_remembered(&key) {
            return entry;
        }
        let _slot = self.slots.acquire().await.expect("never closed");
        let text = password.to_owned();
        let is_right = tokio::task::spawn_blocking(move || bcrypt::verify(text, &hash).unwrap_or(false)).await;
        let entry = entry.filter(|_| is_right.unwrap_or(false));
        if entry.is_some() {
            self.remember(key);
        }
        entry
    }

    /// The users as the file has them now. A file that became unusable is told of once, and what was read last counts.
    fn users(&self) -> Arc<Users> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = gantry_linux::fs::metadata(&self.path).map(|metadata| Stamp::of(&metadata));
        if now.as_ref().ok() != state.seen.as_ref() {
            state.seen = now.as_ref().ok().copied();
            match now.map_err(HtpasswdError::from).and_then(|_| read(&self.path)) {
                Ok(users) => {
                    tracing::info!("users were read again from {}", self.path.display());
                    state.users = Arc::new(users);
                }
                Err(error) => tracing::error!("{error}: the users that were read last still count"),
            }
        }
        state.users.clone()
    }

    fn remembered_as(&self, user: &str, password: &str, hash: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user, hash, password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn is_remembered(&self, key: &[u8; 32]) -> bool {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(key).is_some_and(|end| *end > Instant::now())
    }

    fn remember(&self, key: [u8; 32]) {
        let now = Instant::now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_LIMIT {
            cache.retain(|_, end| *end > now);
        }
        if cache.len() < CACHE_LIMIT {
            cache.insert(key, now + REMEMBERED);
        }
    }
}

impl Entry {
    /// What it is known by: another mark after a change, and nothing of the hash is to be learned of it.
    pub fn mark(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.user.as_bytes());
        context.update(b":");
        context.update(self.hash.as_bytes());
        URL_SAFE_NO_PAD.encode(context.finish())
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn read(path: &Path) -> Result<Users, HtpasswdError> {
    let text = gantry_linux::fs::read_to_string_up_to(path, FILE_LIMIT)?;
    parse(&text).map_err(|(line, reason)| HtpasswdError::Line { path: path.display().to_string(), line, reason })
}

/// The entries of a file; on failure the number of the line and what is wrong with it, never a part of the hash.
fn parse(text: &str) -> Result<Users, (usize, String)> {
    let mut lines: HashMap<&str, usize> = HashMap::new();
    let mut users = Users::default();
    let mut dearest = 10;
    for (line, entry) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_end_matches('\r'))) {
        if entry.trim().is_empty() || entry.starts_with('#') {
            continue;
        }
        let wrong = |reason: &str| Err((line, reason.to_owned()));
        let Some((user, hash)) = entry.split_once(':') else { return wrong("want user:hash") };
        if user.is_empty() || user.len() > WORD_LIMIT || user.chars().any(char::is_control) {
            return wrong("the user's name is empty, too long, or has a control character in it");
        }
        let Some(cost) = cost_of(hash) else {
            return wrong("the hash is not bcrypt's, and weaker ones are not taken: make it with htpasswd -B");
        };
        if !COSTS.contains(&cost) {
            return Err((line, format!("its cost is {cost}: want {} to {}", COSTS.start(), COSTS.end())));
        }
        if let Some(first) = lines.insert(user, line) {
            return Err((line, format!("user {user:?} is on line {first} as well: keep one of them")));
        }
        dearest = if users.hashes.is_empty() { cost } else { dearest.max(cost) };
        users.hashes.insert(user.to_owned(), hash.to_owned());
    }
    users.nobody = format!("$2b${dearest:02}${}", ".".repeat(53));
    Ok(users)
}

/// The cost of `$2y$CC$` and 53 characters; `None` for all else.
fn cost_of(hash: &str) -> Option<u32> {
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|prefix| hash.strip_prefix(prefix))?;
    let (cost, rest) = rest.split_once('$')?;
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'/';
    if cost.len() != 2 || !cost.bytes().all(|b| b.is_ascii_digit()) || rest.len() != 53 || !rest.bytes().all(is_base64)
    {
        return None;
    }
    cost.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(user: &str, password: &str) -> String {
        format!(
            "{user}:{}\n",
            bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap().format_for_version(bcrypt::Version::TwoY)
        )
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("htpasswd");
        gantry_linux::fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_user_in_the_file_is_right() {
        let (_directory, path) =
            file(&format!("# people\n\n{}{}", entry("alice", "secret"), entry("bob", "päss:word")));
        let users = Htpasswd::open(path).unwrap();
        for (user, password, is_right) in [
            ("alice", "secret", true),
            ("alice", "secret", true),
            ("bob", "päss:word", true),
            ("alice", "Secret", false),
            ("alice", "", false),
            ("alice", "secret\0", false),
            ("alice", "secret\0x", false),
            ("Alice", "secret", false),
            ("alice ", "secret", false),
            ("bob", "secret", false),
            ("", "secret", false),
            ("#", "people", false),
            ("nobody", "", false),
        ] {
            assert_eq!(users.check(user, password).await.is_some(), is_right, "{user:?} {password:?}");
        }
    }

    #[tokio::test]
    async fn a_changed_file_counts_at_once_and_a_broken_one_leaves_what_was() {
        let (_directory, path) = file(&entry("alice", "old"));
        let users = Htpasswd::open(&path).unwrap();
        assert!(users.check("alice", "old").await.is_some());
        gantry_linux::fs::write_atomic(
            &path,
            entry("alice", "new").as_bytes(),
            0o600,
            gantry_linux::fs::Durability::Process,
        )
        .unwrap();
        assert!(users.check("alice", "old").await.is_none(), "a remembered password outlived its entry");
        assert!(users.check("alice", "new").await.is_some());
        gantry_linux::fs::write(&path, "alice:{SHA}x\n").unwrap();
        assert!(users.check("alice", "new").await.is_some());
        gantry_linux::fs::remove_file(&path).unwrap();
        assert!(users.check("alice", "new").await.is_some());
        gantry_linux::fs::write(&path, entry("bob", "x")).unwrap();
        assert!(!users.knows("alice"));
        assert!(users.check("alice", "new").await.is_none());
    }

    #[test]
    fn weak_and_broken_entries_are_refused_by_their_line_without_showing_the_hash() {
        let good = entry("a", "x");
        let salted = "a".repeat(53);
        for (bad, says) in [
            ("a:$apr1$salt$hash".to_owned(), "htpasswd -B"),
            ("a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".to_owned(), "htpasswd -B"),
            ("a:plain".to_owned(), "htpasswd -B"),
            ("a:".to_owned(), "htpasswd -B"),
            (format!("a:$2x$10${salted}"), "htpasswd -B"),
            (format!("a:$2y$+9${salted}"), "htpasswd -B"),
            (format!("a:$2y$31${salted}"), "cost is 31"),
            (format!("a:$2y$03${salted}"), "cost is 3"),
            ("alone".to_owned(), "user:hash"),
            (format!(":{}", good.trim_start_matches("a:").trim()), "name"),
            (good.trim().to_owned(), "line 1 as well"),
        ] {
            let text = format!("{good}{bad}\n");
            let (line, reason) = parse(&text).map(|_| ()).unwrap_err();
            assert_eq!(line, 2, "{bad}");
            assert!(reason.contains(says), "{bad}: {reason}");
            assert!(!reason.contains("aaaa"), "{reason}");
        }
    }

    #[test]
    fn who_is_unknown_costs_what_the_dearest_known_one_does() {
        let dear = format!("b:$2y$12${}\n", "a".repeat(53));
        let users = parse(&format!("{}{dear}", entry("a", "x"))).unwrap();
        assert_eq!(cost_of(&users.nobody), Some(12));
        assert_eq!(cost_of(&parse(&entry("a", "x")).unwrap().nobody), Some(4));
        // It is a hash that bcrypt works on, rather than one that it refuses at once.
        let users = parse(&entry("a", "x")).unwrap();
        assert!(!bcrypt::verify("x", &users.nobody).unwrap());
    }

    proptest! {
        #[test]
        fn whatever_is_in_the_file_never_panics(text in "([a-z]{0,3}:?(\\$2[aby]\\$)?[0-9]{0,2}\\$?[a-z./]{0,60}\\r?\\n){0,4}|.{0,80}") {
            if let Ok(users) = parse(&text) {
                prop_assert!(users.hashes.values().all(|hash| cost_of(hash).is_some()));
            }
        }
    }
}
