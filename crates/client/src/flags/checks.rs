//! Checks of single values while flags are read, worded as Docker words them.

use crate::format::{duration, size};

type Check = Result<(), String>;

/// Content trust can only be disabled.
pub fn no_trust(text: &str) -> Check {
    match crate::cli::boolean(text) {
        Some(false) => Err("content trust is not supported yet".to_owned()),
        _ => Ok(()),
    }
}

/// `name=value`.
pub fn filter(text: &str) -> Check {
    if text.contains('=') { Ok(()) } else { Err("bad format of filter (expected name=value)".to_owned()) }
}

/// A whole number.
pub fn int(text: &str) -> Check {
    text.parse::<i64>().map(drop).map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
}

/// A size.
pub fn bytes(text: &str) -> Check {
    size::parse(text).map(drop)
}

/// A size, or -1.
pub fn bytes_or_unlimited(text: &str) -> Check {
    if text == "-1" { Ok(()) } else { bytes(text) }
}

/// A duration.
pub fn duration(text: &str) -> Check {
    duration::parse(text).map(drop)
}

/// A number of CPUs.
pub fn cpus(text: &str) -> Check {
    nano_cpus(text).map(drop)
}

/// Billionths of a CPU; a decimal number or a fraction.
pub fn nano_cpus(text: &str) -> Result<i64, String> {
    let bad = || format!("failed to parse {text} as a rational number");
    let (top, bottom) = match text.split_once('/') {
        Some((top, bottom)) => (top, bottom.parse::<i128>().ok().filter(|bottom| *bottom > 0).ok_or_else(bad)?),
        None => (text, 1),
    };
    let (sign, digits) = match top.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, top.strip_prefix('+').unwrap_or(top)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let decimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !decimal(whole) || !decimal(fraction) || whole.len() + fraction.len() == 0 || whole.len() > 9 {
        return Err(bad());
    }
    let precise = || "value is too precise".to_owned();
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err(precise());
    }
    let nano: i128 = format!("{whole}{fraction:0<9}").parse().map_err(|_| bad())?;
    if nano % bottom != 0 {
        return Err(precise());
    }
    i64::try_from(sign * nano / bottom).map_err(|_| bad())
}

/// STDIN, STDOUT or STDERR.
pub fn attach(text: &str) -> Check {
    match text.to_lowercase().as_str() {
        "stdin" | "stdout" | "stderr" => Ok(()),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

/// `NAME` or `NAME=value`.
pub fn env(text: &str) -> Check {
    if text.is_empty() || text.starts_with('=') {
        return Err(format!("invalid environment variable: {text}"));
    }
    Ok(())
}

/// `name` or `name=value`.
pub fn label(text: &str) -> Check {
    if text.split('=').next().is_none_or(|name| name.trim().is_empty()) {
        return Err(format!("invalid label '{text}': empty name"));
    }
    Ok(())
}

/// An IP address.
pub fn ip(text: &str) -> Check {
    text.trim()
        .parse::<std::net::IpAddr>()
        .map(drop)
        .map_err(|_| format!("IP address is not correctly formatted: {text}"))
}

/// A search domain.
pub fn dns_search(text: &str) -> Check {
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && part.len() < 64
    };
    let domain = text.trim();
    if domain == "." || domain.strip_suffix('.').unwrap_or(domain).split('.').all(label) && domain.len() < 256 {
        return Ok(());
    }
    Err(format!("{text} is not a valid domain"))
}

/// `host:ip` or `host=ip`.
pub fn add_host(text: &str) -> Check {
    host_and_ip(text).map(drop)
}

/// A host and its address; the address may be `host-gateway`.
pub fn host_and_ip(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    let Some((host, address)) = split.filter(|(host, _)| !host.is_empty()) else {
        return Err(format!("bad format for add-host: {text:?}"));
    };
    if address == "host-gateway" {
        return Ok((host.to_owned(), address.to_owned()));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {address:?}"));
    }
    Ok((host.to_owned(), bare.to_owned()))
}

/// A sysctl that has a namespace of its own.
pub fn sysctl(text: &str) -> Check {
    const ALLOWED: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.domainname",
    ];
    let allowed = text
        .split_once('=')
        .is_some_and(|(name, _)| ALLOWED.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue."));
    if allowed { Ok(()) } else { Err(format!("sysctl '{text}' is not allowed")) }
}

/// A ulimit.
pub fn ulimit(text: &str) -> Check {
    super::devices::ulimit(text).map(drop)
}

/// A mount.
pub fn mount(text: &str) -> Check {
    super::mount::parse(text).map(drop)
}

/// A network, or `name=…,alias=…`.
pub fn network(text: &str) -> Check {
    super::network::attachment(text).map(drop)
}

/// A link.
pub fn link(text: &str) -> Check {
    if text.is_empty() { Err("empty string specified for links".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_decimal_or_rational() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus(".25"), Ok(250_000_000));
        assert_eq!(nano_cpus("1000"), Ok(1_000_000_000_000));
        assert_eq!(nano_cpus("1/2"), Ok(500_000_000));
        assert_eq!(nano_cpus("x").unwrap_err(), "failed to parse x as a rational number");
        assert_eq!(nano_cpus("0.0000000001").unwrap_err(), "value is too precise");
    }

    #[test]
    fn values_are_refused_in_dockers_words() {
        assert_eq!(env("=x").unwrap_err(), "invalid environment variable: =x");
        assert_eq!(label("=a").unwrap_err(), "invalid label '=a': empty name");
        assert_eq!(add_host("a").unwrap_err(), "bad format for add-host: \"a\"");
        assert_eq!(add_host("a:b").unwrap_err(), "invalid IP address in add-host: \"b\"");
        assert_eq!(host_and_ip("a:[::1]").unwrap(), ("a".to_owned(), "::1".to_owned()));
        assert_eq!(host_and_ip("a=host-gateway").unwrap().1, "host-gateway");
        assert_eq!(sysctl("a").unwrap_err(), "sysctl 'a' is not allowed");
        assert!(sysctl("net.ipv4.ip_forward=1").is_ok());
        assert_eq!(ip("a").unwrap_err(), "IP address is not correctly formatted: a");
        assert!(dns_search("a.example").is_ok() && dns_search(".").is_ok() && dns_search("a b").is_err());
    }
}
