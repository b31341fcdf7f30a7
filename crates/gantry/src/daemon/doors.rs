//! The daemon's doors: which addresses are served, to whom, and how they are protected.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::activation::Given;
use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args};
use gantry_engine::Door;
use gantry_engine::policy::Source;
use gantry_transport::tls::{ClientCertificates, ServerFiles};
use gantry_transport::{Access, Endpoint, Listener, Protection, ServerTls};
use tracing::warn;

/// Flags of the doors.
#[derive(Debug, Clone, Args)]
pub struct DoorFlags {
    /// Address to serve: unix:///path, tcp://host:port, or fd:// for what systemd opened; may be given several times
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    pub hosts: Vec<String>,
    /// Group of the unix sockets
    #[arg(short = 'G', long, default_value = "docker", value_name = "GROUP")]
    pub group: String,
    /// Mode of the unix sockets
    #[arg(long, default_value = "0660", value_name = "MODE")]
    pub socket_mode: String,
    /// Serve TCP over TLS; on with --tlsverify
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub tls: bool,
    /// Serve TCP over TLS, and only clients whose certificate the authority signed
    #[arg(long = "tlsverify", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub tls_verify: bool,
    /// Certificates of the authorities of clients, and their revocation lists; ca.pem in DOCKER_CERT_PATH or ~/.docker
    #[arg(long = "tlscacert", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The daemon's certificate; cert.pem there
    #[arg(long = "tlscert", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// Its key; key.pem there
    #[arg(long = "tlskey", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// A further unix socket with a policy: path=FILE,policy=read-only or policy=FILE, mode=0660,group=NAME
    #[arg(long = "socket", value_name = "SOCKET")]
    pub sockets: Vec<String>,
    /// Append a line of JSON for each job that changes something, or that a policy refused
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Serve TCP without TLS beyond this machine: whoever reaches it is root
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub insecure_no_tls: bool,
}

/// Doors that can be opened: everything that could be wrong with their settings was looked at.
pub struct Planned {
    addresses: Vec<Endpoint>,
    guarded: Vec<(Endpoint, Access, Door)>,
    access: Access,
    tls: Option<Arc<ServerTls>>,
    verifies: bool,
}

/// What was opened.
pub struct Doors {
    /// Open doors, and what may be done through each.
    pub listeners: Vec<(Listener, Arc<Door>)>,
    /// Their certificates.
    pub tls: Option<Arc<ServerTls>>,
}

