//! An image's configuration of anything: it is read within its bounds, or refused; what was read means the same when it is
//! written and read again.
#![no_main]

use gantry_graph::{ImageConfig, LAYER_LIMIT, chain_id};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(config) = ImageConfig::parse(text) else { return };
    assert_eq!(config.rootfs.kind, "layers");
    assert!(config.rootfs.diff_ids.len() <= LAYER_LIMIT);
    let written = serde_json::to_vec(&config).expect("what was read can be written");
    assert_eq!(ImageConfig::parse(&written).expect("and read again"), config);
    let strict: ImageConfig = serde_json::from_slice(&written).expect("and read by the letter");
    assert_eq!(strict, config);
    let chain = config.chain_ids();
    assert_eq!(chain.len(), config.rootfs.diff_ids.len());
    for (index, diff_id) in config.rootfs.diff_ids.iter().enumerate() {
        assert_eq!(chain[index], chain_id(index.checked_sub(1).map(|below| &chain[below]), diff_id));
    }
});
