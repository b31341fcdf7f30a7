//! Archives: read, written, and given back byte for byte.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gantry_graphdriver::Error;
use tar::EntryType;

use super::bench::{Archive, Bench, base};

pub fn archives_of_gnu_tar_are_read(name: &str) {
    let bench = Bench::new(name);
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir_all(source.join("d".repeat(200))).unwrap();
    fs::write(source.join("d".repeat(200)).join("f".repeat(250)), "long").unwrap();
    fs::write(source.join("ünicode"), "u").unwrap();
    std::os::unix::fs::symlink("t".repeat(200), source.join("link")).unwrap();
    fs::hard_link(source.join("ünicode"), source.join("hard")).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    for at in (0..40).map(|piece| piece << 20) {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", at).unwrap();
    }
    for (format, options) in [("gnu", &["-S"][..]), ("pax", &["--xattrs"]), ("ustar", &["--exclude=d*"])] {
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C").arg(&source).arg(format!("--format={format}")).args(options).args([
            "--exclude-caches",
            "-cf",
            "-",
        ]);
        if format == "ustar" {
            tar.arg("--exclude=link");
        }
        let output = tar.arg(".").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        bench.layer(format, None, &output.stdout).unwrap();
        assert!(bench.diff(format) == output.stdout, "{format}");
        let mounted = bench.mount(format, true);
        assert_eq!(fs::read(mounted.at("sparse")).unwrap(), fs::read(source.join("sparse")).unwrap(), "{format}");
        assert_eq!(mounted.at("hard").metadata().unwrap().nlink(), 2);
        if format != "ustar" {
            assert_eq!(mounted.read(&format!("{}/{}", "d".repeat(200), "f".repeat(250))), "long");
            assert_eq!(fs::read_link(mounted.at("link")).unwrap().as_os_str().len(), 200);
        }
        let time = |path: &Path| path.metadata().unwrap().mtime();
        assert_eq!(time(&mounted.at("")), time(&source));
    }
}

/// Whatever order, spelling and padding the archive has: it comes back, also what it brought and then replaced.
pub fn a_layer_gives_back_its_archive_byte_for_byte(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    let mut archive = Archive::default()
        .file("etc/.wh.one", "content that a whiteout should not have")
        .file("twice", "first")
        .file("twice", "second")
        .dir("dir", 0o755)
        .file("dir/inside", "inside")
        .entry(EntryType::Symlink, "by", "dir", b"", 0o777)
        .file("by/through", "through a link")
        .file("dir/through", "replaced under its own name")
        .entry(EntryType::Symlink, "by", "deep", b"", 0o777)
        .file("deep/.wh..wh..opq", "")
        .dir("stays", 0o755)
        .entry(EntryType::Symlink, "via", "/stays", b"", 0o777)
        .file("via/kept", "where the link led")
        .entry(EntryType::Symlink, "via", "deep", b"", 0o777)
        .link("hard", "twice")
        .file("twice", "third")
        .file("dir", "a file where a directory was")
        .file("large", &"0123456789".repeat(50_000))
        .entry(EntryType::XGlobalHeader, "comment", "", b"22 comment=0123456789ab\n", 0o644)
        .0;
    archive.extend_from_slice(&[0; 1024]);
    archive.extend_from_slice(b"what follows the end");
    bench.layer("upper", Some("base"), &archive).unwrap();
    assert!(bench.diff("upper") == archive);
    assert!(bench.diff("base") == base().0, "it has no end mark and gets none");
    let mounted = bench.mount("upper", true);
    assert_eq!((mounted.read("twice"), mounted.read("hard")), ("third".to_owned(), "second".to_owned()));
    drop(mounted);

    // Directories of the host and no devices.
    if !bench.driver.name().starts_with("devmapper") {
        a_copied_store_gives_it_too_and_a_damaged_one_says_so(&bench, name, &archive);
    }
}

fn a_copied_store_gives_it_too_and_a_damaged_one_says_so(bench: &Bench, name: &str, archive: &[u8]) {
    // A store that was copied has other inodes.
    let layer = bench.root.path().join(name).join("layers/upper");
    let copy = layer.with_extension("copy");
    let copied = std::process::Command::new("cp").arg("-a").args([&layer, &copy]).status().unwrap();
    assert!(copied.success());
    fs::rename(&layer, layer.with_extension("before")).unwrap();
    fs::rename(&copy, &layer).unwrap();
    assert!(bench.diff("upper") == archive);

    // A file that is shorter than it was is no archive.
    let large = layer.join(if name == "overlay" { "diff/large" } else { "root/large" });
    fs::OpenOptions::new().write(true).open(large).unwrap().set_len(5).unwrap();
    assert!(matches!(bench.driver.diff("upper", &mut Vec::new()), Err(Error::Damaged { .. })));
}

/// GNU tar reads what is written.
pub fn gnu_tar_reads_what_is_written(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    let mounted = bench.writable("web", "base");
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    fs::create_dir(mounted.at(&"d".repeat(200))).unwrap();
    fs::write(mounted.at(&long), "long").unwrap();
    fs::remove_file(mounted.at("etc/one")).unwrap();
    drop(mounted);
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("diff.tar"), bench.diff("web")).unwrap();
    let output = std::process::Command::new("tar").args(["-tf"]).arg(place.path().join("diff.tar")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    assert_eq!(names.lines().collect::<Vec<_>>(), [&format!("{}/", "d".repeat(200)), &long, "etc/", "etc/.wh.one"]);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
