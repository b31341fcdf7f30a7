//! Where the copy goes and under which name: the rules of `cp -a`, as Docker has them.

/// One end of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// As the person wrote it, or what it was resolved to.
    pub path: String,
    /// Something is there.
    pub exists: bool,
    /// A directory is there.
    pub is_dir: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The directory to extract in.
    pub directory: String,
    /// The name of the topmost entry there; nothing means that the source's entries go right into the directory.
    pub name: Option<String>,
}

/// Decides it.
///
/// # Errors
/// In Docker's words.
pub fn plan(source: &Place, destination: &Place) -> Result<Plan, String> {
    if asserts_directory(&source.path) && !source.is_dir {
        return Err(format!("not a directory: {}", source.path));
    }
    let base = base_of(&source.path);
    let into = |directory: &str, name: Option<&str>| {
        Ok(Plan { directory: directory.to_owned(), name: name.map(str::to_owned) })
    };
    let destination_base = base_of(&destination.path);
    match (destination.exists, destination.is_dir) {
        (true, true) => into(&destination.path, base),
        (true, false) if asserts_directory(&destination.path) => Err(format!("not a directory: {}", destination.path)),
        (true, false) if source.is_dir => Err("cannot copy directory".to_owned()),
        (false, _) if asserts_directory(&destination.path) && !source.is_dir => Err("no such directory".to_owned()),
        (true, false) | (false, _) => into(parent_of(&destination.path), destination_base),
    }
}

/// A path that can only be a directory.
fn asserts_directory(path: &str) -> bool {
    path.ends_with('/') || path == "." || path.ends_with("/.")
}

/// The last name; nothing for `/`, `.` and `dir/.`, which mean what is inside.
pub fn base_of(path: &str) -> Option<&str> {
    if path == "." || path.ends_with("/.") {
        return None;
    }
    path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty())
}

/// What the last name is in.
pub fn parent_of(path: &str) -> &str {
    let path = path.strip_suffix("/.").unwrap_or(path).trim_end_matches('/');
    match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None if path.is_empty() => "/",
        None => ".",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str, kind: &str) -> Place {
        Place { path: path.into(), exists: kind != "none", is_dir: kind == "dir" }
    }

    fn decide(source: (&str, &str), destination: (&str, &str)) -> Result<(String, Option<String>), String> {
        let plan = plan(&place(source.0, source.1), &place(destination.0, destination.1))?;
        Ok((plan.directory, plan.name))
    }

    #[test]
    fn the_rules_of_cp_hold() {
        let some = |directory: &str, name: &str| Ok((directory.to_owned(), Some(name.to_owned())));
        assert_eq!(decide(("/a/f", "file"), ("/d/new", "none")), some("/d", "new"));
        assert_eq!(decide(("/a/f", "file"), ("/d/old", "file")), some("/d", "old"));
        assert_eq!(decide(("/a/f", "file"), ("/d", "dir")), some("/d", "f"));
        assert_eq!(decide(("/a/s", "dir"), ("/d/new", "none")), some("/d", "new"));
        assert_eq!(decide(("/a/s", "dir"), ("/d/new/", "none")), some("/d", "new"));
        assert_eq!(decide(("/a/s/", "dir"), ("/d", "dir")), some("/d", "s"));
        assert_eq!(decide(("/a/s/.", "dir"), ("/d", "dir")), Ok(("/d".to_owned(), None)));
        assert_eq!(decide(("/a/s/.", "dir"), ("/d/new", "none")), some("/d", "new"));
        assert_eq!(decide(("/a/s", "dir"), ("/d/f", "file")), Err("cannot copy directory".to_owned()));
        assert_eq!(decide(("/a/f", "file"), ("/d/new/", "none")), Err("no such directory".to_owned()));
        assert_eq!(decide(("/a/f", "file"), ("/d/f/", "file")), Err("not a directory: /d/f/".to_owned()));
        assert_eq!(decide(("/a/f/", "file"), ("/d", "dir")), Err("not a directory: /a/f/".to_owned()));
        assert_eq!(decide(("f", "file"), ("new", "none")), some(".", "new"));
    }
}
