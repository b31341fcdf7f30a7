//! `port`.

use gantry_api::hostconfig::PortBinding;
use gantry_api::inspect::ContainerInspect;

use crate::cli::{Arity, Command, Parsed};
use crate::context::Context;
use crate::daemon::{Query, segment};
use crate::failure::{Failure, Result};
use crate::printer;

/// The command.
pub static COMMAND: Command = Command::new(
    &["CONTAINER [PRIVATE_PORT[/PROTO]]"],
    "List port mappings or a specific mapping for the container",
    Arity::Between(1, 2),
    |context, flags| Box::pin(run(context, flags)),
);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let name = &flags.args[0];
    let daemon = context.daemon().await?;
    let container: ContainerInspect = daemon.get(&format!("/containers/{}/json", segment(name)), &Query::new()).await?;
    let ports = &container.network_settings.ports;
    let mut lines = Vec::new();
    match flags.args.get(1) {
        Some(port) => {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            if number.parse::<u16>().is_err() {
                return Err(Failure::new(format!("Error: invalid port ({number})")));
            }
            let key = format!("{number}/{}", protocol.to_lowercase());
            match ports.get(&key) {
                Some(Some(bindings)) if !bindings.is_empty() => lines.extend(bindings.iter().map(shown)),
                _ => return Err(Failure::new(format!("Error: No public port '{port}' published for {name}"))),
            }
        }
        None => {
            for (port, bindings) in ports {
                lines.extend(bindings.iter().flatten().map(|binding| format!("{port} -> {}", shown(binding))));
            }
            lines.sort_by_key(|line| line.split('/').next().and_then(|number| number.parse::<u16>().ok()));
        }
    }
    for line in lines {
        printer::line(&line)?;
    }
    Ok(0)
}

fn shown(binding: &PortBinding) -> String {
    if binding.host_ip.contains(':') {
        return format!("[{}]:{}", binding.host_ip, binding.host_port);
    }
    format!("{}:{}", binding.host_ip, binding.host_port)
}
