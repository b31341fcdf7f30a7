//! Names to addresses without getaddrinfo, which a static binary must not call: what this machine knows, then DNS.

use std::net::SocketAddr;

use gantry_transport::addresses_of;
use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The resolver that reqwest is given. `/etc/resolv.conf` is read for each name: a machine that moves to another
/// network needs no restart of the daemon, and connections are few.
#[derive(Debug, Clone, Copy)]
pub struct Resolver;

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str();
            let known = addresses_of(host);
            let addresses = if known.is_empty() {
                let dns = TokioResolver::builder_tokio().and_then(|builder| builder.build());
                look_up(&dns.map_err(|error| format!("read /etc/resolv.conf: {error}"))?, host).await?
            } else {
                known.into_iter().map(|address| SocketAddr::new(address, 0)).collect()
            };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

async fn look_up(dns: &TokioResolver, host: &str) -> Result<Vec<SocketAddr>, Failure> {
    match dns.lookup_ip(host).await {
        Ok(found) => Ok(found.iter().map(|address| SocketAddr::new(address, 0)).collect()),
        Err(error) if error.is_no_records_found() => Err(format!("lookup {host}: no such host").into()),
        Err(error) => Err(format!("lookup {host}: {error}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::Ipv4Addr;

    use hickory_resolver::config::{NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;

    /// Answers `A` questions about names that begin with `known` by 192.0.2.7, everything else by "no such name".
    async fn server(socket: UdpSocket) {
        let mut question = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            // The question's name ends with a zero; type and class follow. What comes after (EDNS) is left out.
            let end = 12 + question[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_known = question[13..].starts_with(b"known") && question[end - 3] == 1;
            let mut answer = question[..end].to_vec();
            answer[2..12].copy_from_slice(&[
                0x81,
                if is_known { 0x80 } else { 0x83 },
                0,
                1,
                0,
                u8::from(is_known),
                0,
                0,
                0,
                0,
            ]);
            if is_known {
                answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn dns_is_asked_and_an_unknown_name_is_said_in_dockers_words() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let server = tokio::spawn(server(socket));
        let mut here = NameServerConfig::udp(Ipv4Addr::LOCALHOST.into());
        here.connections[0].port = port;
        let config = ResolverConfig::from_name_servers(vec![here]);
        let dns = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap();
        let found = look_up(&dns, "known.test").await.unwrap();
        assert_eq!(found, ["192.0.2.7:0".parse().unwrap()]);
        let error = look_up(&dns, "other.test").await.unwrap_err().to_string();
        assert_eq!(error, "lookup other.test: no such host");
        server.abort();
    }
}
