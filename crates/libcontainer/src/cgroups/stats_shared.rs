//! Statistics of the controllers whose files hardly differ between the versions: huge pages, RDMA.

use gantry_linux::{Result, fs};

use super::files::{field, number, read, read_optional};
use super::hierarchies::Version;
use super::leaf::Leaf;
use super::stats::{MemoryUse, RdmaUse, limit};

/// Of each page size that the kernel has.
pub(super) fn hugepages(leaf: &Leaf) -> Result<Vec<(String, MemoryUse)>> {
    if !leaf.has("hugetlb") {
        return Ok(Vec::new());
    }
    // The sizes are the kernel's, the same in every cgroup.
    let names = fs::list("/sys/kernel/mm/hugepages")?;
    let sizes = names.iter().filter_map(|name| name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB"));
    sizes.filter_map(|kilobytes| kilobytes.parse().ok()).map(size_name).map(|size| one(leaf, size)).collect()
}

/// As in the names of the controller's files.
fn size_name(kilobytes: u64) -> String {
    match kilobytes {
        1_048_576.. => format!("{}GB", kilobytes >> 20),
        1024.. => format!("{}MB", kilobytes >> 10),
        _ => format!("{kilobytes}KB"),
    }
}

fn one(leaf: &Leaf, size: String) -> Result<(String, MemoryUse)> {
    let text = |name: &str| read(&leaf.file("hugetlb", &format!("hugetlb.{size}.{name}"))?);
    let used = match leaf.hierarchies.version() {
        Version::V1 => MemoryUse {
            usage: number(&text("usage_in_bytes")?),
            max_usage: number(&text("max_usage_in_bytes")?),
            limit: number(&text("limit_in_bytes")?),
            failcnt: number(&text("failcnt")?),
        },
        Version::V2 => MemoryUse {
            usage: number(&text("current")?),
            max_usage: 0,
            limit: limit(&text("max")?, u64::MAX),
            failcnt: field(&text("events")?, "max"),
        },
    };
    Ok((size, used))
}

/// Of each device.
pub(super) fn rdma(leaf: &Leaf) -> Result<Vec<RdmaUse>> {
    if !leaf.has("rdma") {
        return Ok(Vec::new());
    }
    let text = |name| Ok::<_, gantry_linux::Error>(read_optional(&leaf.file("rdma", name)?)?.unwrap_or_default());
    let limits = text("rdma.max")?;
    let limit_of = |device: &str| {
        let line = limits.lines().find(|line| line.split(' ').next() == Some(device));
        line.map_or((u32::MAX, u32::MAX), handles_and_objects)
    };
    let current = text("rdma.current")?;
    let one = |line: &str| {
        let device = line.split(' ').next()?.to_owned();
        let ((handles, objects), (handles_limit, objects_limit)) = (handles_and_objects(line), limit_of(&device));
        Some(RdmaUse { device, handles, objects, handles_limit, objects_limit })
    };
    Ok(current.lines().filter_map(one).collect())
}

/// `mlx5_0 hca_handle=2 hca_object=max`
fn handles_and_objects(line: &str) -> (u32, u32) {
    let of = |key: &str| {
        let value = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        value.map_or(0, |value| value.parse().unwrap_or(u32::MAX))
    };
    (of("hca_handle"), of("hca_object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_limits_are_the_kernels() {
        assert_eq!([64, 2048, 1_048_576].map(size_name), ["64KB", "2MB", "1GB"]);
        assert_eq!(handles_and_objects("mlx5_0 hca_handle=2 hca_object=max"), (2, u32::MAX));
    }
}
