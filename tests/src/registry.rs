//! Debian's `docker-registry` on a free loopback port, with the tests' images in it.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::http::{self, Response};
use crate::image::{self, Image};
use crate::{command, debian, paths, until};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A running registry. Its store is shared and kept in the target directory: images are pushed once.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: IpAddr,
    port: u16,
    configuration: tempfile::TempDir,
}

impl Registry {
    /// Serves the standard images (see [`image::standard`]).
    pub fn start() -> Result<Self> {
        Self::start_in(&store()?)
    }

    /// As [`Registry::start`], with the store in `store`, which must be there.
    pub fn start_in(store: &Path) -> Result<Self> {
        let lock = locked(store)?;
        let registry = Self::serve(&store.join("registry"))?;
        let stamp = store.join("standard.stamp");
        let images = image::standard()?;
        let version =
            image::digest(format!("{:?}", images.iter().map(|(n, i)| (n, i.summary())).collect::<Vec<_>>()).as_bytes());
        if fs::read_to_string(&stamp).ok().as_deref() != Some(&version) {
            for (name, image) in &images {
                registry.push(name, "latest", image)?;
            }
            fs::write(&stamp, version).context("write the images' stamp")?;
        }
        drop(lock);
        Ok(registry)
    }

    /// Serves Debian 12, made with debootstrap, as `debian:12` and `debian:latest`, and the standard images.
    pub fn with_debian() -> Result<Self> {
        let registry = Self::start()?;
        let store = store()?;
        let _lock = locked(&store)?;
        let stamp = store.join("debian.stamp");
        if !stamp.exists() {
            let image = debian::image(&store)?;
            registry.push("debian", "12", &image)?;
            registry.push("debian", "latest", &image)?;
            fs::write(&stamp, "").context("write the image's stamp")?;
        }
        Ok(registry)
    }

    /// Serves a store.
    pub fn serve(root: &Path) -> Result<Self> {
        Self::serve_with(root, LOOPBACK, "", "")
    }

