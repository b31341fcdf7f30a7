//! Words of a Dockerfile's line: where they end, and what quotes, backslashes and variables in them mean.

use crate::error::{Error, Result};

/// The words of a line, still quoted: blanks within quotes or behind a backslash separate nothing.
pub(super) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            blank if blank.is_whitespace() && quote.is_none() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            '\\' if quote != Some('\'') => {
                word.push(character);
                word.extend(characters.next());
                continue;
            }
            '\'' | '"' if quote.is_none() => quote = Some(character),
            end if quote == Some(end) => quote = None,
            _ => {}
        }
        word.push(character);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// What a text means: without its quotes, `$NAME`, `${NAME}`, `${NAME:-otherwise}` and `${NAME:+instead}` replaced.
///
/// # Errors
/// A quote or a brace that is not closed, and what else stands behind a name in braces.
pub(super) fn expand(text: &str, environment: &[String]) -> Result<String> {
    let mut expansion = Expansion { text, rest: text.chars().peekable(), environment };
    expansion.until(None)
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

struct Expansion<'a> {
    text: &'a str,
    rest: Rest<'a>,
    environment: &'a [String],
}

impl Expansion<'_> {
    fn invalid(&self, why: &str) -> Error {
        Error::invalid(format!("failed to process {:?}: {why}", self.text))
    }

    /// To the end of the text, or to `end`, which is taken.
    fn until(&mut self, end: Option<char>) -> Result<String> {
        let mut out = String::new();
        while let Some(character) = self.rest.next() {
            match character {
                _ if end == Some(character) => return Ok(out),
                '\'' => self.literal(&mut out)?,
                '"' => self.quoted(&mut out)?,
                '$' => out.push_str(&self.variable()?),
                // One at the very end of the text stands for nothing.
                '\\' => out.extend(self.rest.next()),
                other => out.push(other),
            }
        }
        match end {
            None => Ok(out),
            Some(_) => Err(self.invalid("a brace is not closed")),
        }
    }

    fn literal(&mut self, out: &mut String) -> Result<()> {
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(()),
                Some(other) => out.push(other),
                None => return Err(self.invalid("unexpected end of statement while looking for matching single-quote")),
            }
        }
    }

    fn quoted(&mut self, out: &mut String) -> Result<()> {
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('$') => out.push_str(&self.variable()?),
                // Elsewhere in quotes a backslash is only itself.
                Some('\\') => match self.rest.next_if(|next| matches!(next, '"' | '$' | '\\')) {
                    Some(escaped) => out.push(escaped),
                    None => out.push('\\'),
                },
                Some(other) => out.push(other),
                None => return Err(self.invalid("unexpected end of statement while looking for matching double-quote")),
            }
        }
    }

    /// What follows a `$`.
    fn variable(&mut self) -> Result<String> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { self.value(&name).unwrap_or_default() });
        }
        let name = self.name();
        if name.is_empty() {
            return Err(self.invalid("bad substitution"));
        }
        let value = self.value(&name);
        match (self.rest.next(), self.rest.peek()) {
            (Some('}'), _) => Ok(value.unwrap_or_default()),
            (Some(':'), Some('-' | '+')) => {
                let otherwise = self.rest.next() == Some('-');
                let word = self.until(Some('}'))?;
                Ok(match value.filter(|value| !value.is_empty()) {
                    Some(value) if otherwise => value,
                    None if !otherwise => String::new(),
                    _ => word,
                })
            }
            _ => Err(self.invalid("unsupported modifier in substitution")),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(next) = self
            .rest
            .next_if(|next| next.is_ascii_alphabetic() || *next == '_' || (next.is_ascii_digit() && !name.is_empty()))
        {
            name.push(next);
        }
        name
    }

    fn value(&self, name: &str) -> Option<String> {
        let mut pairs = self.environment.iter().filter_map(|pair| pair.split_once('='));
        pairs.rfind(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_quotes_and_behind_backslashes_separate_nothing() {
        assert_eq!(split(r#" a=1  b="x y" c=x\ y 'd e'=f "#), ["a=1", r#"b="x y""#, r"c=x\ y", "'d e'=f"]);
        assert_eq!(split(r#"a="it's" b='\' c"#), [r#"a="it's""#, r"b='\'", "c"]);
        assert!(split("  ").is_empty());
    }

    #[test]
    fn quotes_go_and_variables_become_their_values() {
        let environment = ["A=one", "B=", "P=/bin"].map(str::to_owned);
        for (text, meaning) in [
            ("plain", "plain"),
            (r#""x y"'z $A'"#, "x yz $A"),
            (r"\$A \x", "$A x"),
            (r#""\$A \x \"""#, r#"$A \x ""#),
            ("$A-${A}$NONE.$", "one-one.$"),
            (r#"${B:-"other word"} ${A:-no} ${A:+yes} ${B:+no}."#, "other word one yes ."),
            ("${NONE:-${A}}:$P", "one:/bin"),
        ] {
            assert_eq!(expand(text, &environment).unwrap(), meaning, "{text}");
        }
        for bad in ["'x", "\"x", "${A", "${}", "${A?x}", "${A:-x"] {
            assert!(expand(bad, &environment).is_err(), "{bad}");
        }
    }
}
