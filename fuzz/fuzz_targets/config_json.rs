//! A `config.json` of anything: it is read and converted, or refused with a reason.
#![no_main]

use std::path::Path;

use libcontainer::oci::{self, Spec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(spec) = Spec::parse(text) else { return };
    let written = serde_json::to_vec(&spec).expect("what was read can be written");
    assert_eq!(Spec::parse(&written).expect("and read again"), spec);
    let linux = spec.linux.clone().unwrap_or_default();
    let _ = oci::convert_mounts(&spec.mounts, Path::new("/bundle"), &mut Vec::new());
    let _ = oci::convert_devices(&linux.devices);
    let _ = oci::Resources::convert(linux.resources.as_ref());
    if let Some(process) = &spec.process {
        let _ = oci::process::convert(process, spec.linux.as_ref());
    }
    if let Some(seccomp) = &linux.seccomp {
        let _ = oci::convert_seccomp(seccomp, &[]);
    }
});
