//! The binary: looks at its arguments and at the name that it was called by, and becomes the client, the daemon, the
//! OCI runtime, the private registry, or the template of the supervisors and of the resolver of names. Nothing else lives here.

mod daemon;
mod registry;

use std::process::ExitCode;

use gantry_networkdriver::names;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // First, before anything is allocated that its thousand children would share.
    if gantry_execdriver::native::is_template() {
        return gantry_execdriver::native::template_main(&[(names::ROLE, names::main)]);
    }
    let called = args.first().and_then(|name| std::path::Path::new(name).file_name());
    if called == Some("gantry-runtime".as_ref()) {
        return gantry_runtime::main(&args, 1);
    }
    let called_docker = called == Some("docker".as_ref());
    if args.get(1).is_some_and(|role| role == "runtime") && !called_docker {
        return gantry_runtime::main(&args, 2);
    }
    if args.get(1).is_some_and(|role| role == "daemon") && !called_docker {
        return daemon::main(&args);
    }
    if args.get(1).is_some_and(|role| role == "registry") && !called_docker {
        return registry::main(&args);
    }
    gantry_client::main(args)
}
