//! Docker's `USER`: resolved against the container's own passwd and group files, read inside its root and bounded.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use crate::config::{Process, User as Wanted};
use crate::error::{Error, Result};
use crate::paths;
use crate::protection::intact;

/// A file of users or groups that is longer is refused: it is hostile, or not one.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;
const LARGEST_ID: u64 = i32::MAX as u64;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups; of a user by name the primary one first, as `su` gives them.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Resolves a process's user and further groups inside the root that `root` is a descriptor of.
pub fn resolve(root: impl AsFd, process: &Process) -> Result<User> {
    match &process.user {
        Wanted::Named(name) => resolve_named(root, name, &process.additional_groups),
        Wanted::Ids { uid, gid, additional_gids } => {
            let mut groups = additional_gids.clone();
            if !process.additional_groups.is_empty() {
                let group = read(&root, "/etc/group")?;
                groups.extend(named_groups(&process.additional_groups, &group)?);
            }
            let has_home = process.env.iter().any(|variable| variable.starts_with("HOME=") && variable != "HOME=");
            let home = if has_home { "/".to_owned() } else { home_of(&root, *uid) };
            Ok(User { uid: *uid, gid: *gid, groups: once_each(groups), home })
        }
    }
}

/// Resolves Docker's `USER` string and names or ids of additional groups inside the root that `root` is a descriptor of.
pub fn resolve_named(root: impl AsFd, user: &str, additional: &[String]) -> Result<User> {
    let passwd = read(&root, "/etc/passwd")?;
    // The group file says something only about users with a name and about groups by name.
    let group = read(&root, "/etc/group")?;
    from_files(user, additional, &passwd, &group)
}

/// The home of whoever has this id; `/` when no usable file says one.
fn home_of(root: impl AsFd, uid: u32) -> String {
    let passwd = read(root, "/etc/passwd").unwrap_or_default();
    let text = String::from_utf8_lossy(&passwd);
    let home = accounts(&text).find(|account| account.uid == uid).map_or("", |account| account.home);
    if home.is_empty() { "/".to_owned() } else { home.to_owned() }
}

fn read(root: impl AsFd, path: &str) -> Result<Vec<u8>> {
    let file = match paths::open(root, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(file) => file,
        Err(error) if matches!(error.errno(), libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| gantry_linux::Error::new("stat", path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(Vec::new());
    }
    let longest = if intact("passwd-bounded") { LONGEST_FILE } else { u64::MAX - 1 };
    let mut content = Vec::new();
    std::fs::File::from(file)
        .take(longest + 1)
        .read_to_end(&mut content)
        .map_err(|error| gantry_linux::Error::new("read in container", path, error))?;
    if content.len() as u64 > longest {
        return Err(Error::Invalid(format!("{path} in the container is longer than {LONGEST_FILE} bytes; refused")));
    }
    Ok(content)
}

/// One line of a passwd file.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, uid, gid, _, home) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next(), fields.next());
        Some(Account { name, uid: id(uid)?, gid: id(gid)?, home: home.unwrap_or("") })
    })
}

/// One line of a group file: name, id, members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, id(gid)?, fields.next().unwrap_or("")))
    })
}

fn id(text: &str) -> Option<u32> {
    text.parse::<u64>().ok().filter(|id| *id <= LARGEST_ID).and_then(|id| u32::try_from(id).ok())
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Resolves Docker's `USER` string and names or ids of additional groups against the content of a passwd and a group file,
/// which may be anything.
pub fn from_files(user: &str, additional: &[String], passwd: &[u8], group: &[u8]) -> Result<User> {
    let (passwd, group_text) = (String::from_utf8_lossy(passwd), String::from_utf8_lossy(group));
    let (passwd, group_text) = (passwd.as_ref(), group_text.as_ref());
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, group),
        None => (user, ""),
    };
    let wanted = if name.is_empty() { "0" } else { name };
    let account = accounts(passwd).find(|account| account.name == wanted || (id(wanted) == Some(account.uid)));
    let (uid, mut gid, home) = match &account {
        Some(account) => (account.uid, account.gid, account.home),
        None if is_number(wanted) => (checked_id(wanted)?, 0, "/"),
        None => {
            return Err(Error::Invalid(format!("unable to find user {name}: no matching entries in passwd file")));
        }
    };
    let mut supplementary = Vec::new();
    if group_name.is_empty() {
        let login = account.as_ref().map_or("", |account| account.name);
        supplementary.extend(
            groups(group_text)
                .filter(|(_, _, members)| !login.is_empty() && members.split(',').any(|member| member == login))
                .map(|(_, gid, _)| gid),
        );
    } else {
        gid = group_id(group_name, group_text)?;
    }
    let mut all = vec![gid];
    all.append(&mut supplementary);
    all.extend(named_groups(additional, group)?);
    let all = once_each(all);
    let home = if home.is_empty() { "/" } else { home };
    Ok(User { uid, gid, groups: all, home: home.to_owned() })
}

fn named_groups(names: &[String], group: &[u8]) -> Result<Vec<u32>> {
    let group = String::from_utf8_lossy(group);
    names.iter().map(|name| group_id(name, &group)).collect()
}

fn once_each(mut groups: Vec<u32>) -> Vec<u32> {
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    groups
}

