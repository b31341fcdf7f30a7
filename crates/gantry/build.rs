//! How the one binary is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        // Every process of ours begins with moving 35,000 addresses to where the kernel has put the program. Packed, their list
        // is 20 KB that are read instead of 840. Needs the C library of Debian 12 (2.36) or a later one.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
