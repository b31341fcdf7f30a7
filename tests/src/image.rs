//! Images made here: layers as tar archives, configuration, and an OCI layout that skopeo pushes.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// An image before it is written.
#[derive(Debug, Clone)]
pub struct Image {
    /// The `config` object of the image's configuration: `Cmd`, `Env`, `User` …
    pub config: Value,
    /// Uncompressed layers, base first.
    pub layers: Vec<Vec<u8>>,
    /// `amd64` where nothing else is meant.
    pub architecture: &'static str,
}

impl Image {
    /// An image for this machine.
    #[must_use]
    pub fn new(config: Value, layers: Vec<Vec<u8>>) -> Self {
        Self { config, layers, architecture: architecture() }
    }

    /// Everything that distinguishes it from other images.
    #[must_use]
    pub fn summary(&self) -> String {
        let layers: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        format!("{} {} {}", self.architecture, self.config, layers.join(" "))
    }

    /// Writes an OCI layout with one manifest, tagged `latest`.
    pub fn write_layout(&self, directory: &Path) -> Result<()> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("make {}", blobs.display()))?;
        let put = |bytes: &[u8], kind: &str| -> Result<Value> {
            let name = digest(bytes);
            fs::write(blobs.join(&name), bytes).with_context(|| format!("write blob {name}"))?;
            let kind = format!("application/vnd.oci.image.{kind}");
            Ok(json!({"mediaType": kind, "digest": format!("sha256:{name}"), "size": bytes.len()}))
        };
        let mut layers = Vec::new();
        for layer in &self.layers {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
            gzip.write_all(layer)?;
            layers.push(put(&gzip.finish()?, "layer.v1.tar+gzip")?);
        }
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| format!("sha256:{}", digest(layer))).collect();
        let config = json!({
            "architecture": self.architecture, "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": self.config, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = put(config.to_string().as_bytes(), "config.v1+json")?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
        let mut manifest = put(manifest.to_string().as_bytes(), "manifest.v1+json")?;
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        fs::write(directory.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())?;
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(())
    }
}

/// This machine's architecture by Docker's name.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Lower-case hexadecimal SHA-256.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A layer in the making.
pub struct Layer(Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self(Builder::new(Vec::new()))
    }
}

impl Layer {
    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, mode, 0, None, &[])
    }

    /// Adds a file that belongs to root.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, EntryType::Regular, mode, 0, None, content.as_ref())
    }

    /// Adds a file that belongs to `id`:`id`.
    #[must_use]
    pub fn file_of(self, id: u64, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(path, EntryType::Regular, mode, id, None, content.as_ref())
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, to: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, 0, Some(to), &[])
    }

    /// The archive.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.0.into_inner().context("finish a layer")
    }

    fn entry(mut self, path: &str, kind: EntryType, mode: u32, owner: u64, to: Option<&str>, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_767_225_600);
        header.set_size(content.len() as u64);
        // In memory, and the names are ours: neither call can fail.
        match to {
            Some(to) => self.0.append_link(&mut header, path, to),
            None => self.0.append_data(&mut header, path, content),
        }
        .expect("a layer entry in memory");
        self
    }
}

