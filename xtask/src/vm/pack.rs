//! Packs the virtual machine's file system: user land, modules, tools with their libraries, the tests at the very paths
//! that they have here, and the script that runs them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use gantry_tests::paths;

use crate::build;

use super::cpio::Archive;
use super::kernel::Kernel;
use super::programs::{self, Programs};
use super::table::{FILES, MODULES, SYSTEM_TOOLS, Suite, TOOLS};

const INIT: &str = include_str!("init.sh");

/// What is to be packed.
#[derive(Debug)]
pub struct Contents<'a> {
    pub kernel: &'a Kernel,
    pub suites: &'a [Suite],
    pub programs: &'a Programs,
    /// The product's binary, for the suites that need it.
    pub gantry: Option<&'a Path>,
    /// Names of tests, for every suite.
    pub filters: &'a [&'a str],
}

/// Writes the archive; its size.
pub fn pack(contents: &Contents<'_>, work: &Path, archive: &Path) -> Result<u64> {
    let mut out = Archive::create(archive)?;
    let applets = applets()?;
    skeleton(&mut out, &applets)?;
    modules(&mut out, contents.kernel)?;
    let mut tools: Vec<&str> = TOOLS.iter().map(|tool| tool.program).collect();
    if contents.gantry.is_some() {
        tools.extend(SYSTEM_TOOLS.iter().map(|tool| tool.program));
    }
    for name in tools {
        tool(&mut out, name, &applets)?;
    }
    for path in FILES.iter().map(Path::new).filter(|path| path.exists()) {
        out.copy(path, path)?;
    }
    let stripped = work.join("stripped");
    for program in contents.programs.tests.iter().chain(&contents.programs.others) {
        executable(&mut out, &build::stripped(program, &stripped)?, program)?;
    }
    if let Some(gantry) = contents.gantry {
        executable(&mut out, &build::stripped(gantry, &stripped)?, Path::new(GANTRY))?;
        images(&mut out, work)?;
    }
    // The tests find cargo's target directory by its tag.
    let target = paths::target()?;
    out.file(&target.join("CACHEDIR.TAG"), 0o644, b"")?;
    for suite in contents.suites {
        out.directory(&programs::directory(suite.package))?;
    }
    out.file(Path::new("/vm/suites"), 0o644, script(contents)?.as_bytes())?;
    out.finish()
}

/// Where the product's binary is inside.
const GANTRY: &str = "/usr/bin/gantry";

/// Names of busybox's programs.
fn applets() -> Result<Vec<String>> {
    let busybox = paths::need("busybox")?;
    let list = gantry_tests::command::succeed(Command::new(&busybox).arg("--list"), gantry_tests::command::LIMIT)?;
    Ok(list.stdout.lines().map(str::to_owned).collect())
}

fn skeleton(out: &mut Archive, applets: &[String]) -> Result<()> {
    for directory in ["dev", "proc", "sys", "run", "tmp", "mnt", "root", "etc", "var/lib", "var/tmp", "vm", "opt"] {
        out.directory(&Path::new("/").join(directory))?;
    }
    let root = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    out.file(Path::new("/etc/passwd"), 0o644, root.as_bytes())?;
    out.file(Path::new("/etc/group"), 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    out.file(Path::new("/etc/hosts"), 0o644, b"127.0.0.1 localhost gantry-vm\n")?;
    out.file(Path::new("/etc/resolv.conf"), 0o644, b"")?;
    out.file(Path::new("/etc/os-release"), 0o644, b"NAME=\"Gantry's virtual machine\"\nID=gantry-vm\n")?;
    out.file(Path::new("/init"), 0o755, INIT.as_bytes())?;
    // Debian's directories are links into /usr.
    for name in ["bin", "sbin", "lib", "lib64"] {
        out.directory(&Path::new("/usr").join(name))?;
        out.symlink(&Path::new("/").join(name), &Path::new("usr").join(name))?;
    }
    let busybox = paths::need("busybox")?;
    out.file(Path::new("/usr/bin/busybox"), 0o755, &std::fs::read(&busybox)?)?;
    // Tools of the same name are found first: they are packed later into directories that PATH has earlier.
    for applet in applets.iter().filter(|applet| *applet != "busybox") {
        out.symlink(&Path::new("/usr/bin").join(applet), Path::new("busybox"))?;
    }
    Ok(())
}

fn modules(out: &mut Archive, kernel: &Kernel) -> Result<()> {
    let mut list = String::new();
    for path in kernel.closure(MODULES)? {
        let inside = Path::new("/vm/modules.d").join(path.file_name().unwrap_or_default());
        out.file(&inside, 0o644, &std::fs::read(&path).with_context(|| format!("read {}", path.display()))?)?;
        writeln!(list, "{}", inside.display())?;
    }
    out.file(Path::new("/vm/modules"), 0o644, list.as_bytes())
}

/// A program with the libraries that it loads, in `/usr/local/bin`, and where it is here unless busybox is there.
fn tool(out: &mut Archive, name: &str, applets: &[String]) -> Result<()> {
    let path = paths::need(name)?.canonicalize()?;
    if name != "busybox" {
        let inside = Path::new("/usr/local/bin").join(name);
        executable(out, &path, &inside)?;
        if path != inside && !applets.iter().any(|applet| applet == name) {
            out.symlink(&path, &inside)?;
        }
    }
    for library in libraries(&path)? {
        let real = library.canonicalize().with_context(|| format!("find {}", library.display()))?;
        // Through the links of Debian's merged /usr.
        let parent = library.parent().and_then(|parent| parent.canonicalize().ok()).context("a library's directory")?;
        let inside = parent.join(library.file_name().unwrap_or_default());
        executable(out, &real, &inside)?;
    }
    Ok(())
}

/// The shared libraries that the loader would take, the loader itself among them.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        bail!("{} lacks libraries: {text}", program.display());
    }
    // A static program makes ldd fail, and needs none.
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

fn executable(out: &mut Archive, from: &Path, inside: &Path) -> Result<()> {
    let content = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
    let mode = from.metadata().map(|metadata| metadata.permissions().mode() & 0o777).unwrap_or(0o755);
    out.file(inside, mode, &content)
}

/// A store of the registry with the tests' images, made here, where it is quick.
fn images(out: &mut Archive, work: &Path) -> Result<()> {
    let store = work.join("test-images");
    std::fs::create_dir_all(&store).with_context(|| format!("make {}", store.display()))?;
    drop(gantry_tests::Registry::start_in(&store)?);
    if let Err(error) = gantry_tests::debian::i386_busybox(&store) {
        println!("no 32-bit program goes along: {error:#}");
    }
    out.copy(&store, &paths::target()?.join("test-images"))
}

/// The calls of `suite` that the init script reads.
fn script(contents: &Contents<'_>) -> Result<String> {
    let mut text = String::new();
    if contents.gantry.is_some() {
        writeln!(text, "export GANTRY_BIN={GANTRY}")?;
    }
    for (suite, test) in contents.suites.iter().zip(&contents.programs.tests) {
        let directory = programs::directory(suite.package);
        write!(
            text,
            "suite {} {} {} {}",
            suite.name,
            suite.seconds,
            quote(directory.as_os_str().to_str())?,
            quote(test.to_str())?
        )?;
        for argument in contents.filters.iter().chain(suite.arguments) {
            write!(text, " {}", quote(Some(argument))?)?;
        }
        text.push('\n');
    }
    Ok(text)
}

fn quote(word: Option<&str>) -> Result<String> {
    let word = word.context("a path that is not UTF-8")?;
    Ok(format!("'{}'", word.replace('\'', r"'\''")))
}
