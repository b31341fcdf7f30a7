//! Sizes: as people read them, and as flags write them.

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// Thousands, three digits: `4.43MB`.
pub fn human(bytes: i64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 3)
}

/// Thousands, four digits: `1.982MB`.
pub fn finer(bytes: i64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 4)
}

/// 1024s, four digits: `15.55GiB`.
pub fn binary(bytes: i64) -> String {
    scaled(bytes, 1024.0, &BINARY, 4)
}

#[allow(clippy::cast_precision_loss, reason = "a few digits are shown")]
fn scaled(bytes: i64, base: f64, units: &[&str], digits: usize) -> String {
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    format!("{}{}", significant(size, digits), units[unit])
}

/// So many significant digits without trailing zeros, as C's `%g` for numbers of that size.
fn significant(number: f64, digits: usize) -> String {
    let before = format!("{:.0}", number.abs().trunc()).len();
    let mut text = format!("{number:.*}", digits.saturating_sub(if number.abs() < 1.0 { 0 } else { before }));
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text
}

/// `512m`, `1.5g`, `10 KB`, `4096`, all in 1024s.
///
/// # Errors
/// As Docker words it.
pub fn parse(text: &str) -> Result<i64, String> {
    let Some(last) = text.rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' ')) else {
        return Err(format!("invalid size: '{text}'"));
    };
    let (number, suffix) = match text.as_bytes()[last] {
        b' ' => (&text[..last], &text[last + 1..]),
        _ => text.split_at(last + 1),
    };
    let number: f64 = number.parse().map_err(|_| format!("strconv.ParseFloat: parsing {number:?}: invalid syntax"))?;
    if number < 0.0 || !number.is_finite() {
        return Err(format!("invalid size: '{text}'"));
    }
    let lower = suffix.to_lowercase();
    let bad = || format!("invalid suffix: '{suffix}'");
    let (power, rest) = match lower.as_bytes() {
        [] | [b'b'] => (0, ""),
        [b'k', ..] => (1, &lower[1..]),
        [b'm', ..] => (2, &lower[1..]),
        [b'g', ..] => (3, &lower[1..]),
        [b't', ..] => (4, &lower[1..]),
        [b'p', ..] => (5, &lower[1..]),
        _ => return Err(bad()),
    };
    if !matches!(rest, "" | "b" | "ib") {
        return Err(bad());
    }
    #[allow(clippy::cast_possible_truncation, reason = "saturates, and the daemon refuses what is too much")]
    Ok((number * 1024_f64.powi(power)) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (5, "5B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_430_000, "4.43MB"),
            (77_800_000, "77.8MB"),
            (124_000_000, "124MB"),
            (1_020_000_000, "1.02GB"),
        ] {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(binary(16_700_000_000), "15.55GiB");
        assert_eq!(binary(512 << 20), "512MiB");
    }

    #[test]
    fn flags_take_dockers_sizes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1k", 1024),
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("10 KB", 10 << 10),
            ("1GiB", 1 << 30),
            ("5b", 5),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse("1q").unwrap_err(), "invalid suffix: 'q'");
        assert_eq!(parse("z").unwrap_err(), "invalid size: 'z'");
        assert_eq!(parse("").unwrap_err(), "invalid size: ''");
        assert_eq!(parse("-1k").unwrap_err(), "invalid size: '-1k'");
        assert!(parse("1kk").is_err());
    }
}