/// A small root file system: Debian's static busybox with its applets, and the few files that programs expect.
pub fn busybox_layer() -> Result<Vec<u8>> {
    let program = crate::paths::need("busybox")?;
    let binary = fs::read(&program).with_context(|| format!("read {}", program.display()))?;
    let list = crate::command::succeed(std::process::Command::new(&program).arg("--list"), crate::command::LIMIT)?;
    let mut layer = Layer::default().directory("bin", 0o755).file("bin/busybox", 0o755, binary);
    for applet in list.stdout.lines().filter(|applet| *applet != "busybox" && !applet.contains('/')) {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    for directory in ["dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var"] {
        layer = layer.directory(directory, 0o755);
    }
    layer
        .directory("root", 0o700)
        .directory("tmp", 0o1777)
        .symlink("usr/bin/env", "../../bin/env")
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home:/bin/sh\n")
        .file("etc/group", 0o644, "root:x:0:\nalice:x:1000:\nwheel:x:10:alice\nvideo:x:44:alice\n")
        .file("etc/os-release", 0o644, "NAME=\"BusyBox\"\nID=busybox\n")
        .finish()
}

/// The images that every suite finds in the registry, by name; all share busybox's layer.
pub fn standard() -> Result<Vec<(&'static str, Image)>> {
    let base = busybox_layer()?;
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let image = |config: Value, layer: Option<Vec<u8>>| {
        let mut config = config;
        config["Env"] = json!([path]);
        Image::new(config, [Some(base.clone()), layer].into_iter().flatten().collect())
    };
    let web = Layer::default().directory("www", 0o755).file("www/index.html", 0o644, "hello from inside\n").finish()?;
    let seed =
        Layer::default().directory("data", 0o755).file_of(1000, "data/seed", 0o640, "from the image\n").finish()?;
    let whiteout = Layer::default().file("data/.wh.seed", 0o644, "").file("data/new", 0o644, "new\n").finish()?;
    let mut layered = image(json!({"Cmd": ["cat", "/data/new"]}), Some(seed.clone()));
    layered.layers.push(whiteout);
    let mut foreign = image(json!({"Cmd": ["true"]}), None);
    foreign.architecture = "s390x";
    let binary = Layer::default().file("foreign", 0o755, foreign_elf()).finish()?;
    let script =
        Layer::default().file("script", 0o755, "#!/no/such/interpreter\n").file("text", 0o644, "x").finish()?;
    Ok(vec![
        ("busybox", image(json!({"Cmd": ["sh"]}), None)),
        (
            "web",
            image(
                json!({"Cmd": ["httpd", "-f", "-h", "/www"], "ExposedPorts": {"80/tcp": {}}, "Labels": {"role": "web"}}),
                Some(web),
            ),
        ),
        ("seeded", image(json!({"Cmd": ["cat", "/data/seed"], "Volumes": {"/data": {}}}), Some(seed))),
        ("layered", layered),
        ("wrongarch", foreign),
        ("programs", Image { layers: vec![base.clone(), binary, script], ..image(json!({}), None) }),
        (
            "entry",
            image(
                json!({"Entrypoint": ["echo", "entry"], "Cmd": ["default"], "User": "alice", "WorkingDir": "/srv/new"}),
                None,
            ),
        ),
        ("self-exe", image(json!({"Entrypoint": ["/proc/self/exe"]}), None)),
        ("fd-workdir", image(json!({"WorkingDir": "/proc/self/fd/7", "Cmd": ["sh", "-c", "ls ."]}), None)),
        ("linked-proc", image(json!({"Cmd": ["true"]}), Some(linked_directories()?))),
        ("huge-user", image(json!({"User": "4294967296", "Cmd": ["id"]}), None)),
    ])
}

/// `/proc`, `/sys` and `/dev` as symbolic links: where a careless engine mounts outside of the container.
fn linked_directories() -> Result<Vec<u8>> {
    let removed = Layer::default().file(".wh.proc", 0o644, "").file(".wh.sys", 0o644, "").file(".wh.dev", 0o644, "");
    removed.symlink("proc", "/tmp").symlink("sys", "../../../../tmp").symlink("dev", "/etc").finish()
}

/// The head of an ELF program for a machine that this is not.
fn foreign_elf() -> Vec<u8> {
    let mut elf = vec![0u8; 128];
    elf[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf[16] = 2;
    elf[18] = 243;
    elf[20] = 1;
    elf
}

/// Makes the two entries of an OCI layout one image of two platforms, this machine's and another one's; its digest.
pub fn index_of(layout: &Path) -> Result<String> {
    let path = layout.join("index.json");
    let mut all: Value = serde_json::from_slice(&fs::read(&path).context("read the layout's index")?)?;
    let entries = all["manifests"].as_array_mut().context("the layout has no manifests")?;
    for (entry, architecture) in entries.iter_mut().zip([architecture(), "other"]) {
        entry.as_object_mut().context("an entry that is none")?.remove("annotations");
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": all["manifests"]}).to_string();
    let digest = digest(index.as_bytes());
    fs::write(layout.join("blobs/sha256").join(&digest), &index).context("write the index")?;
    let entry = json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": index.len()});
    let outer = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(path, outer.to_string()).context("write the layout's index")?;
    Ok(format!("sha256:{digest}"))
}
