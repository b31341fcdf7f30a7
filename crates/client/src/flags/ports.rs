//! `-p` and `--expose`: `80`, `8080:80/udp`, `127.0.0.1::80`, `[::1]:8000-8010:80-90`, and the long form.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gantry_api::container::Empty;
use gantry_api::hostconfig::{PortBinding, PortMap};

/// What `-p` and `--expose` say together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Every port that is mentioned.
    pub exposed: BTreeMap<String, Empty>,
    /// Where they are published.
    pub bindings: PortMap,
}

impl Ports {
    /// Reads both flags.
    ///
    /// # Errors
    /// In Docker's words.
    pub fn parse(publish: &[String], expose: &[String]) -> Result<Self, String> {
        let mut ports = Self::default();
        for spec in publish {
            let standard = if spec.contains('=') { long_form(spec)? } else { spec.clone() };
            ports.publish(&standard)?;
        }
        for spec in expose {
            ports.expose(spec)?;
        }
        Ok(ports)
    }

    fn publish(&mut self, raw: &str) -> Result<(), String> {
        let (rest, protocol) = raw.split_once('/').unwrap_or((raw, "tcp"));
        let (ip, host, container) = split(rest);
        let ip = address(ip)?;
        if container.is_empty() {
            return Err(format!("no port specified: {raw}<empty>"));
        }
        let (first, last) = range(container).map_err(|_| format!("invalid containerPort: {container}"))?;
        let wanted = match host {
            "" => None,
            host => Some(range(host).map_err(|_| format!("invalid hostPort: {host}"))?),
        };
        if let Some((low, high)) = wanted
            && high - low != last - first
            && first != last
        {
            return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
        }
        let protocol = protocol.to_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(format!("invalid proto: {protocol}"));
        }
        for offset in 0..=last - first {
            let port = format!("{}/{protocol}", first + offset);
            let host_port = match wanted {
                None => String::new(),
                // A range of the host for one port: the daemon takes one that is free.
                Some((low, high)) if first == last && low != high => format!("{low}-{high}"),
                Some((low, _)) => (low + offset).to_string(),
            };
            self.exposed.insert(port.clone(), Empty {});
            let binding = PortBinding { host_ip: ip.clone(), host_port };
            self.bindings.entry(port).or_default().get_or_insert_default().push(binding);
        }
        Ok(())
    }

    fn expose(&mut self, spec: &str) -> Result<(), String> {
        if spec.contains(':') {
            return Err(format!("invalid port format for --expose: {spec}"));
        }
        let (port, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
        let protocol = protocol.to_lowercase();
        let (first, last) =
            range(port).map_err(|error| format!("invalid range format for --expose: {spec}, error: {error}"))?;
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(format!("invalid proto: {protocol}"));
        }
        for port in first..=last {
            self.exposed.insert(format!("{port}/{protocol}"), Empty {});
        }
        Ok(())
    }
}

/// `ip:host:container`, of which only the last must be there.
fn split(text: &str) -> (&str, &str, &str) {
    let Some((before, container)) = text.rsplit_once(':') else { return ("", "", text) };
    let Some((ip, host)) = before.rsplit_once(':') else { return ("", before, container) };
    (ip, host, container)
}

fn address(ip: &str) -> Result<String, String> {
    if ip.is_empty() {
        return Ok(String::new());
    }
    let bare = match ip.strip_prefix('[') {
        Some(rest) => {
            rest.strip_suffix(']').ok_or_else(|| format!("invalid IP address {ip}: missing ']' in address"))?
        }
        None => ip,
    };
    bare.parse::<IpAddr>().map(|_| bare.to_owned()).map_err(|_| format!("invalid IP address: {bare}"))
}

/// One port, or `low-high`.
fn range(text: &str) -> Result<(u16, u16), String> {
    if text.is_empty() {
        return Err("empty string specified for ports".to_owned());
    }
    let number = |part: &str| {
        let decimal = part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty();
        let kind = if decimal { "value out of range" } else { "invalid syntax" };
        let parsed = if decimal { part.parse().ok() } else { None };
        parsed.ok_or_else(|| format!("strconv.ParseUint: parsing {part:?}: {kind}"))
    };
    let (low, high) = match text.split_once('-') {
        Some((low, high)) => (number(low)?, number(high)?),
        None => (number(text)?, number(text)?),
    };
    if high < low {
        return Err(format!("invalid range specified for the Port: {text}"));
    }
    Ok((low, high))
}

