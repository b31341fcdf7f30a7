//! Options of a mount, separated by commas, and a whole mount with them.
#![no_main]

use std::path::Path;

use libcontainer::oci::{Mount, convert_mounts, mount_options};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let options: Vec<String> = text.split(',').map(str::to_owned).collect();
    let _ = mount_options::Options::parse(&options);
    for kind in ["", "bind", "tmpfs", "proc"] {
        let mount = Mount {
            destination: "/there".into(),
            kind: kind.into(),
            source: "source".into(),
            options: options.clone(),
            ..Mount::default()
        };
        let _ = convert_mounts(&[mount], Path::new("/bundle"), &mut Vec::new());
    }
});
