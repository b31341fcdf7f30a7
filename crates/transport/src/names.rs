//! Host names without getaddrinfo, which a static binary must not call: literals, localhost, `/etc/hosts`; for
//! clients then DNS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use hickory_resolver::TokioResolver;

use crate::files;

/// The addresses that this machine itself knows for a name; empty when only DNS could.
#[must_use]
pub fn addresses_of(host: &str) -> Vec<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse() {
        return vec![address];
    }
    let name = bare.strip_suffix('.').unwrap_or(bare);
    if name.eq_ignore_ascii_case("localhost") {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    // A machine without /etc/hosts knows no names: not an error.
    in_hosts(&read("/etc/hosts").unwrap_or_default(), name)
}

/// Of a name that this machine itself does not know.
pub(crate) fn unknown(host: &str) -> crate::Error {
    crate::Error::UnknownHost { host: host.to_owned(), reason: "this machine does not know it".to_owned() }
}

/// The addresses of a name: what this machine knows, then DNS.
pub(crate) async fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    let known = addresses_of(host);
    if !known.is_empty() {
        return Ok(known);
    }
    let dns = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    let dns = dns.map_err(|error| format!("read /etc/resolv.conf: {error}"))?;
    match dns.lookup_ip(host).await {
        Ok(found) => Ok(found.iter().collect()),
        Err(error) if error.is_no_records_found() => Err("DNS does not know it".to_owned()),
        Err(error) => Err(format!("DNS: {error}")),
    }
}

fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    hosts.lines().filter_map(line).collect()
}

/// Name and id of the account in such a file as `/etc/passwd` or `/etc/group` that has this name, or this id as its name;
/// a static binary must not ask the C library. A machine without the file has no accounts.
#[must_use]
pub fn account(file: &Path, wanted: &str) -> Option<(String, u32)> {
    let text = files::read(file).ok()?;
    let all: Vec<_> = String::from_utf8_lossy(&text).lines().filter_map(account_of).collect();
    let named = all.iter().find(|(name, _)| name == wanted);
    named.or_else(|| all.iter().find(|(_, id)| wanted.parse() == Ok(*id))).cloned()
}

fn account_of(line: &str) -> Option<(String, u32)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    Some((name.to_owned(), fields.nth(1)?.parse().ok()?))
}

/// The name of a group in `/etc/group`.
pub(crate) fn group_name(gid: u32) -> Option<String> {
    account(Path::new("/etc/group"), &gid.to_string()).map(|(name, _)| name)
}

fn read(path: &str) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&files::read(Path::new(path))?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lines_are_read_with_aliases_and_comments() {
        let hosts = "10.0.0.1 a b # c\n# 10.0.0.2 a\n::5 A\nnonsense a\n";
        let expected: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "::5".parse().unwrap()];
        assert_eq!(in_hosts(hosts, "a"), expected);
        assert_eq!(in_hosts(hosts, "b").len(), 1);
        assert!(in_hosts(hosts, "c").is_empty());
    }

    #[test]
    fn literals_and_localhost_need_no_file() {
        assert_eq!(addresses_of("[::1]"), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert_eq!(addresses_of("LocalHost.")[0], IpAddr::from(Ipv4Addr::LOCALHOST));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "tests arrange files by hand")]
    fn accounts_are_found_by_name_and_by_number_and_names_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("group");
        std::fs::write(&file, "root:x:0:\n7:x:8:\nmail:x:7:web\nbroken\n").unwrap();
        let found = |wanted: &str| account(&file, wanted).map(|(name, id)| format!("{name}={id}"));
        assert_eq!(found("mail").as_deref(), Some("mail=7"));
        assert_eq!(found("8").as_deref(), Some("7=8"));
        assert_eq!(found("7").as_deref(), Some("7=8"), "one that is called so");
        assert_eq!(found("nobody"), None);
        assert_eq!(account(&directory.path().join("none"), "root"), None);
    }

    #[test]
    fn root_group_has_its_name() {
        assert_eq!(group_name(0).as_deref(), Some("root"));
    }
}