fn group_id(name: &str, group: &str) -> Result<u32> {
    match groups(group).find(|(known, gid, _)| *known == name || id(name) == Some(*gid)) {
        Some((_, gid, _)) => Ok(gid),
        None if is_number(name) => checked_id(name),
        None => Err(Error::Invalid(format!("unable to find group {name}: no matching entries in group file"))),
    }
}

fn checked_id(text: &str) -> Result<u32> {
    if !intact("uid-range") {
        // What a conversion does that does not look: 4294967296 is root.
        return Ok(text.parse::<i128>().unwrap_or_default() as u32);
    }
    id(text).ok_or_else(|| Error::Invalid(format!("uids and gids must be in range 0-{LARGEST_ID}: {text} is not")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/sh\n7:x:70:71::/seven:\n\
                          bad\nhuge:x:4294967296:0::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nmail:x:8:web,root\nadm:x:4:other,web\n";

    fn resolve(user: &str) -> Result<User> {
        from_files(user, &[], PASSWD.as_bytes(), GROUP.as_bytes())
    }

    #[test]
    fn every_form_of_user_is_understood() {
        let root = User { uid: 0, gid: 0, groups: vec![0, 8], home: "/root".into() };
        let web = User { uid: 33, gid: 33, groups: vec![33, 8, 4], home: "/var/www".into() };
        assert_eq!(resolve("").unwrap(), root);
        assert_eq!(resolve("root").unwrap(), root);
        assert_eq!(resolve("web").unwrap(), web);
        assert_eq!(resolve("33").unwrap(), web);
        assert_eq!(resolve("web:mail").unwrap(), User { gid: 8, groups: vec![8], ..web.clone() });
        assert_eq!(resolve("web:12").unwrap(), User { gid: 12, groups: vec![12], ..web });
        assert_eq!(resolve("1000").unwrap(), User { uid: 1000, gid: 0, groups: vec![0], home: "/".into() });
        assert_eq!(resolve("7").unwrap().uid, 70, "a name of digits is a name first");
    }

    #[test]
    fn numbers_that_are_no_id_are_errors_and_never_root() {
        for user in ["4294967296", "-1", "2147483648", "99999999999999999999999", "0:4294967296", "1:-1", "huge"] {
            assert!(matches!(resolve(user), Err(Error::Invalid(_))), "{user}");
        }
        assert_eq!(
            resolve("nobody").unwrap_err().to_string(),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert_eq!(
            resolve("web:nobody").unwrap_err().to_string(),
            "unable to find group nobody: no matching entries in group file"
        );
    }

    #[test]
    fn additional_groups_follow_once_each() {
        let user = from_files("web", &["adm".into(), "500".into()], PASSWD.as_bytes(), GROUP.as_bytes()).unwrap();
        assert_eq!(user.groups, [33, 8, 4, 500]);
        assert!(from_files("web", &["none".into()], PASSWD.as_bytes(), GROUP.as_bytes()).is_err());
    }

    /// A root whose `/etc/NAME` has this size, all zero bytes and no block on disk.
    fn root_with(name: &str, size: u64) -> (tempfile::TempDir, std::fs::File) {
        let dir = tempfile::tempdir().unwrap();
        gantry_linux::fs::create_dir_all(dir.path().join("etc")).unwrap();
        gantry_linux::fs::create(dir.path().join("etc").join(name)).unwrap().set_len(size).unwrap();
        let root = gantry_linux::fs::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn huge_passwd_and_group_files_are_refused_and_give_no_home() {
        let ids =
            Process { user: Wanted::Ids { uid: 7, gid: 8, additional_gids: vec![9, 9, 10] }, ..Process::default() };
        for name in ["passwd", "group"] {
            let (_dir, root) = root_with(name, 1 << 30);
            assert!(matches!(super::resolve(&root, &Process::default()), Err(Error::Invalid(_))), "{name}");
            let user = super::resolve(&root, &ids).unwrap();
            assert_eq!(user, User { uid: 7, gid: 8, groups: vec![9, 10], home: "/".into() });
            let named = Process { additional_groups: vec!["mail".into()], ..ids.clone() };
            assert!(super::resolve(&root, &named).is_err(), "{name}");
        }
    }

    #[test]
    fn ids_get_the_home_that_the_file_says() {
        let (dir, root) = root_with("passwd", 0);
        gantry_linux::fs::write(dir.path().join("etc/passwd"), PASSWD).unwrap();
        let ids = |uid| Process { user: Wanted::Ids { uid, gid: 0, additional_gids: vec![] }, ..Process::default() };
        assert_eq!(super::resolve(&root, &ids(33)).unwrap().home, "/var/www");
        assert_eq!(super::resolve(&root, &ids(34)).unwrap().home, "/");
        let known = Process { env: vec!["HOME=/else".into()], ..ids(33) };
        assert_eq!(super::resolve(&root, &known).unwrap().home, "/", "the file is not read when nobody asks");
    }

    proptest::proptest! {
        #[test]
        fn no_content_of_the_files_makes_a_panic_or_an_id_out_of_range(
            user in ".{0,12}", passwd: Vec<u8>, group: Vec<u8>,
        ) {
            if let Ok(user) = from_files(&user, &[], &passwd, &group) {
                proptest::prop_assert!(u64::from(user.uid) <= LARGEST_ID && u64::from(user.gid) <= LARGEST_ID);
            }
        }
    }
}
