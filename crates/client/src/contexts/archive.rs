//! A context as one file, as Docker's `context export` writes it: a tar of `meta.json` and `tls/docker/*.pem`.

use std::io::{Cursor, Read};

use super::{Contexts, DOCKER, Material, Meta, TLS_FILES, check_name};
use crate::failure::{Failure, Result};

/// The largest context that is read.
const LIMIT: u64 = 10 << 20;
/// What tar counts in.
const BLOCK: usize = 512;

impl Contexts<'_> {
    /// The file of a context.
    pub fn export(&self, name: &str) -> Result<Vec<u8>> {
        let meta = self.read(name)?;
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |path: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, path, bytes)
        };
        add("meta.json", &serde_json::to_vec(&meta)?)?;
        for (file, bytes) in TLS_FILES.iter().zip(self.material(name)?) {
            if let Some(bytes) = bytes {
                add(&format!("tls/{DOCKER}/{file}"), &bytes)?;
            }
        }
        Ok(archive.into_inner()?)
    }

    /// Makes a context of such a file.
    pub fn import(&self, name: &str, file: &[u8]) -> Result<()> {
        check_name(name)?;
        if self.exists(name) {
            return Err(Failure::new(format!(
                "context {name:?} already exists: remove it first, or choose another name"
            )));
        }
        if file.starts_with(b"PK") {
            return Err(Failure::new("this is a zip file: unpack it, and import it as a tar archive"));
        }
        let unreadable = |error: std::io::Error| Failure::new(format!("this is no exported context: {error}"));
        let (mut meta, mut material) = (None, Material::default());
        // Docker's files end with their last byte: neither padding nor an end comes after it.
        let mut whole = file.to_vec();
        whole.resize(whole.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
        for entry in tar::Archive::new(Cursor::new(whole)).entries().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path().map_err(unreadable)?.to_string_lossy().trim_start_matches("./").to_owned();
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let mut bytes = Vec::new();
            entry.take(LIMIT).read_to_end(&mut bytes).map_err(unreadable)?;
            if path == "meta.json" {
                meta = Some(serde_json::from_slice::<Meta>(&bytes)?);
            } else if let Some(at) = TLS_FILES.iter().position(|file| path == format!("tls/{DOCKER}/{file}")) {
                material[at] = Some(bytes);
            }
        }
        let mut meta = meta.ok_or_else(|| Failure::new("this is no exported context: there is no meta.json in it"))?;
        name.clone_into(&mut meta.name);
        self.write(&meta, Some(&material))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_exported_is_imported_under_another_name() {
        let home = tempfile::tempdir().unwrap();
        let contexts = Contexts { directory: home.path() };
        let mut meta = Meta { name: "one".to_owned(), ..Meta::default() };
        meta.point("tcp://a.example:2376", true);
        let material = [Some(b"ca".to_vec()), Some(b"cert".to_vec()), None];
        contexts.write(&meta, Some(&material)).unwrap();
        let file = contexts.export("one").unwrap();
        contexts.import("two", &file).unwrap();
        let two = contexts.read("two").unwrap();
        assert_eq!((two.name.as_str(), two.host(), two.skips_verification()), ("two", "tcp://a.example:2376", true));
        assert_eq!(contexts.material("two").unwrap(), material);
        // As Docker ends it: three entries of a head each, the last with four bytes.
        let cut = 5 * BLOCK + 4;
        assert!(file[cut..].iter().all(|byte| *byte == 0));
        contexts.import("cut", &file[..cut]).unwrap();
        assert_eq!(contexts.material("cut").unwrap(), material);
        assert!(contexts.import("two", &file).unwrap_err().message.contains("already exists"));
        assert!(contexts.import("three", b"nonsense").is_err());
    }
}
