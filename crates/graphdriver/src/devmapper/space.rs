//! How full a thin pool is, as its status says it.

use gantry_linux::dm::{SECTOR, Target};

/// Of data and metadata: bytes used, bytes in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub data: (u64, u64),
    pub metadata: (u64, u64),
    /// Bytes of a block of data.
    pub block: u64,
    /// Free bytes of the disk that the pool's files lie on.
    pub free_below: Option<u64>,
    /// Whether nobody has used it yet.
    pub untouched: bool,
    /// Whether the kernel writes no new blocks any more.
    pub stuck: bool,
}

/// Bytes of a block of metadata, always.
const METADATA_BLOCK: u64 = 4096;

impl Space {
    /// Of the pool's table (`metadata data block …`) and status (`transaction used/all used/all root mode …`); `None` when it
    /// has failed.
    pub(super) fn parse(table: &Target, status: &Target) -> Option<Self> {
        let block = table.parameters.split(' ').nth(2)?.parse::<u64>().ok()? * SECTOR;
        let words: Vec<&str> = status.parameters.split(' ').collect();
        let pair = |index: usize, size: u64| {
            let (used, all) = words.get(index)?.split_once('/')?;
            Some((used.parse::<u64>().ok()? * size, all.parse::<u64>().ok()? * size))
        };
        let data = pair(2, block)?;
        Some(Self {
            metadata: pair(1, METADATA_BLOCK)?,
            data,
            untouched: *words.first()? == "0" && data.0 == 0,
            block,
            free_below: None,
            stuck: matches!(*words.get(4)?, "ro" | "out_of_data_space"),
        })
    }

    pub(super) fn free_data(&self) -> u64 {
        let free = self.data.1.saturating_sub(self.data.0);
        self.free_below.map_or(free, |below| below.min(free))
    }

    /// Why no layer should be made, when so many percent must be free.
    pub(super) fn too_full(&self, percent: u64) -> Option<String> {
        let cure = "remove images or containers, enlarge the pool, or lower dm.min_free_space";
        let of = |free: u64, all: u64, what: &str, where_: &str| {
            let least = all / 100 * percent;
            let short = free < least || free == 0;
            short.then(|| {
                format!(
                    "{} of {} of {what} are free{where_}, {} must be: {cure}",
                    human(free),
                    human(all),
                    human(least)
                )
            })
        };
        let free_metadata = self.metadata.1.saturating_sub(self.metadata.0);
        let below = self.free_below.is_some_and(|below| below < self.data.1.saturating_sub(self.data.0));
        let where_ = if below { " on the disk of its files" } else { "" };
        of(self.free_data(), self.data.1, "data", where_)
            .or_else(|| of(free_metadata, self.metadata.1, "metadata", ""))
            .or_else(|| self.stuck.then(|| format!("it takes no more writes: {cure}")))
    }
}

/// A number of bytes as Docker's `info` says it.
pub(super) fn human(bytes: u64) -> String {
    let mut unit = 0;
    #[allow(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut number = bytes as f64;
    while number >= 1000.0 && unit < 5 {
        number /= 1000.0;
        unit += 1;
    }
    // Four digits in all.
    let before = if number >= 100.0 {
        3
    } else if number >= 10.0 {
        2
    } else {
        1
    };
    let text = format!("{number:.*}", 4 - before);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", ["B", "kB", "MB", "GB", "TB", "PB"][unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(parameters: &str) -> Target {
        Target { start: 0, sectors: 8, kind: "thin-pool".to_owned(), parameters: parameters.to_owned() }
    }

    #[test]
    fn the_pools_status_is_read_and_judged() {
        let table = target("7:0 7:1 128 0 1 error_if_no_space");
        let of = |status: &str| Space::parse(&table, &target(status));
        let space = of("0 100/1000 95/100 - rw no_discard_passdown error_if_no_space - 1024").unwrap();
        assert_eq!(space.data, (95 << 16, 100 << 16));
        assert_eq!(space.metadata, (409_600, 4_096_000));
        assert_eq!(space.too_full(5), None);
        assert!(space.too_full(6).unwrap().contains("327.7kB of 6.554MB of data are free"));
        let below = Space { free_below: Some(0), ..space };
        assert!(below.too_full(0).unwrap().contains("on the disk"));
        let stuck = of("0 100/1000 100/100 - out_of_data_space discard_passdown error_if_no_space - 1024").unwrap();
        assert!(stuck.too_full(0).is_some());
        assert!(of("0 999/1000 1/100 - rw discard_passdown error_if_no_space - 1024").unwrap().too_full(1).is_some());
        assert_eq!(of("Fail"), None);
    }

    #[test]
    fn sizes_are_shown_with_four_digits() {
        let shown = [(0, "0B"), (65536, "65.54kB"), (107_374_182_400, "107.4GB"), (999, "999B"), (2_000_000, "2MB")];
        for (bytes, text) in shown {
            assert_eq!(human(bytes), text);
        }
    }
}
