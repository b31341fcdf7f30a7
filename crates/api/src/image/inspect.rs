//! What `GET /images/{name}/json` has in each version of the API, key by key as Docker has it, and one more.

use serde_json::{Map, Value, json};

use super::ImageInspect;
use crate::container::Config;
use crate::version::ApiVersion;

/// What a container has and no image: gone from an image's configuration with 1.50.
const OF_CONTAINERS: [&str; 12] = [
    "Hostname",
    "Domainname",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Tty",
    "OpenStdin",
    "StdinOnce",
    "Image",
    "NetworkDisabled",
    "MacAddress",
    "StopTimeout",
];
/// Left out where they are empty, from 1.52 on.
const OF_OLD_BUILDERS: [&str; 4] = ["Parent", "Comment", "DockerVersion", "Author"];

impl ImageInspect {
    /// The words of a version.
    #[must_use]
    pub fn in_version(&self, version: ApiVersion) -> Value {
        let Value::Object(mut words) = json!(self) else { return Value::Null };
        if version.at_least(44) {
            words.remove("VirtualSize");
        }
        // Of the container that a step of a build ran in: no store keeps that today.
        if version.at_least(45) {
            // Docker has none any more; docker-compose 1.29, which Debian 12 has, ends without it, whatever the version.
            words.insert("ContainerConfig".to_owned(), json!({}));
        } else {
            words.insert("Container".to_owned(), json!(""));
            words.insert("ContainerConfig".to_owned(), json!(Config::default()));
        }
        if let Some(Value::Object(config)) = words.get_mut("Config") {
            if version.at_least(50) {
                config.retain(|key, _| !OF_CONTAINERS.contains(&key.as_str()));
            }
            if version.at_least(52) {
                config.retain(|_, value| !is_empty(value));
            }
        }
        if version.at_least(52) {
            words.retain(|key, value| !OF_OLD_BUILDERS.contains(&key.as_str()) || !is_empty(value));
        }
        Value::Object(words)
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => Map::is_empty(map),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn keys(value: &Value) -> BTreeSet<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    fn set<'a>(words: &[&'a str]) -> BTreeSet<&'a str> {
        words.iter().flat_map(|words| words.split(' ')).collect()
    }

    /// Of an image that says nothing but what every image says.
    #[test]
    fn each_version_has_the_keys_that_docker_has_in_it_and_what_an_old_compose_asks_for() {
        let config = Config { cmd: Some(vec!["sh".into()]), ..Config::default() };
        let plain = ImageInspect { config, created: "2026-01-01T00:00:00Z".into(), ..ImageInspect::default() };
        let always =
            "Id RepoTags RepoDigests Created Config Architecture Os Size GraphDriver RootFS Metadata ContainerConfig";
        let built = "Parent Comment DockerVersion Author";
        let of_image = "User Env Cmd Volumes WorkingDir Entrypoint OnBuild Labels";
        let of_containers = "Hostname Domainname AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce Image";
        for (minor, wanted, config) in [
            (43, set(&[always, built, "VirtualSize Container"]), set(&[of_image, of_containers])),
            (44, set(&[always, built, "Container"]), set(&[of_image, of_containers])),
            (45, set(&[always, built]), set(&[of_image, of_containers])),
            (49, set(&[always, built]), set(&[of_image, of_containers])),
            (50, set(&[always, built]), set(&[of_image])),
            (51, set(&[always, built]), set(&[of_image])),
            (52, set(&[always]), set(&["Cmd"])),
            (56, set(&[always]), set(&["Cmd"])),
        ] {
            let words = plain.in_version(ApiVersion::new(minor));
            assert_eq!(keys(&words), wanted, "1.{minor}");
            assert_eq!(keys(&words["Config"]), config, "1.{minor}");
        }
        let said = ImageInspect { author: "me".into(), variant: "v8".into(), os_version: "1".into(), ..plain };
        let words = said.in_version(ApiVersion::new(52));
        assert_eq!(keys(&words), set(&[always, "Author Variant OsVersion"]));
    }
}
