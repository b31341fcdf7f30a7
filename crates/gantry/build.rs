//! How the one binary is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=GANTRY_ORDER");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        // Every process of ours begins with moving 35,000 addresses to where the kernel has put the program. Packed, their list
        // is 10 KB that are read instead of 840. Needs the C library of Debian 12 (2.36) or a later one.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    // Functions that a start calls lie together: `cargo xtask build` says which.
    if let Ok(order) = std::env::var("GANTRY_ORDER") {
        println!("cargo:rerun-if-changed={order}");
        println!("cargo:rustc-link-arg-bins=-Wl,--symbol-ordering-file={order},--no-warn-symbol-ordering");
    }
}
