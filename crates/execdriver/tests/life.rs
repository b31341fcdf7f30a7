//! A container's life by the native driver: started, ended, its exit and output known.
#![allow(clippy::disallowed_methods, reason = "tests use the standard library plainly")]
#![allow(unsafe_code, reason = "the test binary is its own template: see common")]

mod common;

use common::Rig;

#[test]
fn exit_codes_and_output_arrive() {
    let rig = Rig::new();
    assert_eq!(rig.script("true").0, 0);
    assert_eq!(rig.script("exit 7").0, 7);
    assert_eq!(rig.script("kill -9 $$; sleep 1").0, 0, "pid 1 does not die of its own signals");
    let (code, output) = rig.script("echo out; echo err >&2; hostname; id -u; pwd");
    assert_eq!(code, 0);
    assert!(output.contains("out\n") && output.contains("err\n") && output.contains("box\n0\n/\n"), "{output}");
}
