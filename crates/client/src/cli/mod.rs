//! Commands and flags are data: parsing, help and refusals all come from the same tables.

mod help;
mod parse;
mod tree;

use std::future::Future;
use std::pin::Pin;

pub use help::{command_help, group_help, root_help, usage_lines};
pub use parse::{Parsed, boolean, parse};
pub use tree::{Entry, GROUPS, GroupEntry, LATER, ROOT, find, find_group};

use crate::context::Context;
use crate::failure::Result;

/// What running a command gives: the exit status.
pub type Outcome = Pin<Box<dyn Future<Output = Result<u8>>>>;

/// One command.
pub struct Command {
    /// Its usage after its name: `[OPTIONS] CONTAINER`.
    pub usage: &'static [&'static str],
    /// One line.
    pub about: &'static str,
    /// More for `--help`.
    pub details: &'static str,
    /// Tables of flags.
    pub flags: &'static [&'static [Flag]],
    /// How many arguments it takes.
    pub arity: Arity,
    /// Whether flags may follow the first argument; where they may not, they belong to the container's command.
    pub interspersed: bool,
    /// What it does.
    pub run: fn(Context, Parsed) -> Outcome,
}

/// How many arguments a command takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// None at all.
    None,
    /// So many.
    Exactly(usize),
    /// So many or more.
    AtLeast(usize),
    /// So many or fewer.
    AtMost(usize),
    /// Between the two.
    Between(usize, usize),
}

/// Whether a flag has a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On or off; off when absent.
    Switch,
    /// On or off; on when absent.
    SwitchOn,
    /// One value, the last given.
    One,
    /// As many values as are given.
    Many,
}

/// One flag.
pub struct Flag {
    /// Without its dashes.
    pub long: &'static str,
    /// Its letter.
    pub short: Option<char>,
    /// Whether it has a value.
    pub kind: Kind,
    /// What help calls its value.
    pub value: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What help says is the default.
    pub default: &'static str,
    /// Refuses values that cannot be meant, while it is still known which flag they were for.
    pub check: fn(&str) -> std::result::Result<(), String>,
    /// Docker has it, we have not yet.
    pub later: bool,
    /// Another name of this flag, which help does not show.
    pub alias_of: Option<&'static str>,
}

impl Flag {
    const fn new(long: &'static str, kind: Kind, value: &'static str, help: &'static str) -> Self {
        Self { long, short: None, kind, value, help, default: "", check: |_| Ok(()), later: false, alias_of: None }
    }

    /// A switch.
    pub const fn switch(long: &'static str, help: &'static str) -> Self {
        Self::new(long, Kind::Switch, "", help)
    }

    /// A switch that is on unless it is set to false.
    pub const fn switch_on(long: &'static str, help: &'static str) -> Self {
        Self { default: "true", ..Self::new(long, Kind::SwitchOn, "", help) }
    }

    /// A flag with one value.
    pub const fn one(long: &'static str, value: &'static str, help: &'static str) -> Self {
        Self::new(long, Kind::One, value, help)
    }

    /// A flag that may be given again and again.
    pub const fn many(long: &'static str, value: &'static str, help: &'static str) -> Self {
        Self::new(long, Kind::Many, value, help)
    }

    /// A flag of Docker that is refused for now; `value` is empty for a switch.
    pub const fn later(long: &'static str, value: &'static str) -> Self {
        let kind = if value.is_empty() { Kind::Switch } else { Kind::Many };
        Self { later: true, ..Self::new(long, kind, value, "") }
    }

    /// With a letter.
    #[must_use]
    pub const fn short(self, letter: char) -> Self {
        Self { short: Some(letter), ..self }
    }

    /// With a default that help shows.
    #[must_use]
    pub const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    /// With a check of each value.
    #[must_use]
    pub const fn check(self, check: fn(&str) -> std::result::Result<(), String>) -> Self {
        Self { check, ..self }
    }

    /// As another name of a flag.
    #[must_use]
    pub const fn alias_of(self, name: &'static str) -> Self {
        Self { alias_of: Some(name), ..self }
    }

    /// The flag as messages name it.
    pub fn display(&self) -> String {
        self.short.map_or_else(|| format!("--{}", self.long), |letter| format!("-{letter}, --{}", self.long))
    }
}

impl Command {
    /// A command without flags.
    pub const fn new(
        usage: &'static [&'static str],
        about: &'static str,
        arity: Arity,
        run: fn(Context, Parsed) -> Outcome,
    ) -> Self {
        Self { usage, about, details: "", flags: &[], arity, interspersed: true, run }
    }

    /// With tables of flags.
    #[must_use]
    pub const fn flags(self, flags: &'static [&'static [Flag]]) -> Self {
        Self { flags, ..self }
    }

    /// With more text for `--help`.
    #[must_use]
    pub const fn details(self, details: &'static str) -> Self {
        Self { details, ..self }
    }

    /// All flags after the first argument belong to the container's command.
    #[must_use]
    pub const fn flags_first(self) -> Self {
        Self { interspersed: false, ..self }
    }

    pub(crate) fn all_flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().flat_map(|table| table.iter())
    }
}

impl Arity {
    /// What is wrong with so many arguments.
    pub fn refuse(self, count: usize) -> Option<String> {
        let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
        match self {
            Self::None if count > 0 => Some("accepts no arguments".to_owned()),
            Self::Exactly(n) if count != n => Some(format!("requires {n} {}", plural(n))),
            Self::AtLeast(n) if count < n => Some(format!("requires at least {n} {}", plural(n))),
            Self::AtMost(n) if count > n => Some(format!("requires at most {n} {}", plural(n))),
            Self::Between(low, high) if count < low || count > high => {
                Some(format!("requires at least {low} and at most {high} {}", plural(high)))
            }
            _ => None,
        }
    }
}