/// `published=8080,target=80,protocol=udp`.
fn long_form(text: &str) -> Result<String, String> {
    let mut parts = BTreeMap::new();
    for part in text.split(',') {
        let Some((name, value)) = part.split_once('=') else {
            return Err(format!("invalid publish opts format (should be name=value but got '{part}')"));
        };
        parts.insert(name, value);
    }
    let take = |name| parts.get(name).copied().unwrap_or_default();
    let protocol = parts.get("protocol").copied().unwrap_or("tcp");
    Ok(format!("{}:{}/{protocol}", take("published"), take("target")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(spec: &str) -> Vec<String> {
        let ports = Ports::parse(&[spec.to_owned()], &[]).unwrap();
        let mut all = Vec::new();
        for (port, bindings) in ports.bindings {
            assert!(ports.exposed.contains_key(&port));
            all.extend(bindings.unwrap().into_iter().map(|b| format!("{} {} {port}", b.host_ip, b.host_port)));
        }
        all
    }

    #[test]
    fn every_form_of_publish_is_read() {
        for (spec, expected) in [
            ("80", vec!["  80/tcp"]),
            ("8080:80", vec![" 8080 80/tcp"]),
            ("8080:80/UDP", vec![" 8080 80/udp"]),
            ("127.0.0.1:8080:80", vec!["127.0.0.1 8080 80/tcp"]),
            ("127.0.0.1::80", vec!["127.0.0.1  80/tcp"]),
            ("[::1]:8080:80", vec!["::1 8080 80/tcp"]),
            ("::1:8080:80", vec!["::1 8080 80/tcp"]),
            ("[::]::80/sctp", vec!["::  80/sctp"]),
            ("8000-8001:90-91", vec![" 8000 90/tcp", " 8001 91/tcp"]),
            ("8000-8009:90", vec![" 8000-8009 90/tcp"]),
            ("90-91", vec!["  90/tcp", "  91/tcp"]),
            ("published=8080,target=80,protocol=udp", vec![" 8080 80/udp"]),
        ] {
            assert_eq!(published(spec), expected, "{spec}");
        }
    }

    #[test]
    fn what_is_no_port_is_refused_in_dockers_words() {
        for (spec, message) in [
            ("99999:1", "invalid hostPort: 99999"),
            ("abc", "invalid containerPort: abc"),
            ("a:b:c:d", "invalid containerPort: d"),
            ("a:b:1:2", "invalid IP address: a:b"),
            ("80:90-91", "invalid ranges specified for container and host Ports: 90-91 and 80"),
            ("80-81:90-92", "invalid ranges specified for container and host Ports: 90-92 and 80-81"),
            ("80-79:80-81", "invalid hostPort: 80-79"),
            ("0:80/foo", "invalid proto: foo"),
            ("1.2.3.400:80:80", "invalid IP address: 1.2.3.400"),
            ("", "no port specified: <empty>"),
            ("+1:80", "invalid hostPort: +1"),
        ] {
            if spec == "a:b:c:d" {
                assert_eq!(Ports::parse(&[spec.to_owned()], &[]).unwrap_err(), "invalid IP address: a:b");
                continue;
            }
            assert_eq!(Ports::parse(&[spec.to_owned()], &[]).unwrap_err(), message, "{spec}");
        }
    }

    #[test]
    fn expose_takes_ranges_and_publishes_nothing() {
        let ports = Ports::parse(&[], &["7000-7002/udp".to_owned(), "80".to_owned()]).unwrap();
        assert_eq!(ports.exposed.len(), 4);
        assert!(ports.bindings.is_empty());
        assert_eq!(
            Ports::parse(&[], &["abc".to_owned()]).unwrap_err(),
            "invalid range format for --expose: abc, error: strconv.ParseUint: parsing \"abc\": invalid syntax"
        );
        assert_eq!(Ports::parse(&[], &["1:2".to_owned()]).unwrap_err(), "invalid port format for --expose: 1:2");
    }
}
