//! What `--help` prints, from the tables.

use std::fmt::Write as _;

use super::{Command, Entry, Flag, GROUPS, GroupEntry, Kind, ROOT};

const WIDTH: usize = 80;

/// Help of one command.
pub fn command_help(path: &str, command: &Command) -> String {
    let mut text = usage_lines(path, command);
    let _ = write!(text, "\n{}\n", command.about);
    if !command.details.is_empty() {
        let _ = write!(text, "\n{}\n", command.details);
    }
    let names = names(program_of(path), command);
    if names.len() > 1 {
        let _ = write!(text, "\nAliases:\n  {}\n", names.join(", "));
    }
    let flags: Vec<_> = command.all_flags().filter(|flag| !flag.later && flag.alias_of.is_none()).collect();
    if !flags.is_empty() {
        text.push_str("\nOptions:\n");
        text.push_str(&flag_lines(&flags));
    }
    text
}

fn program_of(path: &str) -> &str {
    path.split(' ').next().unwrap_or(path)
}

/// Every name of a command, those in groups first.
fn names(program: &str, command: &Command) -> Vec<String> {
    let is = |entry: &&Entry| std::ptr::eq(entry.command, command);
    let mut names = Vec::new();
    for group in GROUPS {
        for entry in group.entries.iter().filter(is) {
            let all = std::iter::once(&entry.name).chain(entry.aliases);
            names.extend(all.map(|name| format!("{program} {} {name}", group.name)));
        }
    }
    names.extend(ROOT.iter().filter(is).map(|entry| format!("{program} {}", entry.name)));
    names
}

/// `Usage:  docker run …`, one line for each form.
pub fn usage_lines(path: &str, command: &Command) -> String {
    let mut text = String::new();
    for (index, usage) in command.usage.iter().enumerate() {
        let lead = if index == 0 { "Usage:  " } else { "\t" };
        let _ = writeln!(text, "{}", format!("{lead}{path} {usage}").trim_end());
    }
    if command.usage.is_empty() {
        let _ = writeln!(text, "Usage:  {path}");
    }
    text
}

/// Help of a group such as `container`.
pub fn group_help(program: &str, group: &GroupEntry) -> String {
    let mut text = format!("Usage:  {program} {} COMMAND\n\n{}\n\nCommands:\n", group.name, group.about);
    text.push_str(&entry_lines(group.entries.iter().map(|entry| (entry.name, entry.command.about))));
    let _ = write!(text, "\nRun '{program} {} COMMAND --help' for more information on a command.\n", group.name);
    text
}

/// Help of the program.
pub fn root_help(program: &str, globals: &'static [Flag]) -> String {
    let mut text = format!("Usage:  {program} [OPTIONS] COMMAND\n\nA container engine that starts in milliseconds\n");
    text.push_str("\nCommon Commands:\n");
    let about = |entry: &Entry| (entry.name, entry.command.about);
    text.push_str(&entry_lines(ROOT.iter().filter(|entry| entry.common).map(about)));
    text.push_str("\nManagement Commands:\n");
    text.push_str(&entry_lines(GROUPS.iter().map(|group| (group.name, group.about))));
    text.push_str("\nCommands:\n");
    let mut others: Vec<_> = ROOT.iter().filter(|entry| !entry.common).map(about).collect();
    if program == "gantry" {
        others.push(("daemon", "Run the engine"));
        others.push(("registry", "Serve images, and look after what is served"));
        others.sort_unstable();
    }
    text.push_str(&entry_lines(others.into_iter()));
    text.push_str("\nGlobal Options:\n");
    let shown: Vec<_> = globals.iter().filter(|flag| !flag.later && flag.alias_of.is_none()).collect();
    text.push_str(&flag_lines(&shown));
    let _ = write!(text, "\nRun '{program} COMMAND --help' for more information on a command.\n");
    text
}

fn entry_lines<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, about) in entries {
        let _ = writeln!(text, "  {name:<11} {about}");
    }
    text
}

/// Flags in order of their names, descriptions aligned and wrapped.
fn flag_lines(flags: &[&Flag]) -> String {
    let mut flags = flags.to_vec();
    flags.sort_by_key(|flag| flag.long);
    let heads: Vec<_> = flags.iter().map(|flag| head(flag)).collect();
    let column = heads.iter().map(|head| head.chars().count()).max().unwrap_or(0) + 3;
    let mut text = String::new();
    for (flag, head) in flags.iter().zip(heads) {
        let mut help = flag.help.to_owned();
        match (flag.default, flag.kind) {
            ("", _) => {}
            (default, Kind::SwitchOn) => _ = write!(help, " (default {default})"),
            (default, _) if default.parse::<i64>().is_ok() || default.ends_with('s') && default.len() < 4 => {
                let _ = write!(help, " (default {default})");
            }
            (default, _) => _ = write!(help, " (default {default:?})"),
        }
        let _ = write!(text, "{head:<column$}");
        for (index, line) in wrap(&help, WIDTH.saturating_sub(column).max(24)).into_iter().enumerate() {
            if index > 0 {
                let _ = write!(text, "{:column$}", "");
            }
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

fn head(flag: &Flag) -> String {
    let short = flag.short.map_or_else(|| "      ".to_owned(), |letter| format!("  -{letter}, "));
    let space = if flag.value.is_empty() { "" } else { " " };
    format!("{short}--{}{space}{}", flag.long, flag.value)
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("never empty");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_aligned_sorted_and_wrapped() {
        static FLAGS: [Flag; 3] = [
            Flag::switch("zero", "Says nothing").short('z'),
            Flag::one(
                "name",
                "string",
                "A name that is long enough to need a second line of the eighty columns there are",
            ),
            Flag::switch_on("sig-proxy", "Forwards"),
        ];
        let text = flag_lines(&FLAGS.iter().collect::<Vec<_>>());
        assert_eq!(
            text,
            "      --name string   A name that is long enough to need a second line of the\n                      eighty columns there are\n      --sig-proxy     Forwards (default true)\n  -z, --zero          Says nothing\n"
        );
    }
}
