//! Settings of the graphdriver for one container (`--storage-opt`).

use gantry_api::hostconfig::HostConfig;

use crate::error::{Error, Result};

/// How many bytes the container may write to its layer: `size`, which is all there is. 0 is no limit, whatever the
/// daemon's is; none is the daemon's.
///
/// # Errors
/// Another setting, or no size.
pub fn limit(host_config: &HostConfig) -> Result<Option<u64>> {
    let mut limit = None;
    for (key, value) in host_config.storage_opt.iter().flatten() {
        if !key.eq_ignore_ascii_case("size") {
            return Err(Error::invalid(format!("unknown option {key} in --storage-opt {key}={value}: there is size")));
        }
        let size = gantry_graphdriver::size(value);
        limit = Some(size.ok_or_else(|| {
            Error::invalid(format!(
                "invalid size in --storage-opt {key}={value}: want a number of bytes, as 512m or 10G"
            ))
        })?);
    }
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, value: &str) -> Result<Option<u64>> {
        let storage_opt = Some([(key.to_owned(), value.to_owned())].into());
        limit(&HostConfig { storage_opt, ..HostConfig::default() })
    }

    #[test]
    fn size_is_the_only_setting_and_has_dockers_syntax() {
        assert_eq!(limit(&HostConfig::default()).unwrap(), None);
        assert_eq!(of("size", "10G").unwrap(), Some(10 << 30));
        assert_eq!(of("Size", "1.5m").unwrap(), Some(3 << 19));
        assert_eq!(of("size", "0").unwrap(), Some(0));
        assert!(of("dm.basesize", "10G").unwrap_err().message.contains("unknown option dm.basesize"));
        assert!(of("size", "-1").unwrap_err().message.contains("size=-1"));
    }
}
