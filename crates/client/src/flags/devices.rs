//! `--device`, `--ulimit`, `--restart`.

use gantry_api::hostconfig::{DeviceMapping, RestartPolicy, Ulimit};

const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `/dev/a[:/dev/b][:rwm]`.
///
/// # Errors
/// In Docker's words.
pub fn device(text: &str) -> Result<DeviceMapping, String> {
    let parts: Vec<_> = text.split(':').collect();
    let (host, container, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, second] if is_mode(second) => (*host, *host, *second),
        [host, container] => (*host, *container, "rwm"),
        [host, container, mode] => (*host, *container, *mode),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    if !is_mode(permissions) {
        return Err(format!("bad mode specified: {permissions}"));
    }
    let container = if container.is_empty() { host } else { container };
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: container.to_owned(),
        cgroup_permissions: permissions.to_owned(),
    })
}

fn is_mode(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().enumerate().all(|(at, b)| b"rwm".contains(&b) && !text.as_bytes()[..at].contains(&b))
}

/// `name=soft[:hard]`.
///
/// # Errors
/// In Docker's words.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let invalid = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(invalid)?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number =
        |part: &str| part.parse::<i64>().map_err(|_| format!("strconv.ParseInt: parsing {part:?}: invalid syntax"));
    let (soft, hard) = match limits.split_once(':') {
        Some((_, hard)) if hard.contains(':') => {
            return Err(format!("too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"));
        }
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// `always`, `on-failure:3` …
///
/// # Errors
/// In Docker's words.
pub fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = match text.split_once(':') {
        Some(("", _)) => return Err("invalid restart policy format: no policy provided before colon".to_owned()),
        Some((name, count)) => {
            let count = count.parse();
            (
                name,
                count
                    .map_err(|_| "invalid restart policy format: maximum retry count must be an integer".to_owned())?,
            )
        }
        None => (text, 0),
    };
    Ok(RestartPolicy { name: name.to_owned(), maximum_retry_count: count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_a_path_and_a_mode() {
        let device = |text| {
            let DeviceMapping { path_on_host, path_in_container, cgroup_permissions } = super::device(text)?;
            Ok::<_, String>(format!("{path_on_host} {path_in_container} {cgroup_permissions}"))
        };
        assert_eq!(device("/dev/a").unwrap(), "/dev/a /dev/a rwm");
        assert_eq!(device("/dev/a:r").unwrap(), "/dev/a /dev/a r");
        assert_eq!(device("/dev/a:/dev/b").unwrap(), "/dev/a /dev/b rwm");
        assert_eq!(device("/dev/a:/dev/b:rw").unwrap(), "/dev/a /dev/b rw");
        assert_eq!(device("/a:b:c:d").unwrap_err(), "invalid device specification: /a:b:c:d");
        assert_eq!(device("/a:/b:zz").unwrap_err(), "bad mode specified: zz");
    }

    #[test]
    fn ulimits_have_a_soft_and_a_hard_side() {
        assert_eq!(ulimit("nofile=1:2").unwrap(), Ulimit { name: "nofile".into(), soft: 1, hard: 2 });
        assert_eq!(ulimit("core=-1").unwrap(), Ulimit { name: "core".into(), soft: -1, hard: -1 });
        for (text, message) in [
            ("a", "invalid ulimit argument: a"),
            ("foo=1", "invalid ulimit type: foo"),
            ("nofile=a", "strconv.ParseInt: parsing \"a\": invalid syntax"),
            ("nofile=2:1", "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
        ] {
            assert_eq!(ulimit(text).unwrap_err(), message);
        }
    }

    #[test]
    fn restart_policies_may_count() {
        assert_eq!(restart_policy("on-failure:3").unwrap().maximum_retry_count, 3);
        assert_eq!(restart_policy("always").unwrap().name, "always");
        let error = restart_policy("on-failure:x").unwrap_err();
        assert_eq!(error, "invalid restart policy format: maximum retry count must be an integer");
    }
}
