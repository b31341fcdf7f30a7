//! Two operations on one layer, one of them held where it hurts.

use std::sync::mpsc;
use std::time::Duration;

use crate::common::{debian, open};
use crate::copy;
use crate::points::run_meanwhile;

/// How long a pull is given for what it must not do.
const WHILE: Duration = Duration::from_millis(500);

#[test]
fn an_image_that_is_pulled_while_it_is_removed_is_whole() {
    for driver in ["overlay", "vfs"] {
        let root = copy::scratch("race").join(driver);
        let graph = open(&root, driver);
        debian().pull(&graph, &["debian"]);
        let (graph, (sender, unpacked)) = (&graph, mpsc::channel());
        std::thread::scope(|scope| {
            let pull = || {
                scope.spawn(move || {
                    let source = debian();
                    let registration = source.begin(graph);
                    for (index, blob) in source.blobs.iter().enumerate() {
                        registration.unpack(index, &mut blob.as_slice()).unwrap();
                    }
                    sender.send(()).ok();
                    registration.commit(&[crate::common::name("debian")]).unwrap();
                });
                // The records are on their way to the disk, the files still there. Whoever waits for them does so until then.
                unpacked.recv_timeout(WHILE).ok();
            };
            run_meanwhile(pull, || graph.remove_image("debian", false, true, &[]).unwrap());
        });
        graph.sweep().unwrap();
        let mut findings = Vec::new();
        graph.fsck(false, &mut |finding: gantry_graph::Finding| findings.push(finding.to_string())).unwrap();
        assert_eq!(findings, Vec::<String>::new());
        assert_eq!(graph.image("debian").unwrap().size(), 13);
    }
}
