//! The two images, the same on every machine: text and binary that compress as real files do.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gantry_tests::image::{Layer, architecture, digest};
use serde_json::json;
use tar::{Builder, Header};

/// Layers of the large image.
const LAYERS: usize = 20;
/// Files in a directory of the other.
const IN_A_DIRECTORY: usize = 100;

/// One image, in the forms in which it goes in.
pub struct Archives {
    /// For the table.
    pub title: String,
    /// Its name everywhere.
    pub name: String,
    /// As `docker save` writes it: documents last.
    pub docker: PathBuf,
    /// Everything in one archive.
    pub flat: PathBuf,
    /// An archive of nothing: the image of the container that changes are committed of.
    pub empty: PathBuf,
    layers: usize,
    bytes: usize,
}

impl Archives {
    /// For the line below the table.
    pub fn describe(&self) -> String {
        format!("{}: {} bytes of archives in {} layers", self.title, self.bytes, self.layers)
    }
}

/// So many megabytes in twenty layers.
pub fn layers(place: &Path, megabytes: usize) -> Result<Archives> {
    let mut random = Random(42);
    let each = (megabytes << 20) / LAYERS;
    let layers = (0..LAYERS).map(|number| {
        let mut layer = Layer::default().directory(&format!("layer{number}"), 0o755);
        let (mut bytes, mut file) = (0, 0);
        while bytes < each {
            // Mostly small, most bytes in large ones.
            let size = match random.below(20) {
                0 => 1_000_000 + random.below(3_000_000),
                1..5 => 50_000 + random.below(200_000),
                _ => 500 + random.below(20_000),
            };
            let size = size.min(each - bytes + 512);
            let content = if random.below(2) == 0 { random.text(size) } else { random.binary(size) };
            layer = layer.file(&format!("layer{number}/file{file}"), 0o644, content);
            bytes += size;
            file += 1;
        }
        layer.finish()
    });
    write(place, "large", format!("{megabytes} MB in {LAYERS} layers"), layers.collect::<Result<_>>()?)
}

/// So many small files in one layer.
pub fn small_files(place: &Path, files: usize) -> Result<Archives> {
    let mut random = Random(7);
    let mut layer = Layer::default();
    for file in 0..files {
        let directory = format!("lib/package{}", file / IN_A_DIRECTORY);
        if file % IN_A_DIRECTORY == 0 {
            layer = layer.directory(&directory, 0o755);
        }
        let size = 100 + random.below(4000);
        layer = layer.file(&format!("{directory}/module{file}.js"), 0o644, random.text(size));
    }
    write(place, "small", format!("{files} small files"), vec![layer.finish()?])
}

fn write(place: &Path, name: &str, title: String, layers: Vec<Vec<u8>>) -> Result<Archives> {
    let (docker, flat) = (place.join(format!("{name}.tar")), place.join(format!("{name}-flat.tar")));
    let create = |path: &Path| File::create(path).with_context(|| format!("create {}", path.display()));
    let mut whole = BufWriter::new(create(&flat)?);
    let mut archive = Builder::new(BufWriter::new(create(&docker)?));
    let mut put = |path: &str, bytes: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes).with_context(|| format!("write {path}"))
    };
    let (mut diff_ids, mut paths) = (Vec::new(), Vec::new());
    for layer in &layers {
        let id = digest(layer);
        // Without the two blocks that end it, as the next one goes on.
        whole.write_all(&layer[..layer.len() - 1024]).context("write an archive")?;
        paths.push(format!("{id}/layer.tar"));
        put(&format!("{id}/layer.tar"), layer)?;
        diff_ids.push(format!("sha256:{id}"));
    }
    whole.write_all(&[0; 1024]).and_then(|()| whole.flush()).context("write an archive")?;
    let config = json!({
        "architecture": architecture(), "os": "linux", "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["/bin/true"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string();
    let config_path = format!("{}.json", digest(config.as_bytes()));
    put(&config_path, config.as_bytes())?;
    let tag = format!("bench.example/{name}:latest");
    let manifest = json!([{"Config": config_path, "RepoTags": [tag], "Layers": paths}]);
    put("manifest.json", manifest.to_string().as_bytes())?;
    archive.into_inner().and_then(|mut file| file.flush()).context("write an archive of images")?;
    let (count, bytes) = (layers.len(), layers.iter().map(Vec::len).sum());
    let empty = place.join("empty.tar");
    // Two blocks of zeros are the end of an archive.
    std::fs::write(&empty, [0; 1024]).with_context(|| format!("write {}", empty.display()))?;
    Ok(Archives { title, name: tag, docker, flat, empty, layers: count, bytes })
}

/// A small generator of numbers that look random: xorshift.
struct Random(u64);

const WORDS: [&str; 32] = [
    "the",
    "of",
    "function",
    "return",
    "static",
    "const",
    "value",
    "if",
    "else",
    "export",
    "module",
    "import",
    "class",
    "error",
    "license",
    "copyright",
    "without",
    "warranty",
    "string",
    "buffer",
    "length",
    "index",
    "object",
    "undefined",
    "=>",
    "{",
    "}",
    "(",
    ");",
    "//",
    "#include",
    "0x1f",
];

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % end
    }

    /// Words, names and numbers.
    fn text(&mut self, size: usize) -> Vec<u8> {
        let mut text = String::with_capacity(size + 64);
        while text.len() < size {
            match self.below(8) {
                0 => write!(text, "{:x}", self.next() >> 40).unwrap_or_default(),
                1 => text.push('\n'),
                _ => text.push_str(WORDS[self.below(WORDS.len())]),
            }
            text.push(' ');
        }
        text.truncate(size);
        text.into_bytes()
    }

    /// Records that resemble each other, as code and tables do.
    fn binary(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size + 32);
        let mut record = [0_u8; 24];
        while bytes.len() < size {
            let place = self.below(16);
            record[place..place + 8].copy_from_slice(&self.next().to_le_bytes());
            bytes.extend_from_slice(&record[..8 + self.below(16)]);
        }
        bytes.truncate(size);
        bytes
    }
}
