//! `--mount type=bind,src=/a,dst=/b,readonly`.

use std::path::Path;

use gantry_api::hostconfig::{BindOptions, Mount, TmpfsOptions, VolumeDriverConfig, VolumeOptions};

use super::volumes::absolute;
use crate::cli::boolean;
use crate::format::size;

/// Reads one `--mount`.
///
/// # Errors
/// In Docker's words.
pub fn parse(text: &str) -> Result<Mount, String> {
    if text.trim().is_empty() {
        return Err("EOF".to_owned());
    }
    let mut mount = Mount { kind: "volume".to_owned(), ..Mount::default() };
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let Some(value) = value else {
            if !switch(&mut mount, &key, true) {
                return Err(format!("invalid field '{field}' must be a key=value pair"));
            }
            continue;
        };
        set(&mut mount, &key, value, &field)?;
    }
    check(mount)
}

/// Keys that may stand without a value.
fn switch(mount: &mut Mount, key: &str, on: bool) -> bool {
    match key {
        "readonly" | "ro" => mount.read_only = on,
        "volume-nocopy" => mount.volume_options.get_or_insert_default().no_copy = on,
        "bind-nonrecursive" => mount.bind_options.get_or_insert_default().non_recursive = on,
        _ => return false,
    }
    true
}

fn set(mount: &mut Mount, key: &str, value: &str, field: &str) -> Result<(), String> {
    let invalid = || format!("invalid value for {key}: {value}");
    match key {
        "type" => mount.kind = value.to_lowercase(),
        "source" | "src" => mount.source = source(value),
        "target" | "dst" | "destination" => value.clone_into(&mut mount.target),
        "consistency" => mount.consistency = value.to_lowercase(),
        "readonly" | "ro" | "volume-nocopy" | "bind-nonrecursive" => {
            let on = boolean(value).ok_or_else(invalid)?;
            switch(mount, key, on);
        }
        "bind-propagation" => mount.bind_options.get_or_insert_default().propagation = value.to_lowercase(),
        "bind-recursive" => {
            let options = mount.bind_options.get_or_insert_default();
            match value {
                "enabled" => {}
                "disabled" => options.non_recursive = true,
                "writable" => options.read_only_non_recursive = true,
                "readonly" => options.read_only_force_recursive = true,
                _ => {
                    return Err(format!(
                        "invalid value for bind-recursive: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                    ));
                }
            }
        }
        "volume-subpath" => value.clone_into(&mut mount.volume_options.get_or_insert_default().subpath),
        "volume-label" => {
            let (name, value) = value.split_once('=').unwrap_or((value, ""));
            let labels = mount.volume_options.get_or_insert_default().labels.get_or_insert_default();
            labels.insert(name.to_owned(), value.to_owned());
        }
        "volume-driver" => value.clone_into(&mut driver(mount).name),
        "volume-opt" => {
            let (name, value) = value.split_once('=').unwrap_or((value, ""));
            driver(mount).options.get_or_insert_default().insert(name.to_owned(), value.to_owned());
        }
        "tmpfs-size" => {
            let bytes = size::parse(value).map_err(|_| invalid())?;
            mount.tmpfs_options.get_or_insert_default().size_bytes = Some(bytes);
        }
        "tmpfs-mode" => {
            let mode = u32::from_str_radix(value, 8).map_err(|_| invalid())?;
            mount.tmpfs_options.get_or_insert_default().mode = Some(mode);
        }
        "image-subpath" => return Err("mounts of type image are not supported yet".to_owned()),
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

fn driver(mount: &mut Mount) -> &mut VolumeDriverConfig {
    mount.volume_options.get_or_insert_default().driver_config.get_or_insert_default()
}

fn source(value: &str) -> String {
    if value == "." || value.starts_with("./") || value == ".." || value.starts_with("../") {
        return absolute(value, &std::env::current_dir().unwrap_or_else(|_| Path::new("/").to_owned()));
    }
    value.to_owned()
}

fn check(mount: Mount) -> Result<Mount, String> {
    if mount.kind.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    let Mount { kind, volume_options, bind_options, tmpfs_options, .. } = &mount;
    let bind = BindOptions::default();
    let mixed = |what: &str| Err(format!("cannot mix '{what}-*' options with mount type '{kind}'"));
    if kind != "volume" && volume_options.as_ref().is_some_and(|options| *options != VolumeOptions::default()) {
        return mixed("volume");
    }
    if kind != "bind" && bind_options.as_ref().is_some_and(|options| *options != bind) {
        return mixed("bind");
    }
    if kind != "tmpfs" && tmpfs_options.as_ref().is_some_and(|options| *options != TmpfsOptions::default()) {
        return mixed("tmpfs");
    }
    let forced = bind_options.as_ref().is_some_and(|o| o.read_only_non_recursive || o.read_only_force_recursive);
    if forced && !mount.read_only {
        return Err(
            "option 'bind-recursive=writable' and 'bind-recursive=readonly' require 'readonly' to be specified \
                    in conjunction"
                .to_owned(),
        );
    }
    Ok(mount)
}

/// The fields of one line of CSV.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        let mut field = String::new();
        if letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next() {
                    Some('"') if letters.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(letter) => field.push(letter),
                    None => return Err("parse error on line 1: extraneous or missing \" in quoted-field".to_owned()),
                }
            }
        }
        while let Some(letter) = letters.next_if(|letter| *letter != ',') {
            field.push(letter);
        }
        fields.push(field);
        if letters.next().is_none() {
            return Ok(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_mount_is_read() {
        let bind = parse("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave").unwrap();
        assert_eq!((bind.kind.as_str(), bind.source.as_str(), bind.target.as_str()), ("bind", "/a", "/b"));
        assert!(bind.read_only);
        assert_eq!(bind.bind_options.unwrap().propagation, "rslave");
        let volume =
            parse("source=v,\"volume-label=a=b,c\",target=/d,volume-nocopy,volume-driver=local,volume-opt=type=nfs")
                .unwrap();
        assert_eq!(volume.kind, "volume");
        let options = volume.volume_options.unwrap();
        assert!(options.no_copy);
        assert_eq!(options.labels.unwrap()["a"], "b,c");
        assert_eq!(options.driver_config.unwrap().options.unwrap()["type"], "nfs");
        let tmpfs = parse("type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap().tmpfs_options.unwrap();
        assert_eq!((tmpfs.size_bytes, tmpfs.mode), (Some(1 << 20), Some(0o1770)));
    }

    #[test]
    fn what_is_no_mount_is_refused_in_dockers_words() {
        for (text, message) in [
            ("", "EOF"),
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("foo=b", "unexpected key 'foo' in 'foo=b'"),
            ("type=bind,src=x", "target is required"),
            ("type=,dst=/x", "type is required"),
            ("readonly=zz", "invalid value for readonly: zz"),
            ("type=bind,src=/a,dst=/b,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
            ("type=volume,dst=/x,bind-propagation=shared", "cannot mix 'bind-*' options with mount type 'volume'"),
            ("type=tmpfs,dst=/x,tmpfs-size=zz", "invalid value for tmpfs-size: zz"),
            ("type=tmpfs,dst=/x,tmpfs-mode=99", "invalid value for tmpfs-mode: 99"),
        ] {
            assert_eq!(parse(text).unwrap_err(), message, "{text}");
        }
    }
}
