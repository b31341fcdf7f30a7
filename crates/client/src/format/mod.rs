//! How things are shown: tables, durations, sizes, times, `--format`.

pub mod duration;
pub mod json;
pub mod rows;
pub mod size;
pub mod table;
pub mod time;

/// The first twelve digits of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

/// At most `width` columns, the last an ellipsis when something was cut.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}
