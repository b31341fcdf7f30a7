//! `--health-*` and `--no-healthcheck`.

use gantry_api::container::Healthcheck;

use crate::cli::Parsed;
use crate::format::duration;

/// The health check, if anything was said of it.
///
/// # Errors
/// In Docker's words.
pub fn healthcheck(flags: &Parsed) -> Result<Option<Healthcheck>, String> {
    const NAMES: [&str; 6] = [
        "health-cmd",
        "health-interval",
        "health-timeout",
        "health-retries",
        "health-start-period",
        "health-start-interval",
    ];
    let any = NAMES.iter().any(|name| flags.given(name));
    if flags.on("no-healthcheck") {
        if any {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        return Ok(Some(Healthcheck { test: Some(vec!["NONE".to_owned()]), ..Healthcheck::default() }));
    }
    if !any {
        return Ok(None);
    }
    let time = |name: &str| match flags.text(name) {
        None => Ok(0),
        Some(text) => match duration::parse(text)? {
            ..0 => Err(format!("--{name} cannot be negative")),
            nanoseconds => Ok(nanoseconds),
        },
    };
    let retries = flags.int("health-retries").unwrap_or(0);
    if retries < 0 {
        return Err("--health-retries cannot be negative".to_owned());
    }
    let test = flags.text("health-cmd").map(|command| vec!["CMD-SHELL".to_owned(), command.to_owned()]);
    Ok(Some(Healthcheck {
        test,
        interval: time("health-interval")?,
        timeout: time("health-timeout")?,
        retries,
        start_period: time("health-start-period")?,
        start_interval: time("health-start-interval")?,
    }))
}
