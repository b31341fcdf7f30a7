//! Values as runc reads them: signals, sizes, durations.

use std::time::Duration;

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
const FIRST_REAL_TIME: i32 = 34;
const LAST_REAL_TIME: i32 = 64;

/// A signal by number or name, with or without `SIG`; `RTMIN+1` and `RTMAX-1` are known too. 0 asks only whether there is
/// a process.
pub fn signal(text: &str) -> Result<i32, String> {
    let unknown = || format!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=LAST_REAL_TIME).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = SIGNALS.iter().position(|known| *known == name) {
        return i32::try_from(index + 1).map_err(|_| unknown());
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign).and_then(|digits| digits.parse::<i32>().ok()),
    };
    let real_time = match name {
        "IOT" => Some(6),
        "POLL" => Some(29),
        "CLD" => Some(17),
        _ => (name.strip_prefix("RTMIN").and_then(|rest| offset(rest, '+')).map(|by| FIRST_REAL_TIME + by))
            .or_else(|| name.strip_prefix("RTMAX").and_then(|rest| offset(rest, '-')).map(|by| LAST_REAL_TIME - by))
            .filter(|number| (FIRST_REAL_TIME..=LAST_REAL_TIME).contains(number)),
    };
    real_time.ok_or_else(unknown)
}

/// Bytes with a binary unit: `64m`, `1.5GiB`, `4096`; `-1` is unlimited.
pub fn bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: {text:?}");
    if text == "-1" {
        return Ok(-1);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = text[end..].trim_start().to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    let factor = 1u64 << (10 * power);
    if let Ok(number) = text[..end].parse::<u64>() {
        return number.checked_mul(factor).and_then(|bytes| i64::try_from(bytes).ok()).ok_or_else(invalid);
    }
    let number: f64 = text[..end].parse().map_err(|_| invalid())?;
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a fraction of a unit is no promise"
    )]
    let bytes = (number * factor as f64) as i64;
    Ok(bytes)
}

/// A duration as Go writes it: `5s`, `100ms`, `1m30s`; more than nothing.
pub fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("invalid duration {text:?}");
    let mut total = 0f64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..end].parse().map_err(|_| invalid())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(invalid()),
            };
        rest = &rest[end..];
    }
    match Duration::try_from_secs_f64(total) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("duration interval must be greater than 0".into()),
        Err(_) => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_number_and_every_name() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("SIGTERM", 15), ("sigusr1", 10), ("RTMIN+1", 35), ("SIGRTMAX", 64), ("0", 0)]
        {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        for text in ["", "SIGNOPE", "65", "-9", "RTMIN+31", "RTMAX-31"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, number) in [("4096", 4096), ("64m", 64 << 20), ("1.5GiB", 3 << 29), ("2Kb", 2048), ("-1", -1)] {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for text in ["", "-2", "1x", "m", "99999999999p"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        for text in ["", "5", "0s", "-1s", "5 s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
