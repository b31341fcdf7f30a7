//! Words of a Dockerfile's line: where they end, and what quotes, backslashes and variables in them mean.

use super::variables::Variables;
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

/// Substitutions within each other's words that are read: a person writes two or three, and each takes some stack.
const DEPTH: usize = 32;

/// What a text means: without its quotes, `$NAME`, `${NAME}`, `${NAME:-otherwise}`, `${NAME:+instead}` and `${NAME:?why}`
/// replaced. Without the colon a variable that is empty counts as well.
///
/// # Errors
/// A quote or a brace that is not closed, what else stands behind a name in braces, a variable that must be there and is
/// not, and what becomes too large.
pub(super) fn expand(text: &str, variables: &Variables) -> Result<String> {
    let mut expansion = Expansion { text, rest: text.chars().peekable(), variables, depth: 0 };
    expansion.until(None)
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

struct Expansion<'a> {
    text: &'a str,
    rest: Rest<'a>,
    variables: &'a Variables,
    depth: usize,
}

impl Expansion<'_> {
    fn invalid(&self, why: &str) -> Error {
        // Who sends much need not get it back.
        let text: String = self.text.chars().take(200).collect();
        Error::invalid(format!("failed to process {text:?}: {why}"))
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
            Some(_) => Err(self.invalid("syntax error: missing '}'")),
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
            return if name.is_empty() { Ok("$".to_owned()) } else { self.value(&name).map(Option::unwrap_or_default) };
        }
        if self.rest.next_if(|next| matches!(next, '{' | '}' | ':')).is_some() {
            return Err(self.invalid("syntax error: bad substitution"));
        }
        let name = self.name();
        let value = self.value(&name)?;
        let (null_counts, modifier) = match self.rest.next() {
            Some('}') => return Ok(value.unwrap_or_default()),
            Some(':') => (false, self.rest.next()),
            other => (true, other),
        };
        let Some(modifier) = modifier else { return Err(self.invalid("syntax error: missing '}'")) };
        if !matches!(modifier, '-' | '+' | '?') {
            return Err(self.invalid(&format!("unsupported modifier ({modifier}) in substitution")));
        }
        let word = self.word()?;
        let found = value.filter(|value| null_counts || !value.is_empty());
        match (modifier, found) {
            ('-', found) => Ok(found.unwrap_or(word)),
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) => {
                let usual = if null_counts { "is not allowed to be unset" } else { "is not allowed to be empty" };
                let why = if word.is_empty() { usual } else { &word };
                Err(self.invalid(&format!("{name}: {why}")))
            }
        }
    }

    /// The word of a substitution, to its brace.
    fn word(&mut self) -> Result<String> {
        if self.depth == DEPTH {
            return Err(self.invalid(&format!("more than {DEPTH} substitutions within each other")));
        }
        self.depth += 1;
        let word = self.until(Some('}'))?;
        self.depth -= 1;
        Ok(word)
    }

    /// A word, a number, or one of the characters that a shell has for what it knows of itself.
    fn name(&mut self) -> String {
        let special = |next: &char| matches!(next, '@' | '*' | '#' | '?' | '-' | '$' | '!');
        if let Some(special) = self.rest.next_if(special) {
            return special.to_string();
        }
        let is_number = self.rest.peek().is_some_and(char::is_ascii_digit);
        let belongs =
            |next: &char| if is_number { next.is_ascii_digit() } else { next.is_alphanumeric() || *next == '_' };
        let mut name = String::new();
        while let Some(next) = self.rest.next_if(belongs) {
            name.push(next);
        }
        name
    }

    fn value(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = self.variables.get(name) else { return Ok(None) };
        self.variables.spend(value.len())?;
        Ok(Some(value.to_owned()))
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

    fn variables(pairs: &[&str]) -> Variables {
        Variables::new(pairs.iter().map(|pair| (*pair).to_owned()).collect())
    }

    #[test]
    fn quotes_go_and_variables_become_their_values() {
        let variables = variables(&["A=one", "B=", "P=/bin"]);
        for (text, meaning) in [
            ("plain", "plain"),
            (r#""x y"'z $A'"#, "x yz $A"),
            (r"\$A \x", "$A x"),
            (r#""\$A \x \"""#, r#"$A \x ""#),
            ("$A-${A}$NONE.$", "one-one.$"),
            (r#"${B:-"other word"} ${A:-no} ${A:+yes} ${B:+no}."#, "other word one yes ."),
            ("${B-no}.${NONE-yes} ${A-no} ${B+yes} ${NONE+no}.", ".yes one yes ."),
            ("${A:?why} ${A?why} ${B?why}.", "one one ."),
            ("${NONE:-${A}}:$P", "one:/bin"),
            // What a shell knows of itself is nothing here.
            ("a$5b $12c $$d $?e $@f $#g ${5}h ${$}i", "ab c d e f g h i"),
        ] {
            assert_eq!(expand(text, &variables).unwrap(), meaning, "{text}");
        }
        for bad in ["'x", "\"x", "${A", "${}", "${A~x}", "${A:x}", "${A:-x", "${A:", "${:-x}"] {
            assert!(expand(bad, &variables).is_err(), "{bad}");
        }
        for (text, why) in
            [("${B:?say it}", "B: say it"), ("${NONE?}", "NONE: is not allowed to be unset"), ("${B:?}", "be empty")]
        {
            let error = expand(text, &variables).unwrap_err();
            assert!(error.message.ends_with(why), "{error}");
        }
    }

    #[test]
    fn substitutions_within_each_other_end_where_no_person_writes_them_any_more() {
        let variables = variables(&["A=one"]);
        let nested = |depth: usize| format!("{}x{}", "${NONE:-".repeat(depth), "}".repeat(depth));
        assert_eq!(expand(&nested(DEPTH), &variables).unwrap(), "x");
        for deep in [nested(DEPTH + 1), nested(100_000), "\"${A:-".repeat(100_000)] {
            let error = expand(&deep, &variables).unwrap_err();
            assert!(error.message.contains("32 substitutions") && error.message.len() < 400, "{error}");
        }
    }
}
