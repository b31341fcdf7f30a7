//! `update`.

use gantry_api::container::UpdateResponse;
use gantry_api::hostconfig::HostConfig;

use super::for_each;
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::{Failure, Result};
use crate::flags::{checks, container, devices};
use crate::printer;

static FLAGS: &[Flag] = &[
    Flag::later("blkio-weight", "uint16"),
    Flag::one("cpu-period", "int", "Period of the CPU quota, in microseconds").check(checks::int),
    Flag::one("cpu-quota", "int", "CPU time in each period, in microseconds").check(checks::int),
    Flag::later("cpu-rt-period", "int"),
    Flag::later("cpu-rt-runtime", "int"),
    Flag::one("cpu-shares", "int", "CPU shares (relative weight)").short('c').check(checks::int),
    Flag::one("cpus", "decimal", "Number of CPUs").check(checks::cpus),
    Flag::one("cpuset-cpus", "string", "CPUs in which to allow execution (0-3, 0,1)"),
    Flag::one("cpuset-mems", "string", "MEMs in which to allow execution (0-3, 0,1)"),
    Flag::one("memory", "bytes", "Memory limit").short('m').check(checks::bytes),
    Flag::one("memory-reservation", "bytes", "Memory soft limit").check(checks::bytes),
    Flag::one("memory-swap", "bytes", "Limit of memory plus swap: '-1' for unlimited swap")
        .check(checks::bytes_or_unlimited),
    Flag::one("pids-limit", "int", "Limit of processes (-1 for unlimited)").check(checks::int),
    Flag::one("restart", "string", "Restart policy to apply when a container exits"),
];

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] CONTAINER [CONTAINER...]"],
    "Change limits and the restart policy of one or more containers",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags)),
)
.flags(&[FLAGS]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    if !FLAGS.iter().any(|flag| flags.given(flag.long)) {
        return Err(Failure::new("you must provide one or more flags when using this command"));
    }
    let mut wanted = HostConfig::default();
    container::limits(&flags, &mut wanted).map_err(Failure::new)?;
    if let Some(policy) = flags.text("restart") {
        wanted.restart_policy = devices::restart_policy(policy).map_err(Failure::new)?;
    }
    let daemon = context.daemon().await?;
    for_each(&flags.args, |name| {
        let (daemon, wanted) = (daemon.clone(), wanted.clone());
        async move {
            let path = format!("/containers/{}/update", segment(&name));
            let answer: UpdateResponse = daemon.post_json(&path, &Query::new(), &wanted).await?;
            answer.warnings.iter().for_each(|warning| printer::error_line(warning));
            Ok(())
        }
    })
    .await
}
