//! From the specification's limits to the library's: checked, so that nothing is written that could mean something else.

use super::{BlockIo, Cpu, DeviceRule, Memory, Resources, ThrottleDevice};
use crate::cgroups::default_device_rules;
use crate::config::{self, BlockRate, BlockRateKind, BlockWeight, DeviceKind, RdmaLimit};
use crate::error::{Error, Result};

fn refuse<T>(message: String) -> Result<T> {
    Err(Error::Invalid(message))
}

impl Resources {
    /// The limits and the device policy of a new container. As every runtime has it, a container may use no device but
    /// those that its configuration allows and the harmless ones (`/dev/null` and its like), which come last.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the field.
    pub fn convert(resources: Option<&Self>) -> Result<config::Resources> {
        let mut limits = resources.map(Self::limits).transpose()?.unwrap_or_default();
        let mut rules = default_device_rules();
        // After the first, which denies all.
        let given = resources.map_or(&[][..], |r| &r.devices).iter().map(device_rule).collect::<Result<Vec<_>>>()?;
        rules.splice(1..1, given);
        limits.device_rules = rules;
        Ok(limits)
    }

    /// The limits alone: what `update` changes.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the field.
    pub fn limits(&self) -> Result<config::Resources> {
        let mut to = config::Resources::default();
        if let Some(from) = &self.memory {
            memory(from, &mut to)?;
        }
        if let Some(from) = &self.cpu {
            cpu(from, &mut to)?;
        }
        to.pids = self.pids.as_ref().and_then(|pids| pids.limit).map(|limit| limit.max(-1));
        if let Some(from) = &self.block_io {
            block_io(from, &mut to)?;
        }
        for limit in &self.hugepage_limits {
            to.hugepages.insert(page_size(&limit.page_size)?, limit.limit);
        }
        if let Some(network) = &self.network {
            to.network_class = network.class_id;
            for priority in &network.priorities {
                to.network_priorities.insert(word("network.priorities", &priority.name)?, priority.priority);
            }
        }
        for (device, limit) in &self.rdma {
            let limit = RdmaLimit { handles: limit.hca_handles, objects: limit.hca_objects };
            to.rdma.insert(word("rdma", device)?, limit);
        }
        for (file, value) in &self.unified {
            if !file.contains('.') || file.contains(['/', '\0', '\n']) || file.starts_with('.') {
                return refuse(format!("linux.resources.unified: {file:?} is not the name of a file in a cgroup"));
            }
            to.unified.insert(file.clone(), value.clone());
        }
        Ok(to)
    }
}

fn memory(from: &Memory, to: &mut config::Resources) -> Result<()> {
    let fields = [
        ("limit", from.limit),
        ("reservation", from.reservation),
        ("swap", from.swap),
        ("kernel", from.kernel),
        ("kernelTCP", from.kernel_tcp),
    ];
    if let Some((name, Some(value))) = fields.iter().find(|(_, value)| value.is_some_and(|v| v < -1)) {
        return refuse(format!("linux.resources.memory.{name}: {value} is neither bytes nor -1 (unlimited)"));
    }
    if let (Some(limit @ 1..), Some(swap @ 1..)) = (from.limit, from.swap)
        && swap < limit
    {
        return refuse(format!(
            "linux.resources.memory.swap: {swap} is memory and swap together, and cannot be less than the limit {limit}"
        ));
    }
    if let Some(percent) = from.swappiness.filter(|percent| *percent > 100) {
        return refuse(format!("linux.resources.memory.swappiness: {percent} is not within 0-100"));
    }
    if from.use_hierarchy == Some(false) {
        return refuse(
            "linux.resources.memory.useHierarchy: kernels since 5.11 always count a cgroup's memory for those above it; \
             leave it out or say true"
                .to_owned(),
        );
    }
    to.memory = from.limit;
    to.memory_swap = from.swap;
    to.memory_reservation = from.reservation;
    to.memory_kernel = from.kernel;
    to.memory_kernel_tcp = from.kernel_tcp;
    to.memory_swappiness = from.swappiness;
    to.oom_kill_disable = from.disable_oom_killer.unwrap_or(false);
    to.memory_check_before_update = from.check_before_update.unwrap_or(false);
    Ok(())
}

