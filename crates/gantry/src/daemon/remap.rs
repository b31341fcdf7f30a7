//! `--userns-remap`: whose ids the users of containers have outside, from `/etc/subuid` and `/etc/subgid`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use gantry_linux::fs;
use gantry_linux::mount::{IdMap, IdRange};

/// The user of `default`, as in Docker.
const DEFAULT_USER: &str = "dockremap";

/// The mapping that the flag names; none without it.
///
/// # Errors
/// A user or group without ranges of ids, and a range that is none; the message says what to do.
pub fn mapping(flag: Option<&str>) -> Result<Option<IdMap>> {
    match flag {
        None | Some("") => Ok(None),
        Some(text) => resolve(text, Path::new("/etc")).with_context(|| format!("--userns-remap {text}")).map(Some),
    }
}

fn resolve(text: &str, etc: &Path) -> Result<IdMap> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    if let Some(uids) = explicit(user)? {
        let gids = explicit(group)?.context("ranges of users go with ranges of groups: first-last:first-last")?;
        return Ok(IdMap { uids: vec![uids], gids: vec![gids] });
    }
    let (user, group) = if text == "default" { (DEFAULT_USER, DEFAULT_USER) } else { (user, group) };
    if matches!(user, "root" | "0") {
        bail!("root cannot be remapped to itself; leave the flag out, or name another user");
    }
    let uids = subordinate(user, &etc.join("subuid"), &etc.join("passwd"), "user")?;
    // Groups of a user's are listed under the user's name, those of a group under the group's.
    let gids = subordinate(group, &etc.join("subgid"), &etc.join("group"), "group")
        .or_else(|error| subordinate(user, &etc.join("subgid"), &etc.join("passwd"), "user").map_err(|_| error))?;
    Ok(IdMap { uids, gids })
}

/// `100000-165535`: these ids, whatever the files say.
fn explicit(text: &str) -> Result<Option<IdRange>> {
    let Some((first, last)) = text.split_once('-') else { return Ok(None) };
    let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { return Ok(None) };
    if first == 0 || last < first || last == u32::MAX {
        bail!("{text}: want first-last, without 0, which is root of the host");
    }
    Ok(Some((0, first, last - first + 1)))
}

/// All ranges of a user or group in `list`, one after the other from 0 on; by name or by number in both ways.
fn subordinate(name: &str, list: &Path, accounts: &Path, kind: &str) -> Result<Vec<IdRange>> {
    let known = gantry_transport::account(accounts, name).map(|(name, id)| [name, id.to_string()]);
    let aliases: Vec<String> = known.into_iter().flatten().chain([name.to_owned()]).collect();
    let text = fs::read_to_string(list).unwrap_or_default();
    let mut ranges = Vec::new();
    let mut next = 0u32;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(':').collect();
        let [owner, first, count] = fields[..] else { continue };
        if !aliases.iter().any(|alias| alias == owner) {
            continue;
        }
        let number = |text: &str| text.parse::<u32>().with_context(|| format!("{}: {line}: no number", list.display()));
        let (first, count) = (number(first)?, number(count)?);
        let end = next.checked_add(count).filter(|_| count > 0 && first > 0 && first.checked_add(count).is_some());
        let end = end.with_context(|| format!("{}: {line}: no range of ids", list.display()))?;
        ranges.push((next, first, count));
        next = end;
    }
    if ranges.is_empty() {
        let (file, flag) = if kind == "user" { ("subuid", "subuids") } else { ("subgid", "subgids") };
        bail!(
            "{} has no range of ids for {kind} {name}: add a line such as {name}:100000:65536 to /etc/{file} (or: usermod \
             --add-{flag} 100000-165535 {name})",
            list.display()
        );
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etc(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn ranges_are_found_by_name_and_by_number_and_follow_each_other() {
        let etc = etc(&[
            ("passwd", "root:x:0:0::/:\nalice:x:1001:1002::/:\n"),
            ("group", "alice:x:1002:\nstaff:x:50:\n"),
            ("subuid", "# people\nalice:100000:65536\nbob:1:2\n1001:300000:10\n"),
            ("subgid", "alice:200000:65536\n50:400000:1000\n"),
        ]);
        let alice = resolve("alice", etc.path()).unwrap();
        assert_eq!(alice.uids, [(0, 100_000, 65536), (65536, 300_000, 10)]);
        assert_eq!(alice.gids, [(0, 200_000, 65536)]);
        assert_eq!(resolve("1001", etc.path()).unwrap(), alice);
        assert_eq!(resolve("alice:staff", etc.path()).unwrap().gids, [(0, 400_000, 1000)]);
        assert_eq!(resolve("1001:50", etc.path()).unwrap().gids, [(0, 400_000, 1000)]);
    }

    #[test]
    fn ranges_can_be_given_without_any_file() {
        let nothing = etc(&[]);
        let map = resolve("100000-165535", nothing.path()).unwrap();
        assert_eq!((map.uids, map.gids), (vec![(0, 100_000, 65536)], vec![(0, 100_000, 65536)]));
        let map = resolve("1000-1999:3000-3099", nothing.path()).unwrap();
        assert_eq!((map.uids, map.gids), (vec![(0, 1000, 1000)], vec![(0, 3000, 100)]));
        for bad in ["0-65535", "10-9", "5-4294967295", "1000-1999:staff"] {
            assert!(resolve(bad, nothing.path()).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_has_no_ranges_is_told_what_to_do() {
        let etc = etc(&[("subuid", "alice:100000:65536\n")]);
        for (text, told) in [
            ("bob", "bob:100000:65536 to /etc/subuid"),
            ("alice", "alice:100000:65536 to /etc/subgid"),
            ("root", "root cannot be remapped"),
            ("default", "dockremap"),
        ] {
            let error = format!("{:#}", resolve(text, etc.path()).unwrap_err());
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
