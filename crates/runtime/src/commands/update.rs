//! `update`: other limits for a container that is there.

use std::io::Read;
use std::path::Path;

use gantry_linux::ResultExt;
use libcontainer::oci::{BlockIo, Cpu, Memory, Pids, Resources};

use super::Context;
use crate::cli::Update;
use crate::error::{Error, Result};

/// From a file, or from flags.
pub fn update(context: &Context<'_>, flags: &Update) -> Result<u8> {
    if flags.l3_cache_schema.is_some() || flags.mem_bw_schema.is_some() {
        return Err(Error::Refused(
            "Intel RDT is not supported: leave out --l3-cache-schema and --mem-bw-schema".into(),
        ));
    }
    let container = context.open(&flags.id)?;
    let mut resources = match &flags.resources {
        Some(path) => read(path)?,
        None => from_flags(flags),
    };
    if let Some(memory) = &mut resources.memory {
        if memory.kernel.take().is_some() | memory.kernel_tcp.take().is_some() {
            context.log.warning("kernel memory settings are ignored");
        }
        // Without a limit of memory there is none of memory and swap together.
        if memory.limit == Some(-1) && memory.swap.is_none() {
            memory.swap = Some(-1);
        }
    }
    context.warn(&container.update(&resources)?);
    Ok(0)
}

fn read(path: &Path) -> Result<Resources> {
    let mut text = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut text).during("read", "standard input")?;
    } else {
        text = gantry_linux::fs::read(path)?;
    }
    // One object; Go's decoder does not look at what follows, and neither do engines' users.
    let mut objects = serde_json::Deserializer::from_slice(&text).into_iter::<Resources>();
    match objects.next() {
        Some(resources) => resources.map_err(|error| Error::json(path, &error)),
        None => Err(Error::Refused(format!("{} is empty: expected an object of resources", path.display()))),
    }
}

fn from_flags(flags: &Update) -> Resources {
    Resources {
        memory: Some(Memory {
            limit: flags.memory,
            reservation: flags.memory_reservation,
            swap: flags.memory_swap,
            kernel: flags.kernel_memory,
            kernel_tcp: flags.kernel_memory_tcp,
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: flags.cpu_share,
            quota: flags.cpu_quota,
            burst: flags.cpu_burst,
            period: flags.cpu_period,
            realtime_runtime: flags.cpu_rt_runtime,
            realtime_period: flags.cpu_rt_period,
            cpus: flags.cpuset_cpus.clone().unwrap_or_default(),
            mems: flags.cpuset_mems.clone().unwrap_or_default(),
            idle: flags.cpu_idle,
        }),
        pids: flags.pids_limit.map(|limit| Pids { limit: Some(limit) }),
        block_io: flags.blkio_weight.map(|weight| BlockIo { weight: Some(weight), ..BlockIo::default() }),
        ..Resources::default()
    }
}
