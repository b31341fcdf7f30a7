//! The table of `docs/security.md`, which says what is proved by which test; and what of it the code has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build;

const FILE: &str = "docs/security.md";
/// The columns that are read: what switches the protection off, and what proves it.
const OFF: usize = 3;
const PROOF: usize = 4;

/// One row: a protection that tests prove.
#[derive(Debug)]
pub struct Row {
    /// Its first cell.
    pub promise: String,
    /// As in `intact("name")`; `None` cannot be switched off.
    pub name: Option<String>,
    pub tests: Vec<Test>,
}

/// A test as the table has it: `suite::path::of::it`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// `crate/file of tests/`.
    pub suite: String,
    pub path: String,
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}::{}", self.suite, self.path)
    }
}

/// Reads the table.
pub fn read() -> Result<Vec<Row>> {
    let path = build::root().join(FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let rows = rows(&text)?;
    if rows.is_empty() {
        bail!("{FILE} has no table of protections");
    }
    Ok(rows)
}

fn rows(text: &str) -> Result<Vec<Row>> {
    text.lines().filter_map(cells).map(|cells| row(&cells)).filter_map(Result::transpose).collect()
}

/// The cells of a line of a table, without its head and the line below that.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
    let is_head = cells[0].starts_with("---") || cells.last() == Some(&"Proved by");
    (!is_head).then_some(cells)
}

/// `None` is a row of another table.
fn row(cells: &[&str]) -> Result<Option<Row>> {
    let (Some(off), Some(proof)) = (cells.get(OFF), cells.get(PROOF)) else { return Ok(None) };
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let promise = cells[0].to_owned();
    let tests = words(proof).iter().map(|text| test(text)).collect::<Result<Vec<_>>>()?;
    if tests.is_empty() {
        bail!("{FILE}: no test proves this: {promise}");
    }
    Ok(Some(Row { name: words(off).into_iter().next(), promise, tests }))
}

fn test(text: &str) -> Result<Test> {
    let parts = text.split_once("::").filter(|(suite, _)| suite.contains('/'));
    let (suite, path) = parts.with_context(|| format!("{FILE}: not a test as crate/file::name: {text}"))?;
    Ok(Test { suite: suite.to_owned(), path: path.to_owned() })
}

/// Demands that the table has every protection of the code and no other, and only tests that are there.
pub fn check(rows: &[Row]) -> Result<()> {
    let listed: BTreeSet<String> = rows.iter().filter_map(|row| row.name.clone()).collect();
    let guarded = names_in_code()?;
    let mut wrong: Vec<String> = Vec::new();
    wrong.extend(guarded.difference(&listed).map(|name| format!("`{name}` of the code has no row")));
    wrong.extend(listed.difference(&guarded).map(|name| format!("`{name}` has a row and is not in the code")));
    for test in rows.iter().flat_map(|row| &row.tests) {
        if !exists(test)? {
            wrong.push(format!("there is no test `{test}`"));
        }
    }
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => bail!("{FILE}: {}", wrong.join("; ")),
    }
}

/// Every name in an `intact("…")` of the crates' sources.
fn names_in_code() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for path in sources(&build::root().join("crates"))? {
        if path.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let after = text.split("intact(\"").skip(1);
        names.extend(after.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    Ok(names)
}

/// Whether the suite's crate has a test function of this name.
fn exists(test: &Test) -> Result<bool> {
    let (package, _) = test.suite.split_once('/').unwrap_or((&test.suite, ""));
    let root = build::root();
    let directory = if package == "tests" { root.join(package) } else { root.join("crates").join(package) };
    let function = test.path.rsplit("::").next().unwrap_or(&test.path);
    let head = format!("#[test]\nfn {function}()");
    for path in sources(&directory)? {
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        if lines.join("\n").contains(&head) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut ahead = vec![directory.to_owned()];
    while let Some(directory) = ahead.pop() {
        let entries = std::fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("list {}", directory.display()))?.path();
            if path.is_dir() {
                ahead.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_protections_has_what_the_code_has() {
        check(&read().unwrap()).unwrap();
    }

    #[test]
    fn rows_of_the_table_are_read_and_other_tables_are_not() {
        let text = "| A | B |\n|---|---|\n| a | b |\n\n| P | D | O | Off | Proved by |\n|---|---|---|---|---|\n\
                    | first | on | on | `name` | `runtime/museum::a::b`, `tests/cp::c` |\n| second | x | y | – | `api/unit::d` |\n";
        let rows = rows(text).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].name.as_deref(), Some("name"));
        assert_eq!(rows[0].tests[1], Test { suite: "tests/cp".into(), path: "c".into() });
        assert_eq!(rows[1].name, None);
        assert!(super::rows("| p | d | o | `name` | nothing |").is_err());
        assert!(super::rows("| p | d | o | `name` | `some_test` |").is_err());
    }
}