impl DoorFlags {
    /// The name of a setting in `daemon.json` where it is not the flag's.
    pub fn id(key: &str) -> Option<&'static str> {
        Some(match key {
            "hosts" => "hosts",
            "tlsverify" => "tls_verify",
            "tlscacert" => "tls_ca",
            "tlscert" => "tls_certificate",
            "tlskey" => "tls_key",
            _ => return None,
        })
    }

    /// Takes a setting of `daemon.json`; gives it back where it is none of these.
    pub fn set(&mut self, id: &str, value: serde_json::Value) -> Result<Option<serde_json::Value>> {
        use serde_json::from_value as read;
        match id {
            "hosts" => self.hosts = read(value)?,
            "group" => self.group = read(value)?,
            "socket_mode" => self.socket_mode = read(value)?,
            "tls" => self.tls = read(value)?,
            "tls_verify" => self.tls_verify = read(value)?,
            "tls_ca" => self.tls_ca = Some(read(value)?),
            "tls_certificate" => self.tls_certificate = Some(read(value)?),
            "tls_key" => self.tls_key = Some(read(value)?),
            "sockets" => self.sockets = read(value)?,
            "audit_log" => self.audit_log = Some(read(value)?),
            "insecure_no_tls" => self.insecure_no_tls = read(value)?,
            _ => return Ok(Some(value)),
        }
        Ok(None)
    }

    /// The addresses to serve.
    pub fn addresses(&self, exec_root: &Path) -> Vec<String> {
        if self.hosts.is_empty() {
            return vec![format!("unix://{}/gantry.sock", exec_root.display())];
        }
        self.hosts.clone()
    }

    /// Reads certificates and policies, and refuses what cannot be opened, before anything is made; `given` are the sockets
    /// that this process was started with.
    ///
    /// # Errors
    /// An address that cannot be served, a certificate or a policy that cannot be used.
    pub fn plan(&self, exec_root: &Path, given: &[Given]) -> Result<Planned> {
        let tls = self.server_tls()?;
        let access = self.access(tls.as_ref())?;
        let mut addresses = Vec::new();
        for host in self.addresses(exec_root) {
            let endpoint = Endpoint::parse(&host, tls.is_some()).with_context(|| format!("-H {host}"))?;
            match &endpoint {
                Endpoint::Fd(name) if !given.iter().any(|given| is_it(name, given)) => {
                    return Err(not_given(name, given));
                }
                Endpoint::Fd(_) => {}
                other => Listener::check(other, &access)?,
            }
            addresses.push(endpoint);
        }
        let guarded = |socket: &String| guarded(socket, &access).with_context(|| format!("--socket {socket}"));
        let guarded = self.sockets.iter().map(guarded).collect::<Result<_>>()?;
        Ok(Planned { addresses, guarded, access, tls, verifies: self.tls_verify })
    }

    fn access(&self, tls: Option<&Arc<ServerTls>>) -> Result<Access> {
        let protection = match tls {
            Some(tls) => Protection::Tls(Arc::clone(tls)),
            None if self.insecure_no_tls => Protection::Nothing,
            None => Protection::Loopback,
        };
        Ok(Access { mode: mode(&self.socket_mode).context("--socket-mode")?, group: self.group()?, protection })
    }

    fn group(&self) -> Result<Option<u32>> {
        match group_id(&self.group) {
            Some(id) => Ok(Some(id)),
            None if self.group == "docker" => Ok(None),
            None => bail!("--group {}: there is no such group", self.group),
        }
    }

    fn server_tls(&self) -> Result<Option<Arc<ServerTls>>> {
        if !self.tls && !self.tls_verify {
            return Ok(None);
        }
        let file = |given: &Option<PathBuf>, name: &str| match given {
            Some(path) => Ok(path.clone()),
            None => certificates().map(|directory| directory.join(name)),
        };
        let clients = if self.tls_verify {
            ClientCertificates::Required(file(&self.tls_ca, "ca.pem")?)
        } else {
            ClientCertificates::None
        };
        let files = ServerFiles {
            certificate: file(&self.tls_certificate, "cert.pem")?,
            key: file(&self.tls_key, "key.pem")?,
            clients,
        };
        Ok(Some(Arc::new(ServerTls::load(files)?)))
    }
}

impl Planned {
    /// Opens the doors.
    ///
    /// # Errors
    /// When somebody else has an address, or a given socket is none that can be served.
    pub fn open(self, mut given: Vec<Given>) -> Result<Doors> {
        let mut listeners = Vec::new();
        for endpoint in &self.addresses {
            match endpoint {
                Endpoint::Fd(name) => listeners.extend(adopt(name, &mut given, &self.access)?),
                endpoint => listeners.push(Listener::bind(endpoint, &self.access)?),
            }
        }
        for Given { name, .. } in given {
            warn!("the socket {name:?} was given to this process, and no -H fd:// names it: it is closed");
        }
        self.warn_of(&listeners);
        let open = |listener: Listener| {
            let door = Arc::new(Door::open(listener.endpoint().to_string()));
            (listener, door)
        };
        let mut listeners: Vec<_> = listeners.into_iter().map(open).collect();
        for (endpoint, access, door) in self.guarded {
            listeners.push((Listener::bind(&endpoint, &access)?, Arc::new(door)));
        }
        Ok(Doors { listeners, tls: self.tls })
    }

