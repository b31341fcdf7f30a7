//! Points in time: what `--since` and `--until` take, what lists show.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::duration;

/// What the daemon takes for `--since 42m`, `--since 2013-01-02T13:23:37Z`, `--since 1136073845.5`: seconds, with their
/// fraction.
///
/// # Errors
/// When it is none of these.
pub fn parameter(text: &str, now: Timestamp) -> Result<String, String> {
    if let Ok(nanoseconds) = duration::parse(text) {
        let then = now.as_nanosecond() - i128::from(nanoseconds);
        return Ok(seconds(then));
    }
    if let Ok(then) = text.parse::<Timestamp>() {
        return Ok(seconds(then.as_nanosecond()));
    }
    if let Some(then) = local(text) {
        return Ok(seconds(then.timestamp().as_nanosecond()));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if digits(whole.strip_prefix('-').unwrap_or(whole)) && digits(fraction) && fraction.len() <= 9 {
        return Ok(text.to_owned());
    }
    Err(format!("failed to parse value as time or duration: {text:?}"))
}

/// A date, or a date and time, in the person's own zone.
fn local(text: &str) -> Option<Zoned> {
    let moment = match text.split_once('T') {
        Some((_, time)) if time.len() < 3 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    moment.parse::<DateTime>().ok()?.to_zoned(TimeZone::system()).ok()
}

fn seconds(nanoseconds: i128) -> String {
    let (whole, rest) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    format!("{whole}.{rest:09}")
}

/// `2024-05-06 07:08:09 +0200 CEST`, as Go prints a time.
pub fn of_unix(seconds: i64) -> String {
    let Ok(time) = Timestamp::from_second(seconds) else { return String::new() };
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// How long ago, with "ago".
pub fn ago(unix: i64) -> String {
    let seconds = Timestamp::now().as_second() - unix;
    format!("{} ago", duration::human(seconds))
}

/// RFC 3339 with nine digits in the person's zone, as events are printed.
pub fn nanoseconds(unix_nano: i64) -> String {
    let Ok(time) = Timestamp::from_nanosecond(i128::from(unix_nano)) else { return String::new() };
    let zoned = time.to_zoned(TimeZone::system());
    let text = zoned.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string();
    text.strip_suffix("+00:00").map_or(text.clone(), |utc| format!("{utc}Z"))
}

/// `Fri May 30 12:07:14 2025` of an RFC 3339 time; what is none stays as it is.
pub fn ansi(text: &str) -> String {
    text.parse::<Timestamp>()
        .map(|time| time.to_zoned(TimeZone::UTC).strftime("%a %b %e %H:%M:%S %Y").to_string())
        .unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_durations_dates_and_seconds() {
        let now: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(parameter("1m", now).unwrap(), "1704067140.000000000");
        assert_eq!(parameter("2013-01-02T13:23:37Z", now).unwrap(), "1357133017.000000000");
        assert_eq!(parameter("2013-01-02T13:23:37.5+01:00", now).unwrap(), "1357129417.500000000");
        assert_eq!(parameter("1136073845.5", now).unwrap(), "1136073845.5");
        assert_eq!(parameter("1136073845", now).unwrap(), "1136073845");
        assert!(parameter("2013-01-02", now).is_ok());
        assert!(parameter("2013-01-02T13:23", now).is_ok());
        assert!(parameter("yesterday", now).is_err());
        assert!(parameter("", now).is_err());
    }
}
