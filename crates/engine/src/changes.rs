//! The Dockerfile instructions that `--change` of `import` and `commit` takes.

use gantry_api::container::Config;

use crate::error::{Error, Result};

/// Applies one instruction.
///
/// # Errors
/// An instruction that is not taken here, or that cannot be read.
pub(crate) fn apply(config: &mut Config, change: &str) -> Result<()> {
    let change = change.trim();
    let (instruction, rest) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
    let rest = rest.trim();
    let pair = || {
        rest.split_once(['=', ' '])
            .map(|(key, value)| (key.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
    };
    let command = || match serde_json::from_str::<Vec<String>>(rest) {
        Ok(words) => words,
        Err(_) => vec!["/bin/sh".into(), "-c".into(), rest.to_owned()],
    };
    let invalid = || Error::invalid(format!("invalid change {change:?}"));
    match instruction.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = Some(command()),
        "ENTRYPOINT" => config.entrypoint = Some(command()),
        "ENV" => {
            let (key, value) = pair().ok_or_else(invalid)?;
            crate::spec::merge_environment(config.env.get_or_insert_default(), &[format!("{key}={value}")]);
        }
        "LABEL" => {
            let (key, value) = pair().ok_or_else(invalid)?;
            config.labels.get_or_insert_default().insert(key, value);
        }
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                crate::networks::parse_port(port)?;
                let key = if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") };
                config.exposed_ports.get_or_insert_default().insert(key, Default::default());
            }
        }
        "VOLUME" => {
            let paths = serde_json::from_str::<Vec<String>>(rest)
                .unwrap_or_else(|_| rest.split_whitespace().map(str::to_owned).collect());
            config.volumes.get_or_insert_default().extend(paths.into_iter().map(|path| (path, Default::default())));
        }
        "USER" if !rest.is_empty() => rest.clone_into(&mut config.user),
        "WORKDIR" if !rest.is_empty() => rest.clone_into(&mut config.working_dir),
        "STOPSIGNAL" if !rest.is_empty() => rest.clone_into(&mut config.stop_signal),
        "ONBUILD" if !rest.is_empty() => config.on_build.get_or_insert_default().push(rest.to_owned()),
        other => return Err(Error::invalid(format!("{other} is not a valid change command"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_dockerfile_instructions() {
        let mut config = Config::default();
        for change in [
            "CMD [\"a\", \"b\"]",
            "ENV A=1",
            "env B 2",
            "EXPOSE 80 53/udp",
            "VOLUME /data",
            "USER me",
            "ENTRYPOINT x y",
        ] {
            apply(&mut config, change).unwrap();
        }
        assert_eq!(config.cmd.unwrap(), ["a", "b"]);
        assert_eq!(config.env.unwrap(), ["A=1", "B=2"]);
        assert_eq!(config.exposed_ports.unwrap().into_keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "x y"]);
        for bad in ["RUN x", "", "ENV", "EXPOSE x"] {
            assert!(apply(&mut Config::default(), bad).is_err(), "{bad}");
        }
    }
}
