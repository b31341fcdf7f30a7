//! What `info` shows of the driver, by Docker's names.

use super::base::Base;
use super::pool::Pool;
use super::space::human;
use gantry_linux::dm::SECTOR;

/// The lines; those of the pool's space only where it says it.
pub(super) fn lines(pool: &Pool, base: &Base) -> Vec<(String, String)> {
    let mut lines = vec![("Pool Name".to_owned(), pool.name.clone())];
    let mut line = |name: &str, value: String| lines.push((name.to_owned(), value));
    let space = pool.space();
    if let Ok(space) = &space {
        line("Pool Blocksize", human(space.block));
    }
    line("Base Device Size", human(base.sectors * SECTOR));
    line("Backing Filesystem", base.kind.name().to_owned());
    if let Some((metadata, data)) = pool.devices() {
        line("Data file", shown(&data));
        line("Metadata file", shown(&metadata));
    }
    for (name, file) in [("Data loop file", Pool::DATA), ("Metadata loop file", Pool::METADATA)] {
        if let Some(path) = pool.file(file) {
            line(name, path.display().to_string());
        }
    }
    match space {
        Ok(space) => {
            line("Data Space Used", human(space.data.0));
            line("Data Space Total", human(space.data.1));
            line("Data Space Available", human(space.free_data()));
            line("Metadata Space Used", human(space.metadata.0));
            line("Metadata Space Total", human(space.metadata.1));
            line("Metadata Space Available", human(space.metadata.1.saturating_sub(space.metadata.0)));
            line("Thin Pool Minimum Free Space", human(space.data.1 / 100 * pool.least_free));
        }
        Err(error) => line("Pool Error", error.to_string()),
    }
    line("Udev Sync Supported", "false".to_owned());
    line("Deferred Removal Enabled", "true".to_owned());
    line("Deferred Deletion Enabled", "true".to_owned());
    lines
}

/// A device as people name it.
fn shown(number: &str) -> String {
    let link = gantry_linux::fs::read_link(format!("/sys/dev/block/{number}"));
    link.ok()
        .and_then(|link| link.file_name().map(|name| format!("/dev/{}", name.to_string_lossy())))
        .unwrap_or_else(|| number.to_owned())
}
