//! The one door to everything that is done with this project besides using it: `cargo xtask <verb>`.
#![allow(clippy::print_stdout, reason = "what a verb prints is its result")]
#![allow(clippy::print_stderr, reason = "errors go to a person")]

mod artifacts;
mod bench;
mod build;
mod c_library;
mod demo;
mod fuzz;
mod interrupt;
mod lint;
mod museum;
mod namespaces;
mod order;
mod peers;
mod prepare;
mod setup;
mod test;
mod vm;
mod walls;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask <verb>

  demo         build, start a daemon of its own, pull a Debian image and run containers that show themselves
  test         install what the tests need and run every test
  museum       switch each protection off and demand that its tests fail (part of test)
  vm-test      run what needs cgroup v2, AppArmor or an older kernel in a virtual machine
  fuzz [TARGET] [SECONDS]
               feed random input to the parsers (installs cargo-fuzz; needs the nightly toolchain)
  build [PROFILE]
               build the binary, its functions in order (release)
  order        record the order: which functions a container's start calls (as root)
  c-library [PROFILE]
               build libcontainer.a, libcontainer.so and libcontainer.h (release)
  lint         formatting, clippy, the walls between the crates, licences and sources of dependencies
  bench start  measure the start path against Docker and podman (installs them; as root)
  bench doors  measure requests over TLS beside a unix socket, and memory after 100,000 connections (as root)
  bench images measure load, save, pull, import, commit and rmi against Docker, podman and tar (installs them; as root)
  bench network
               measure what networks carry and cost against Docker and podman (installs them; as root)
  bench registry
               measure the private registry against Debian's docker-registry with skopeo (as root)
  bench runtime [--sid DIR]
               measure the OCI runtime against runc, crun and youki (installs and builds them; as root)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["demo"] => demo::run(),
        ["test", filters @ ..] => test::run(filters),
        ["museum", names @ ..] => museum::run(names),
        ["vm-test", filters @ ..] => vm::run(filters),
        ["lint"] => lint::run(),
        ["build"] => build::gantry("release").map(|path| println!("{}", path.display())),
        ["build", profile] => build::gantry(profile).map(|path| println!("{}", path.display())),
        ["order"] => order::record(),
        ["c-library", words @ ..] => c_library::run(words),
        ["fuzz", words @ ..] => fuzz::run(words),
        ["bench", "start", options @ ..] => bench::start(options),
        ["bench", "doors", options @ ..] => bench::doors(options),
        ["bench", "images", options @ ..] => bench::images(options),
        ["bench", "network", options @ ..] => bench::network(options),
        ["bench", "registry", options @ ..] => bench::registry(options),
        ["bench", "runtime", options @ ..] => bench::runtime(options),
        ["help" | "--help" | "-h"] | [] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("xtask: no such verb: {}\n\n{HELP}", words.join(" "));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
