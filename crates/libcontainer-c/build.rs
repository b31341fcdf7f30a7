//! Tells the library where its keeper is, once `cargo xtask c-library` has built that.
#![allow(clippy::print_stdout, reason = "how a build script speaks to cargo")]

fn main() {
    println!("cargo::rustc-check-cfg=cfg(keeper_inside)");
    println!("cargo::rerun-if-env-changed=LIBCONTAINER_KEEPER");
    if let Some(path) = std::env::var_os("LIBCONTAINER_KEEPER") {
        let path = path.display();
        println!("cargo::rerun-if-changed={path}");
        println!("cargo::rustc-env=LIBCONTAINER_KEEPER={path}");
        println!("cargo::rustc-cfg=keeper_inside");
    }
}
