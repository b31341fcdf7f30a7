//! What a container reads about its network: `/etc/resolv.conf`, `/etc/hosts`, `/etc/hostname`. Text in, text out.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use libcontainer::network::names;

use crate::Error;

/// Servers for a container whose host has none that it could reach.
pub(crate) const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
/// systemd-resolved's stub, and where it writes the servers behind it.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
pub(crate) const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// The file to read the host's servers from, given the host's `/etc/resolv.conf`: behind systemd-resolved's stub, which
/// no container can reach, it is another one.
#[must_use]
pub fn host_resolv_conf_path(resolv_conf: &str) -> &'static str {
    let mut servers = values(resolv_conf, "nameserver").filter_map(server);
    let first = servers.next();
    if first == Some(STUB) && servers.next().is_none() { BEHIND_STUB } else { "/etc/resolv.conf" }
}

/// A container's `resolv.conf`: the host's, where `dns`, `search` and `options` say nothing else. Servers on loopback
/// addresses and IPv6 servers, which a container of its own network cannot reach, are left out unless `host_network`.
#[must_use]
pub fn resolv_conf(host: &str, dns: &[String], search: &[String], options: &[String], host_network: bool) -> String {
    let reachable = |value: &&str| host_network || server(value).is_some_and(|ip| ip.is_ipv4() && !ip.is_loopback());
    let mut servers: Vec<&str> = if dns.is_empty() {
        values(host, "nameserver").filter_map(|value| value.split_whitespace().next()).filter(reachable).collect()
    } else {
        dns.iter().map(String::as_str).collect()
    };
    if servers.is_empty() && !host_network {
        servers.extend(FALLBACK);
    }
    let search = chosen(search, host, &["search", "domain"]);
    let options = chosen(options, host, &["options"]);
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    // A lone dot asks for no search list at all.
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// The `resolv.conf` of a container that asks the daemon's resolver, which asks the servers of the host or those that were
/// chosen. A name without dots is a container's first of all, and then one of the search list.
#[must_use]
pub fn resolver_conf(host: &str, search: &[String], options: &[String]) -> String {
    let mut options: Vec<String> = chosen(options, host, &["options"]).into_iter().map(str::to_owned).collect();
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    resolv_conf(host, &[names::ADDRESS.to_string()], search, &options, false)
}

/// A container's `/etc/hosts`: loopback, `extra` hosts (`name:address`, `name=address`, `name:host-gateway`), `others` with
/// their names, itself.
///
/// # Errors
/// An extra host that has no name, no address, or asks for a gateway where there is none.
pub fn hosts(
    addresses: &[IpAddr],
    others: &[(IpAddr, String)],
    hostname: &str,
    domainname: &str,
    extra: &[String],
    gateway: Option<Ipv4Addr>,
) -> Result<String, Error> {
    let mut text = String::from(concat!(
        "127.0.0.1\tlocalhost\n",
        "::1\tlocalhost ip6-localhost ip6-loopback\n",
        "fe00::\tip6-localnet\n",
        "ff00::\tip6-mcastprefix\n",
        "ff02::1\tip6-allnodes\n",
        "ff02::2\tip6-allrouters\n",
    ));
    extra_hosts(&mut text, extra, gateway)?;
    for (address, names) in others {
        let _ = writeln!(text, "{address}\t{names}");
    }
    let names = if domainname.is_empty() { hostname.into() } else { format!("{hostname}.{domainname} {hostname}") };
    for address in addresses {
        let _ = writeln!(text, "{address}\t{names}");
    }
    Ok(text)
}

/// The `/etc/hosts` of a container that is in the host's network: `extra` hosts, which count first, and all that the host's
/// own says.
///
/// # Errors
/// As [`hosts`].
pub fn hosts_beside(host: &str, extra: &[String], gateway: Option<Ipv4Addr>) -> Result<String, Error> {
    let mut text = String::new();
    extra_hosts(&mut text, extra, gateway)?;
    Ok(text + host)
}

fn extra_hosts(text: &mut String, extra: &[String], gateway: Option<Ipv4Addr>) -> Result<(), Error> {
    for entry in extra {
        let (name, address) = extra_host(entry, gateway)?;
        let _ = writeln!(text, "{address}\t{name}");
    }
    Ok(())
}

/// A container's `/etc/hosts` after a change: lines of `old` that are not in `new` go, and so do those whose names are among
/// `names`; lines of `new` that are not there come at the end; all others stay.
#[must_use]
pub fn merge_hosts(current: &[u8], old: &str, new: &str, names: &[&str]) -> Vec<u8> {
    let has = |text: &str, line: &[u8]| text.lines().any(|other| other.as_bytes() == line);
    let is_named = |line: &[u8]| names.iter().any(|names| line.ends_with(format!("\t{names}").as_bytes()));
    let lines = || current.split_inclusive(|byte| *byte == b'\n').map(|line| (line, line.trim_ascii_end()));
    let kept = lines().filter(|(_, line)| has(new, line) || !(has(old, line) || is_named(line)));
    let mut merged: Vec<u8> = kept.flat_map(|(whole, _)| whole.iter().copied()).collect();
    for line in new.lines().filter(|line| !lines().any(|(_, other)| other == line.as_bytes())) {
        if merged.last().is_some_and(|last| *last != b'\n') {
            merged.push(b'\n');
        }
        merged.extend_from_slice(line.as_bytes());
        merged.push(b'\n');
    }
    merged
}

/// A container's `/etc/hostname`.
#[must_use]
pub fn hostname(name: &str) -> String {
    format!("{name}\n")
}

/// Checks and resolves one `--add-host`.
fn extra_host(entry: &str, gateway: Option<Ipv4Addr>) -> Result<(&str, IpAddr), Error> {
    let bad = |why: &str| Error::Invalid(format!("bad format for add-host: \"{entry}\": {why}"));
    let (name, address) = entry.split_once(['=', ':']).ok_or_else(|| bad("write NAME:ADDRESS"))?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(bad("it has no name"));
    }
    if address == "host-gateway" {
        let gateway = gateway.ok_or_else(|| bad("host-gateway has no address without a bridge"))?;
        return Ok((name, gateway.into()));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    Ok((name, bare.parse().map_err(|_| bad(&format!("invalid IP address \"{address}\"")))?))
}

/// The names of extra hosts that are to have the gateway's address, whichever that is.
pub fn names_of_the_gateway(extra: &[String]) -> impl Iterator<Item = &str> {
    let parts = extra.iter().filter_map(|entry| entry.split_once(['=', ':']));
    parts.filter(|(_, address)| *address == "host-gateway").map(|(name, _)| name)
}

fn chosen<'a>(own: &'a [String], host: &'a str, keys: &[&'a str]) -> Vec<&'a str> {
    if !own.is_empty() {
        return own.iter().map(String::as_str).collect();
    }
    // The last line of the host's file counts, as in the C library.
    keys.iter()
        .filter_map(|key| values(host, key).last())
        .next()
        .map(|value| value.split_whitespace().collect())
        .unwrap_or_default()
}