    /// Serves a store to those who know one of these passwords, lines of htpasswd.
    pub fn serve_with_passwords(root: &Path, htpasswd: &str) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
        let path = root.join("htpasswd");
        fs::write(&path, htpasswd).context("write the registry's passwords")?;
        let auth = format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", path.display());
        Self::serve_with(root, LOOPBACK, "", &auth)
    }

    /// Serves a store at another address of this machine, with further settings of `http` (`tls: {…}`).
    pub fn serve_at(root: &Path, address: &str, settings: &str) -> Result<Self> {
        let address = address.parse().with_context(|| format!("bad address {address}"))?;
        Self::serve_with(root, address, &format!(", {settings}"), "")
    }

    fn serve_with(root: &Path, address: IpAddr, http: &str, settings: &str) -> Result<Self> {
        let program = paths::need("docker-registry")?;
        fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
        Self::launch(address, |port, directory| {
            let path = directory.join("config.yml");
            fs::write(&path, configure(root, SocketAddr::new(address, port), http) + settings)
                .context("write the registry's configuration")?;
            let mut command = Command::new(&program);
            command.arg("serve").arg(&path);
            Ok(command)
        })
    }

    /// Serves a directory by our own registry.
    pub fn own(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
        Self::launch(LOOPBACK, |port, _| own(LOOPBACK, port, root))
    }

    /// Serves a directory by our own registry at another address of this machine, with this configuration.
    pub fn own_at(root: &Path, address: &str, settings: &str) -> Result<Self> {
        let address = address.parse().with_context(|| format!("bad address {address}"))?;
        Self::launch(address, |port, directory| {
            let path = directory.join("registry.toml");
            fs::write(&path, settings).context("write the registry's configuration")?;
            let mut command = own(address, port, root)?;
            command.arg("--config").arg(&path);
            Ok(command)
        })
    }

    /// Kills it as `kill -9` does, and serves that directory by our own on the same port.
    pub fn kill_and_serve_again(&mut self, root: &Path) -> Result<()> {
        self.child.kill().context("kill the registry")?;
        self.child.wait().context("reap the registry")?;
        let again = Self::start_on(self.address, self.port, &|port, _| own(LOOPBACK, port, root))?;
        *self = again.context("the registry does not answer after it was killed")?;
        Ok(())
    }

    fn launch(address: IpAddr, command: impl Fn(u16, &Path) -> Result<Command>) -> Result<Self> {
        for _ in 0..5 {
            if let Some(registry) = Self::start_on(address, free_port()?, &command)? {
                return Ok(registry);
            }
        }
        bail!("the registry does not answer on loopback");
    }

    /// `None` where it does not answer: somebody else may have the port by now.
    fn start_on(address: IpAddr, port: u16, command: &impl Fn(u16, &Path) -> Result<Command>) -> Result<Option<Self>> {
        let configuration = tempfile::tempdir().context("make a directory for the registry's configuration")?;
        let log = File::create(configuration.path().join("log"))?;
        let mut command = command(port, configuration.path())?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", command::describe(&command)))?;
        if until(Duration::from_secs(10), || answers((address, port).into()).or_else(|| ended(&mut child)))
            == Some(true)
        {
            return Ok(Some(Self { child, address, port, configuration }));
        }
        child.kill().ok();
        child.wait().ok();
        Ok(None)
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn host(&self) -> String {
        SocketAddr::new(self.address, self.port).to_string()
    }

    /// `127.0.0.1:port/name`.
    #[must_use]
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host())
    }

    /// Pushes an image by skopeo.
    pub fn push(&self, name: &str, tag: &str, image: &Image) -> Result<()> {
        let layout = tempfile::tempdir().context("make a directory for an OCI layout")?;
        image.write_layout(layout.path())?;
        let mut skopeo = Command::new(paths::need("skopeo")?);
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        skopeo.arg(format!("oci:{}:latest", layout.path().display()));
        skopeo.arg(format!("docker://{}:{tag}", self.name(name)));
        command::succeed(&mut skopeo, Duration::from_secs(120))?;
        Ok(())
    }

    /// The raw manifest of a tag and its digest, as the registry says them.
    pub fn manifest_digest(&self, name: &str, tag: &str) -> Result<String> {
        let mut stream = TcpStream::connect((self.address, self.port)).context("connect to the registry")?;
        let accept = "application/vnd.oci.image.manifest.v1+json";
        let head =
            format!("HEAD /v2/{name}/manifests/{tag} HTTP/1.0\r\nHost: {}\r\nAccept: {accept}\r\n\r\n", self.host());
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let header = answer.lines().find(|line| line.to_lowercase().starts_with("docker-content-digest:"));
        let digest = header.and_then(|line| line.split_once(' ')).context("the registry gave no digest")?;
        Ok(digest.1.trim().to_owned())
    }

    /// The bytes of all blobs in a store that one image was pushed to.
    pub fn blobs(root: &Path) -> Result<u64> {
        let mut sum = 0;
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.file_name().is_some_and(|name| name == "data") {
                    sum += fs::metadata(&path)?.len();
                }
            }
        }
        Ok(sum)
    }

    /// Sends one request, and reads the whole answer.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Result<Response> {
        let mut stream = TcpStream::connect((self.address, self.port)).context("connect to the registry")?;
        http::send(&mut stream, method, path, headers, body)?;
        http::receive(&mut BufReader::new(stream), method)
    }

    /// Uploads a blob, as a registry client does that is in no hurry.
    pub fn put_blob(&self, name: &str, blob: &[u8]) -> Result<()> {
        let begun = self.send("POST", &format!("/v2/{name}/blobs/uploads/"), &[], Some(b""))?;
        let location = begun.header("location").with_context(|| format!("no place to upload to: {begun:?}"))?;
        let path = location.split_once("//").and_then(|(_, rest)| Some(&rest[rest.find('/')?..])).unwrap_or(location);
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}digest=sha256:{}", image::digest(blob));
        let put = self.send("PUT", &path, &[("Content-Type", "application/octet-stream")], Some(blob))?;
        if put.status == 201 { Ok(()) } else { bail!("upload a blob to {name}: {} {}", put.status, put.text()) }
    }

    /// Uploads a manifest.
    pub fn put_manifest(&self, name: &str, reference: &str, media_type: &str, raw: &[u8]) -> Result<()> {
        let path = format!("/v2/{name}/manifests/{reference}");
        let put = self.send("PUT", &path, &[("Content-Type", media_type)], Some(raw))?;
        if put.status == 201 { Ok(()) } else { bail!("put {name}:{reference}: {} {}", put.status, put.text()) }
    }

    /// The body of an answer, whatever it is.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect((self.address, self.port)).context("connect to the registry")?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.host()).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// What the registry logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.configuration.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A TCP port on loopback that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

/// The first of `count` free ports, below those that the kernel gives to outgoing connections.
///
/// # Errors
/// When there is no such run of ports.
pub fn free_ports(count: u16) -> Result<u16> {
    let start = 20_000 + u16::try_from(std::process::id() % 1000)? * 10;
    let free = |base: &u16| {
        let listeners: Vec<_> = (*base..*base + count).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        listeners.iter().all(Result::is_ok)
    };
    (start..32_000).step_by(usize::from(count)).find(free).context("find free ports in a row")
}

/// Where images are kept between runs.
pub fn store() -> Result<PathBuf> {
    let store = paths::target()?.join("test-images");
    fs::create_dir_all(&store).with_context(|| format!("make {}", store.display()))?;
    Ok(store)
}

fn locked(store: &Path) -> Result<File> {
    let lock = File::create(store.join("lock")).context("open the image store's lock")?;
    lock.lock().context("lock the image store")?;
    Ok(lock)
}

/// Our own registry.
fn own(address: IpAddr, port: u16, root: &Path) -> Result<Command> {
    let mut command = Command::new(paths::gantry()?);
    let address = SocketAddr::new(address, port).to_string();
    command.args(["registry", "serve", "--addr", &address, "--root"]).arg(root);
    Ok(command)
}

fn configure(root: &Path, address: SocketAddr, http: &str) -> String {
    format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}, cache: {{blobdescriptor: inmemory}}}}\n\
         http: {{addr: '{address}'{http}}}\n",
        root.display()
    )
}

fn answers(address: SocketAddr) -> Option<bool> {
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok().map(|_| true)
}

fn ended(child: &mut Child) -> Option<bool> {
    child.try_wait().ok().flatten().map(|_| false)
}
