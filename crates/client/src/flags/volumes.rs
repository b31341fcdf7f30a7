//! `-v` and `--tmpfs`: binds, named and anonymous volumes.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use gantry_api::container::Empty;

/// What `-v` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Volumes {
    /// `source:target[:options]`.
    pub binds: Vec<String>,
    /// Anonymous volumes.
    pub anonymous: BTreeMap<String, Empty>,
}

/// Reads all `-v`; what is inside is the daemon's to judge.
///
/// # Errors
/// In Docker's words.
pub fn volumes(specs: &[String], directory: &Path) -> Result<Volumes, String> {
    let mut volumes = Volumes::default();
    for spec in specs {
        if spec.is_empty() {
            return Err("invalid empty volume spec".to_owned());
        }
        match spec.split_once(':') {
            None => {
                volumes.anonymous.insert(spec.clone(), Empty {});
            }
            Some((source, rest))
                if source == "." || source == ".." || source.starts_with("./") || source.starts_with("../") =>
            {
                volumes.binds.push(format!("{}:{rest}", absolute(source, directory)));
            }
            Some(_) => volumes.binds.push(spec.clone()),
        }
    }
    Ok(volumes)
}

/// A path from the current directory, without `.` and `..`.
pub fn absolute(path: &str, directory: &Path) -> String {
    let mut whole = PathBuf::new();
    for part in directory.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                whole.pop();
            }
            part => whole.push(part),
        }
    }
    whole.to_string_lossy().into_owned()
}

/// `--tmpfs /path[:options]`.
pub fn tmpfs(specs: &[String]) -> Option<BTreeMap<String, String>> {
    let pairs: BTreeMap<_, _> = specs
        .iter()
        .map(|spec| spec.split_once(':').unwrap_or((spec, "")))
        .map(|(path, options)| (path.to_owned(), options.to_owned()))
        .collect();
    (!pairs.is_empty()).then_some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_sources_become_absolute_and_the_rest_stays() {
        let specs: Vec<_> = ["/a:/b:ro", "name:/b", "./x/../y:/b", ".:/w", "../z:/z", "/anon"]
            .iter()
            .map(ToString::to_string)
            .collect();
        let volumes = volumes(&specs, Path::new("/home/me")).unwrap();
        assert_eq!(volumes.binds, ["/a:/b:ro", "name:/b", "/home/me/y:/b", "/home/me:/w", "/home/z:/z"]);
        assert_eq!(volumes.anonymous.keys().collect::<Vec<_>>(), ["/anon"]);
        assert_eq!(super::volumes(&[String::new()], Path::new("/")).unwrap_err(), "invalid empty volume spec");
    }

    #[test]
    fn a_tmpfs_may_have_options() {
        let map = tmpfs(&["/run:size=1m,noexec".to_owned(), "/tmp".to_owned()]).unwrap();
        assert_eq!(map["/run"], "size=1m,noexec");
        assert_eq!(map["/tmp"], "");
    }
}