fn cpu(from: &Cpu, to: &mut config::Resources) -> Result<()> {
    if let Some(quota) = from.quota.filter(|quota| *quota < -1) {
        return refuse(format!("linux.resources.cpu.quota: {quota} is neither microseconds nor -1 (unlimited)"));
    }
    let idle = match from.idle {
        None => None,
        Some(0) => Some(false),
        Some(1) => Some(true),
        Some(other) => return refuse(format!("linux.resources.cpu.idle: {other} is neither 0 nor 1")),
    };
    for (name, list) in [("cpus", &from.cpus), ("mems", &from.mems)] {
        if !list.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '-' | ' ' | ':' | '/')) {
            return refuse(format!("linux.resources.cpu.{name}: {list:?} is not a list such as 0-2,4"));
        }
    }
    let list = |list: &String| Some(list.trim().to_owned()).filter(|list| !list.is_empty());
    to.cpu_shares = from.shares;
    to.cpu_quota = from.quota;
    to.cpu_burst = from.burst;
    to.cpu_period = from.period;
    to.cpu_realtime_runtime = from.realtime_runtime;
    to.cpu_realtime_period = from.realtime_period;
    to.cpu_idle = idle;
    (to.cpuset_cpus, to.cpuset_mems) = (list(&from.cpus), list(&from.mems));
    Ok(())
}

fn block_io(from: &BlockIo, to: &mut config::Resources) -> Result<()> {
    let weights = [from.weight, from.leaf_weight].into_iter();
    let weights = weights.chain(from.weight_device.iter().flat_map(|device| [device.weight, device.leaf_weight]));
    if let Some(weight) = weights.flatten().find(|weight| *weight != 0 && !(10..=1000).contains(weight)) {
        return refuse(format!("linux.resources.blockIO: the weight {weight} is not within 10-1000"));
    }
    to.blkio_weight = from.weight;
    to.blkio_leaf_weight = from.leaf_weight;
    for device in &from.weight_device {
        let (major, minor) = numbers("blockIO.weightDevice", device.major, device.minor)?;
        let (weight, leaf_weight) = (device.weight, device.leaf_weight);
        to.blkio_device_weights.push(BlockWeight { major, minor, weight, leaf_weight });
    }
    let lists: [(BlockRateKind, &[ThrottleDevice]); 4] = [
        (BlockRateKind::ReadBytes, &from.throttle_read_bps_device),
        (BlockRateKind::WriteBytes, &from.throttle_write_bps_device),
        (BlockRateKind::ReadOperations, &from.throttle_read_iops_device),
        (BlockRateKind::WriteOperations, &from.throttle_write_iops_device),
    ];
    for (kind, list) in lists {
        for device in list {
            let (major, minor) = numbers("blockIO.throttle", device.major, device.minor)?;
            to.blkio_rates.push(BlockRate { kind, major, minor, rate: device.rate });
        }
    }
    Ok(())
}

fn numbers(field: &str, major: i64, minor: i64) -> Result<(u32, u32)> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok((major, minor)),
        _ => refuse(format!("linux.resources.{field}: {major}:{minor} are no device numbers")),
    }
}

fn device_rule(from: &DeviceRule) -> Result<config::DeviceRule> {
    let kind = match from.kind.as_str() {
        "" | "a" => DeviceKind::All,
        "c" | "u" => DeviceKind::Char,
        "b" => DeviceKind::Block,
        "p" => DeviceKind::Fifo,
        other => return refuse(format!("linux.resources.devices: {other:?} is no type of device: a, b or c")),
    };
    // -1 is any in Go's structs.
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => match u32::try_from(value) {
            Ok(value) => Ok(Some(value)),
            Err(_) => refuse(format!("linux.resources.devices: {value} is no device number")),
        },
    };
    let access = match (from.access.as_str(), from.allow) {
        ("", false) => "rwm",
        ("", true) => {
            return refuse("linux.resources.devices: an allowance without access; say which of rwm".to_owned());
        }
        (given, _) => given,
    };
    if access.len() > 3 || access.chars().any(|letter| !"rwm".contains(letter)) {
        return refuse(format!("linux.resources.devices: access {access:?} has other letters than r, w and m"));
    }
    let (major, minor) = (number(from.major)?, number(from.minor)?);
    Ok(config::DeviceRule { allow: from.allow, kind, major, minor, access: access.to_owned() })
}