pub(crate) fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .filter(move |(found, _)| *found == key)
        .map(|(_, value)| value.trim())
}

pub(crate) fn server(value: &str) -> Option<IpAddr> {
    let address = value.split_whitespace().next()?;
    address.split_once('%').map_or(address, |(address, _zone)| address).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn loopback_and_ipv6_servers_do_not_reach_a_container() {
        let host = "# c\nnameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\n";
        assert_eq!(resolv_conf(host, &[], &[], &[], false), "nameserver 192.0.2.1\n");
        assert!(resolv_conf(host, &[], &[], &[], true).contains("127.0.0.53"));
    }

    #[test]
    fn a_host_without_servers_gives_public_ones() {
        assert_eq!(resolv_conf("", &[], &[], &[], false), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        assert_eq!(resolv_conf("", &[], &[], &[], true), "");
    }

    #[test]
    fn what_the_person_says_replaces_the_hosts() {
        let host = "nameserver 192.0.2.1\nsearch a.example\nsearch b.example c.example\noptions ndots:1\n";
        let kept = "nameserver 192.0.2.1\nsearch b.example c.example\noptions ndots:1\n";
        assert_eq!(resolv_conf(host, &[], &[], &[], false), kept);
        let own = resolv_conf(host, &words(&["127.0.0.1"]), &words(&["."]), &words(&["ndots:5", "rotate"]), false);
        assert_eq!(own, "nameserver 127.0.0.1\noptions ndots:5 rotate\n");
    }

    #[test]
    fn where_there_are_names_the_resolver_is_asked_and_search_and_options_stay() {
        let host = "nameserver 192.0.2.1\nsearch a.example\noptions rotate\n";
        let text = "nameserver 127.0.0.11\nsearch a.example\noptions rotate ndots:0\n";
        assert_eq!(resolver_conf(host, &[], &[]), text);
        let own = resolver_conf(host, &words(&["b.example"]), &words(&["ndots:3"]));
        assert_eq!(own, "nameserver 127.0.0.11\nsearch b.example\noptions ndots:3\n");
    }

    #[test]
    fn behind_the_stub_of_resolved_another_file_is_read() {
        assert_eq!(host_resolv_conf_path("nameserver 127.0.0.53\n"), BEHIND_STUB);
        assert_eq!(host_resolv_conf_path("nameserver 192.0.2.1\n"), "/etc/resolv.conf");
    }

    #[test]
    fn hosts_has_loopback_extra_hosts_and_the_container() {
        let extra = words(&["db:10.0.0.1", "six:2001:db8::1", "b=[::2]", "up:host-gateway"]);
        let gateway = Some(Ipv4Addr::new(172, 18, 0, 1));
        let text = hosts(&[Ipv4Addr::new(172, 18, 0, 2).into()], &[], "web", "example.org", &extra, gateway).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(
            text.ends_with("10.0.0.1\tdb\n2001:db8::1\tsix\n::2\tb\n172.18.0.1\tup\n172.18.0.2\tweb.example.org web\n")
        );
    }

    #[test]
    fn beside_the_host_its_own_file_counts_after_the_extra_hosts() {
        let text = hosts_beside("127.0.0.1 localhost\n192.0.2.1 db\n", &words(&["db:192.0.2.7"]), None).unwrap();
        assert_eq!(text, "192.0.2.7\tdb\n127.0.0.1 localhost\n192.0.2.1 db\n");
    }

    #[test]
    fn of_a_hosts_file_our_lines_change_and_the_containers_own_stay() {
        let (old, new) =
            ("127.0.0.1\tlocalhost\n10.0.0.2\tweb\n", "127.0.0.1\tlocalhost\n10.0.0.2\tweb\n10.1.0.2\tweb\n");
        let own = b"10.9.9.9 mine\n# web\n10.0.0.7\tdb";
        let written = [old.as_bytes(), own].concat();
        let merged = merge_hosts(&written, old, new, &[]);
        assert_eq!(merged, [old.as_bytes(), own, b"\n10.1.0.2\tweb\n"].concat());
        assert_eq!(merge_hosts(&merged, new, old, &[]), [old.as_bytes(), own, b"\n"].concat());
        let linked = format!("{old}10.0.0.8\tdb\n");
        let moved = merge_hosts(&written, "", &linked, &["db"]);
        assert_eq!(moved, [old.as_bytes(), b"10.9.9.9 mine\n# web\n10.0.0.8\tdb\n"].concat());
        assert_eq!(merge_hosts(&moved, "", &linked, &["db"]), moved);
        let extra = ["up:host-gateway", "down=host-gateway", "db:192.0.2.1"].map(String::from);
        let names: Vec<&str> = names_of_the_gateway(&extra).collect();
        let now = "10.1.0.1\tup\n10.1.0.1\tdown\n192.0.2.1\tdb\n";
        let moved = merge_hosts(b"10.0.0.1\tup\n192.0.2.1\tdb\n192.0.2.9\tdb\n", now, now, &names);
        assert_eq!(moved, b"192.0.2.1\tdb\n192.0.2.9\tdb\n10.1.0.1\tup\n10.1.0.1\tdown\n", "one address each");
        let broken = [0xff, b'\n', 0xfe];
        assert_eq!(merge_hosts(&broken, "", "", &[]), broken);
    }

    #[test]
    fn a_bad_extra_host_is_named() {
        for bad in ["db", "db:", ":10.0.0.1", "db:300.1.1.1", "db:host-gateway", "a\nb:10.0.0.1"] {
            let error = hosts(&[], &[], "h", "", &words(&[bad]), None).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
