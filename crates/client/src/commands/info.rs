//! `info`.

use std::fmt::Write as _;

use gantry_api::system::Info;

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::{Failure, Result};
use crate::format::rows::unescape;
use crate::format::size;
use crate::printer;
use crate::template::{Missing, Template, Value};

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS]"], "Display system-wide information", Arity::None, |context, flags| {
        Box::pin(run(context, flags))
    })
    .flags(&[&[Flag::one("format", "string", "Format output: 'json', or a Go template").short('f')]]);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let answer = async { context.without_autostart().daemon().await?.get_bytes("/info", &Query::new()).await };
    let bytes = match answer.await {
        Err(failure) if flags.text_or_empty("format").is_empty() => {
            printer::text(&format!("{}\nServer:\n", client()))?;
            return Err(failure);
        }
        answer => answer?,
    };
    let text = match flags.text_or_empty("format") {
        "" => plain(&gantry_api::json::from_slice(&bytes)?),
        format => {
            let format = if format == "json" { "{{json .}}".to_owned() } else { unescape(format) };
            let template = Template::parse(&format, Missing::Error)
                .map_err(|error| Failure::with_code(64, format!("template parsing error: {error}")))?;
            let value: Value = serde_json::from_slice(&bytes)?;
            let text = template
                .execute(&value)
                .map_err(|error| Failure::new(format!("failed to execute template: {error}")))?;
            format!("{text}\n")
        }
    };
    printer::text(&text)?;
    Ok(0)
}

fn client() -> String {
    format!("Client: Gantry\n Version:    {}\n Context:    default\n", env!("CARGO_PKG_VERSION"))
}

fn plain(info: &Info) -> String {
    let mut text = format!("{}\nServer:\n", client());
    let mut line = |indent: usize, label: &str, value: &str| {
        let _ = writeln!(text, "{}", format!("{:indent$}{label}: {value}", "").trim_end());
    };
    line(1, "Containers", &info.containers.to_string());
    line(2, "Running", &info.containers_running.to_string());
    line(2, "Paused", &info.containers_paused.to_string());
    line(2, "Stopped", &info.containers_stopped.to_string());
    line(1, "Images", &info.images.to_string());
    line(1, "Server Version", &info.server_version);
    line(1, "Storage Driver", &info.driver);
    for [name, value] in &info.driver_status {
        line(2, name, value);
    }
    line(1, "Logging Driver", &info.logging_driver);
    line(1, "Cgroup Driver", &info.cgroup_driver);
    line(1, "Cgroup Version", &info.cgroup_version);
    line(1, "Plugins", "");
    line(2, "Volume", &info.plugins.volume.join(" "));
    line(2, "Network", &info.plugins.network.join(" "));
    line(2, "Log", &info.plugins.log.join(" "));
    line(1, "Swarm", if info.swarm.local_node_state.is_empty() { "inactive" } else { &info.swarm.local_node_state });
    machine(&mut line, info);
    let labels = info.labels.iter().map(|label| format!("  {label}\n"));
    let labels: String = labels.collect();
    if !labels.is_empty() {
        let _ = write!(text, " Labels:\n{labels}");
    }
    if let Some(registries) = &info.registry_config {
        text.push_str(" Insecure Registries:\n");
        for (name, index) in &registries.index_configs {
            if !index.secure {
                let _ = writeln!(text, "  {name}");
            }
        }
        for cidr in &registries.insecure_registry_cidrs {
            let _ = writeln!(text, "  {cidr}");
        }
        for mirror in &registries.mirrors {
            let _ = writeln!(text, " Registry Mirror: {mirror}");
        }
    }
    for warning in info.warnings.iter().flatten() {
        let _ = writeln!(text, "{warning}");
    }
    text
}

fn machine(line: &mut impl FnMut(usize, &str, &str), info: &Info) {
    let runtimes: Vec<_> = info.runtimes.keys().map(String::as_str).collect();
    line(1, "Execution Driver", &info.execution_driver);
    line(1, "Runtimes", &runtimes.join(" "));
    line(1, "Default Runtime", &info.default_runtime);
    line(1, "Init Binary", &info.init_binary);
    if !info.security_options.is_empty() {
        line(1, "Security Options", "");
        for option in &info.security_options {
            security(line, option);
        }
    }
    line(1, "Kernel Version", &info.kernel_version);
    line(1, "Operating System", &info.operating_system);
    line(1, "OSType", &info.os_type);
    line(1, "Architecture", &info.architecture);
    line(1, "CPUs", &info.n_cpu.to_string());
    line(1, "Total Memory", &size::binary(info.mem_total));
    line(1, "Name", &info.name);
    line(1, "ID", &info.id);
    line(1, "Docker Root Dir", &info.docker_root_dir);
    line(1, "Debug Mode", &info.debug.to_string());
    line(1, "Experimental", &info.experimental_build.to_string());
    line(1, "Live Restore Enabled", &info.live_restore_enabled.to_string());
}

/// `name=seccomp,profile=builtin` on two lines.
fn security(line: &mut impl FnMut(usize, &str, &str), option: &str) {
    for (index, part) in option.split(',').enumerate() {
        match part.split_once('=') {
            Some(("name", name)) => line(2, name, ""),
            Some((name, value)) => line(3, if name == "profile" { "Profile" } else { name }, value),
            None => line(if index == 0 { 2 } else { 3 }, part, ""),
        }
    }
}
