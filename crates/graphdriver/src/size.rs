//! Sizes as Docker's options write them.

/// Bytes of a size as Docker's options write it: `512m`, `1.5g`, `10 GiB`, `4096`, all in 1024s.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match &lower[number.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    let number = number.trim_end();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let unit = 1_u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a part of a unit"
    )]
    number.parse::<f64>().ok().map(|number| (number * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("120G", 120 << 30),
            ("1.5g", 3 << 29),
            ("10 KB", 10 << 10),
            ("1GiB", 1 << 30),
            ("2tb", 2 << 40),
            (" 5b ", 5),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for wrong in ["", "g", "-1g", "+1", "1q", "1kk", "1e3", "99999999999999p", "1.2.3m", "nan", "1 2k"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
