//! Debian's kernel for virtual machines: its package is downloaded and unpacked, never installed; its modules are
//! found with what they depend on.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The package that depends on the current kernel's.
const META: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
#[derive(Debug)]
pub struct Kernel {
    /// The image that qemu loads.
    pub image: PathBuf,
    /// The release, as `uname -r` says it.
    pub release: String,
    modules: PathBuf,
}

impl Kernel {
    /// The kernel in `cache`; downloaded when it is not there yet.
    pub fn get(cache: &Path) -> Result<Self> {
        if let Ok(kernel) = Self::find(cache) {
            return Ok(kernel);
        }
        let partial = cache.with_extension("partial");
        fs::remove_dir_all(&partial).or_else(|error| if partial.exists() { Err(error) } else { Ok(()) })?;
        fs::create_dir_all(&partial).with_context(|| format!("make {}", partial.display()))?;
        let package = real_package()?;
        println!("downloading {package}");
        // As root, because apt's own user cannot write there.
        run(Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", &package])
            .current_dir(&partial))?;
        let archive = entries(&partial)?.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb"));
        let archive = archive.context("apt-get downloaded no package")?;
        run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&partial))?;
        fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
        fs::rename(&partial, cache).with_context(|| format!("rename {} to {}", partial.display(), cache.display()))?;
        Self::find(cache)
    }

    fn find(cache: &Path) -> Result<Self> {
        let image = entries(&cache.join("boot"))?.into_iter().find(|path| name(path).starts_with("vmlinuz-"));
        let image = image.with_context(|| format!("no kernel in {}", cache.display()))?;
        let release = name(&image)["vmlinuz-".len()..].to_owned();
        let mut modules = cache.join("lib/modules").join(&release);
        if !modules.is_dir() {
            modules = cache.join("usr/lib/modules").join(&release);
        }
        Ok(Self { image, release, modules })
    }

    /// Files of the modules that must be loaded for `wanted`, each after those that it depends on. What is built in is
    /// left out.
    pub fn closure(&self, wanted: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files = HashMap::new();
        collect(&self.modules.join("kernel"), &mut files)?;
        let built_in = fs::read_to_string(self.modules.join("modules.builtin")).context("read modules.builtin")?;
        let mut done: HashSet<String> = built_in.lines().map(|line| module_name(Path::new(line))).collect();
        let mut order = Vec::new();
        for module in wanted {
            add(&module.replace('-', "_"), &files, &mut done, &mut order)
                .with_context(|| format!("find module {module} of {}", self.release))?;
        }
        Ok(order)
    }
}

fn add(
    module: &str,
    files: &HashMap<String, PathBuf>,
    done: &mut HashSet<String>,
    order: &mut Vec<PathBuf>,
) -> Result<()> {
    if !done.insert(module.to_owned()) {
        return Ok(());
    }
    let path = files.get(module).with_context(|| format!("there is no module {module}"))?;
    let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    for needed in depends(&content) {
        add(&needed, files, done, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// The modules that a module's `.modinfo` section names as needed.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY).map(|at| at + KEY.len()) else {
        return Vec::new();
    };
    let value = module[start..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn collect(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for path in entries(directory)? {
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

fn module_name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_")
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut paths = read.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// The package that the meta package stands for now.
fn real_package() -> Result<String> {
    if let Some(package) = dependency()? {
        return Ok(package);
    }
    run(Command::new("apt-get").args(["update", "-q"]))?;
    dependency()?.with_context(|| format!("apt knows no package {META}: is this Debian on amd64?"))
}

fn dependency() -> Result<Option<String>> {
    let output = Command::new("apt-cache").args(["depends", META]).output().context("run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut packages = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(packages.find(|package| package.starts_with("linux-image-")).map(str::to_owned))
}

fn run(command: &mut Command) -> Result<()> {
    let text = gantry_tests::command::describe(command);
    let output = command.output().with_context(|| format!("start {text}"))?;
    if !output.status.success() {
        bail!("`{text}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::depends;

    #[test]
    fn what_a_module_needs_stands_in_its_modinfo() {
        let module = b"\x7fELF..license=GPL\0depends=nf-conntrack,nf_nat\0retpoline=Y\0";
        assert_eq!(depends(module), ["nf_conntrack", "nf_nat"]);
        assert!(depends(b"license=GPL\0depends=\0name=x\0").is_empty());
    }
}
