//! The mapping of users that a writable layer has, noted beside it: a line per range, `u` or `g`, first inside, first
//! outside, how many.

use std::path::Path;

use gantry_linux::fs;
use gantry_linux::mount::{IdMap, IdRange, RootMount};

use crate::Error;
use crate::store::note;

const NOTE: &str = "owners";

/// Notes the mapping of a layer.
pub(crate) fn write(layer: &Path, map: &IdMap) -> Result<(), Error> {
    let lines = |kind: &str, ranges: &[IdRange]| -> String {
        let line = |(inside, outside, count): &IdRange| format!("{kind} {inside} {outside} {count}\n");
        ranges.iter().map(line).collect()
    };
    let text = format!("{}{}.\n", lines("u", &map.uids), lines("g", &map.gids));
    Ok(fs::write_atomic(layer.join(NOTE), text.as_bytes(), 0o600, fs::Durability::Process)?)
}

/// The mapping of a layer; none where none was noted.
pub(crate) fn read(layer: &Path) -> Result<Option<IdMap>, Error> {
    let Some(text) = note(layer, NOTE)? else { return Ok(None) };
    let damaged = || Error::NotFound(format!("{} (its note of whose its files are is damaged)", layer.display()));
    let mut map = IdMap::default();
    let mut lines = text.lines();
    // A power cut takes the end of a young file first.
    if lines.next_back() != Some(".") {
        return Err(damaged());
    }
    for line in lines {
        let (kind, rest) = line.split_once(' ').ok_or_else(damaged)?;
        let numbers: Vec<u32> = rest.split(' ').map_while(|number| number.parse().ok()).collect();
        let [inside, outside, count] = numbers[..] else { return Err(damaged()) };
        if kind == "u" { map.uids.push((inside, outside, count)) } else { map.gids.push((inside, outside, count)) }
    }
    Ok(Some(map))
}

/// The mount of a layer for a container with the layer's mapping.
pub(crate) fn mapped(layer: &Path, root: RootMount) -> Result<RootMount, Error> {
    Ok(match read(layer)? {
        Some(map) => RootMount::Mapped { root: Box::new(root), map },
        None => root,
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests damage files plainly")]
mod tests {
    use super::*;

    #[test]
    fn a_noted_mapping_is_read_again_and_a_torn_one_is_no_mapping() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let map = IdMap { uids: vec![(0, 100_000, 65536), (65536, 5, 1)], gids: vec![(0, 200_000, 65536)] };
        write(dir.path(), &map).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(map));
        for torn in ["", "u 0 100000 655", "u 0 100000\n.\n"] {
            std::fs::write(dir.path().join(NOTE), torn).unwrap();
            assert!(read(dir.path()).is_err(), "{torn:?}");
        }
    }
}