    /// Says what is dangerous, also where it was asked for.
    fn warn_of(&self, listeners: &[Listener]) {
        let local = |listener: &Listener| {
            let loopback = |host: &str| gantry_transport::addresses_of(host).iter().all(std::net::IpAddr::is_loopback);
            listener.endpoint().host().is_none_or(loopback)
        };
        for listener in listeners.iter().filter(|listener| !local(listener)) {
            if !listener.is_encrypted() {
                warn!("{}: whoever reaches this address is root on this machine", listener.endpoint());
            } else if !self.verifies {
                warn!("{}: without --tlsverify whoever reaches it is root on this machine", listener.endpoint());
            }
        }
    }
}

/// `path=…,policy=…,mode=…,group=…`.
fn guarded(text: &str, usual: &Access) -> Result<(Endpoint, Access, Door)> {
    let (mut path, mut policy, mut access) = (None, None, usual.clone());
    for pair in text.split(',') {
        match pair.split_once('=').with_context(|| format!("{pair:?}: write it as key=value"))? {
            ("path", value) => path = Some(value),
            ("policy", value) => policy = Some(Source::parse(value)),
            ("mode", value) => access.mode = mode(value)?,
            ("group", value) => {
                access.group = Some(group_id(value).with_context(|| format!("there is no group {value}"))?);
            }
            (key, _) => bail!("{key}: there are path, policy, mode and group"),
        }
    }
    let path = path.context("path= is missing")?;
    let policy = policy.context("policy= is missing: read-only, or a file of rules")?;
    let endpoint: Endpoint = format!("unix://{path}").parse()?;
    let door = Door::guarded(endpoint.to_string(), policy)?;
    Ok((endpoint, access, door))
}

fn mode(text: &str) -> Result<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.with_context(|| format!("{text}: want a mode such as 0660"))
}

/// Where certificates are that nobody named.
fn certificates() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("DOCKER_CERT_PATH")
        .or_else(|| variable("HOME").map(|home| home.join(".docker")))
        .context("--tls: give --tlscacert, --tlscert and --tlskey")
}

/// Whether `fd://name` means that socket: by its name, by its number, or all.
fn is_it(name: &str, given: &Given) -> bool {
    name.is_empty() || given.name == name || name.parse() == Ok(given.number)
}

fn not_given(name: &str, given: &[Given]) -> anyhow::Error {
    let names: Vec<&str> = given.iter().map(|given| given.name.as_str()).collect();
    let there = if names.is_empty() {
        "no sockets were given to this process: start it by its socket unit, or serve unix:// or tcp://".to_owned()
    } else {
        format!("the sockets that were given to this process are {}", names.join(", "))
    };
    anyhow::anyhow!("-H fd://{name}: there is no such socket; {there}")
}

/// The sockets of `fd://name`; of `fd://` all.
fn adopt(name: &str, given: &mut Vec<Given>, access: &Access) -> Result<Vec<Listener>> {
    let (chosen, others): (Vec<_>, Vec<_>) = given.drain(..).partition(|given| is_it(name, given));
    *given = others;
    if chosen.is_empty() {
        return Err(not_given(name, given));
    }
    chosen.into_iter().map(|given| Ok(Listener::adopt(given.socket, &given.name, access)?)).collect()
}

/// A group's id, by its name or as it is.
fn group_id(name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| gantry_transport::account(Path::new("/etc/group"), name).map(|(_, id)| id))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_given_socket_keeps_its_number_when_others_were_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let given = |number: i32, name: &str| {
            let socket = UnixListener::bind(path(name)).unwrap().into();
            Given { number, name: name.to_owned(), socket }
        };
        let mut all = vec![given(3, "a"), given(4, "b"), given(5, "c")];
        let access = Access { mode: 0o660, group: None, protection: Protection::Loopback };
        for (number, name) in [("3", "a"), ("4", "b"), ("5", "c")] {
            let adopted = adopt(number, &mut all, &access).unwrap();
            assert_eq!(adopted[0].endpoint().path(), Some(path(name).as_path()), "fd://{number}");
        }
        let error = adopt("4", &mut all, &access).unwrap_err().to_string();
        assert!(error.contains("there is no such socket"), "{error}");
    }
}