/// `2MB`: it becomes part of a file's name.
fn page_size(text: &str) -> Result<String> {
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| text.strip_suffix(unit)).unwrap_or_default();
    if digits.is_empty() || digits.len() > 6 || digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return refuse(format!("linux.resources.hugepageLimits: {text:?} is no page size such as 2MB or 1GB"));
    }
    Ok(text.to_owned())
}

/// One word of a line.
fn word(field: &str, text: &str) -> Result<String> {
    if text.is_empty() || text.len() > 64 || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return refuse(format!("linux.resources.{field}: {text:?} is no name of a device"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Resources {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_field_of_the_specification_arrives() {
        let text = r#"{
            "memory": {"limit": 536870912, "reservation": 5, "swap": 1073741824, "kernel": -1, "kernelTCP": 7,
                       "swappiness": 0, "disableOOMKiller": true, "useHierarchy": true, "checkBeforeUpdate": true},
            "cpu": {"shares": 1024, "quota": 1000000, "burst": 5, "period": 500000, "realtimeRuntime": 950000,
                    "realtimePeriod": 1000000, "cpus": "2-3", "mems": "0-7", "idle": 1},
            "pids": {"limit": 32771},
            "blockIO": {"weight": 10, "leafWeight": 10,
                        "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}],
                        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
                        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 300}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 209715200}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
            "unified": {"memory.high": "1"}, "devices": null, "unknown": 1}"#;
        let r = parse(text).limits().unwrap();
        assert_eq!((r.memory, r.memory_swap, r.memory_kernel), (Some(536_870_912), Some(1_073_741_824), Some(-1)));
        assert_eq!((r.memory_swappiness, r.oom_kill_disable, r.memory_check_before_update), (Some(0), true, true));
        assert_eq!((r.cpu_burst, r.cpu_idle, r.cpuset_cpus.as_deref()), (Some(5), Some(true), Some("2-3")));
        assert_eq!((r.cpu_realtime_runtime, r.cpu_realtime_period), (Some(950_000), Some(1_000_000)));
        assert_eq!((r.pids, r.blkio_weight, r.blkio_rates.len()), (Some(32_771), Some(10), 2));
        assert_eq!(r.blkio_device_weights[0].leaf_weight, Some(300));
        assert_eq!(
            (r.hugepages["2MB"], r.network_class, r.network_priorities["eth0"]),
            (209_715_200, Some(1_048_577), 500)
        );
        assert_eq!((r.rdma["mlx5_1"].handles, r.unified["memory.high"].as_str()), (Some(3), "1"));
    }

    #[test]
    fn nothing_that_is_no_name_or_number_gets_into_a_file() {
        for bad in [
            r#"{"hugepageLimits": [{"pageSize": "../../x", "limit": 1}]}"#,
            r#"{"hugepageLimits": [{"pageSize": "MB", "limit": 1}]}"#,
            r#"{"network": {"priorities": [{"name": "a b", "priority": 1}]}}"#,
            r#"{"rdma": {"a\nb": {}}}"#,
            r#"{"unified": {"../memory.max": "1"}}"#,
            r#"{"memory": {"limit": -2}}"#,
            r#"{"memory": {"limit": 100, "swap": 50}}"#,
            r#"{"memory": {"swappiness": 101}}"#,
            r#"{"cpu": {"cpus": "0\n1"}}"#,
            r#"{"cpu": {"idle": 2}}"#,
            r#"{"blockIO": {"weight": 5}}"#,
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}}"#,
            r#"{"devices": [{"allow": true, "type": "x", "access": "r"}]}"#,
            r#"{"devices": [{"allow": true, "type": "c"}]}"#,
            r#"{"devices": [{"allow": true, "access": "rx"}]}"#,
            r#"{"devices": [{"allow": true, "access": "r", "major": -2}]}"#,
        ] {
            assert!(Resources::convert(Some(&parse(bad))).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_are_denied_allowed_as_configured_and_the_harmless_ones_come_last() {
        let text = r#"{"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": -1, "access": "rw"}]}"#;
        let rules = Resources::convert(Some(&parse(text))).unwrap().device_rules;
        let defaults = default_device_rules();
        assert_eq!(rules.len(), defaults.len() + 2);
        assert_eq!((rules[2].major, rules[2].minor, rules[2].access.as_str()), (Some(10), None, "rw"));
        assert_eq!(rules[3..], defaults[1..]);
        assert_eq!(Resources::convert(None).unwrap().device_rules, defaults);
    }
}
