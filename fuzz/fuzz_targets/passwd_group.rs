//! A user looked up in files of a container: first line the user, second one further groups, then passwd, a NUL, group.
#![no_main]

use libcontainer::container::resolve_user_in;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut word = || String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let (user, groups) = (word(), word());
    let groups: Vec<String> = groups.split_whitespace().map(str::to_owned).collect();
    let mut files = lines.next().unwrap_or_default().splitn(2, |byte| *byte == 0);
    let (passwd, group) = (files.next().unwrap_or_default(), files.next().unwrap_or_default());
    let _ = resolve_user_in(&user, &groups, passwd, group);
});
