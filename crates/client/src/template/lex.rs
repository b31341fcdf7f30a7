//! Text and actions, and the words inside actions.

/// A word of an action, and the column at which it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub kind: Kind,
    pub line: usize,
    /// Bytes since the line's beginning.
    pub column: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Between actions.
    Text(String),
    /// `{{`.
    Open,
    /// `}}`.
    Close,
    /// `.Name`.
    Field(String),
    /// `.` alone.
    Dot,
    /// `$` or `$name`.
    Variable(String),
    /// A function or a keyword.
    Word(String),
    /// A string.
    Quoted(String),
    Int(i64),
    Float(f64),
    Pipe,
    Comma,
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
    LeftParen,
    RightParen,
    /// Between the parts of a command.
    Space,
}

/// All words of a template.
pub fn lex(text: &str) -> Result<Vec<Token>, String> {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new() };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn place(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        (line, at - before.rfind('\n').map_or(0, |newline| newline + 1))
    }

    fn push(&mut self, at: usize, kind: Kind) {
        let (line, column) = self.place(at);
        self.tokens.push(Token { kind, line, column });
    }

    fn fail(&self, message: impl std::fmt::Display) -> String {
        format!("template: :{}: {message}", self.place(self.at).0)
    }

    fn run(&mut self) -> Result<(), String> {
        let mut trim_next = false;
        while self.at < self.text.len() {
            let start = self.at;
            let end = self.rest().find("{{").map_or(self.text.len(), |open| start + open);
            let mut plain = &self.text[start..end];
            if std::mem::take(&mut trim_next) {
                plain = plain.trim_start();
            }
            let after = &self.text[end..];
            let trims = after.len() > 3 && after.as_bytes()[2] == b'-' && after.as_bytes()[3].is_ascii_whitespace();
            if trims {
                plain = plain.trim_end();
            }
            if !plain.is_empty() {
                let plain = plain.to_owned();
                self.push(start, Kind::Text(plain));
            }
            self.at = end;
            if end == self.text.len() {
                return Ok(());
            }
            self.at += if trims { 3 } else { 2 };
            trim_next = self.action(end)?;
        }
        Ok(())
    }

    /// One action to its end; true when it trims what follows.
    fn action(&mut self, open: usize) -> Result<bool, String> {
        if self.rest().trim_start().starts_with("/*") {
            let Some(end) = self.rest().find("*/") else { return Err(self.fail("unclosed comment")) };
            self.at += end + 2;
            let rest = self.rest();
            let trimmed = rest.trim_start();
            let close = if trimmed.starts_with("-}}") && trimmed.len() < rest.len() { 3 } else { 2 };
            if !trimmed.starts_with(if close == 3 { "-}}" } else { "}}" }) {
                return Err(self.fail("comment ends before closing delimiter"));
            }
            self.at += rest.len() - trimmed.len() + close;
            return Ok(close == 3);
        }
        self.push(open, Kind::Open);
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            let space = rest.len() - trimmed.len();
            if space > 0 && trimmed.starts_with("-}}") {
                self.at += space;
                self.push(self.at, Kind::Close);
                self.at += 3;
                return Ok(true);
            }
            if space > 0 {
                self.push(self.at, Kind::Space);
                self.at += space;
            }
            if self.rest().starts_with("}}") {
                self.push(self.at, Kind::Close);
                self.at += 2;
                return Ok(false);
            }
            self.word()?;
        }
    }

    fn word(&mut self) -> Result<(), String> {
        let start = self.at;
        let Some(first) = self.rest().chars().next() else { return Err(self.fail("unclosed action")) };
        let kind = match first {
            '|' => self.take(1, Kind::Pipe),
            ',' => self.take(1, Kind::Comma),
            '(' => self.take(1, Kind::LeftParen),
            ')' => self.take(1, Kind::RightParen),
            ':' if self.rest().starts_with(":=") => self.take(2, Kind::Declare),
            '=' => self.take(1, Kind::Assign),
            '"' => self.quoted()?,
            '`' => self.raw()?,
            '.' if !self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let name = self.name(1);
                if name.is_empty() { Kind::Dot } else { Kind::Field(name) }
            }
            '$' => Kind::Variable(self.name(1)),
            '+' | '-' | '.' | '0'..='9' => self.number()?,
            '\'' => self.character()?,
            letter if letter.is_alphabetic() || letter == '_' => Kind::Word(self.name(0)),
            other => return Err(self.fail(format!("unexpected {other:?} in command"))),
        };
        self.push(start, kind);
        Ok(())
    }

    const fn take(&mut self, length: usize, kind: Kind) -> Kind {
        self.at += length;
        kind
    }

    fn name(&mut self, skip: usize) -> String {
        let rest = &self.rest()[skip..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        self.at += skip + end;
        name
    }

    fn number(&mut self) -> Result<Kind, String> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_')))
            .unwrap_or(rest.len());
        let text = rest[..end].to_owned();
        let kind = match (text.parse(), text.parse()) {
            (Ok(number), _) => Kind::Int(number),
            (_, Ok(number)) => Kind::Float(number),
            _ => return Err(self.fail(format!("bad number syntax: {text:?}"))),
        };
        self.at += end;
        Ok(kind)
    }

    fn raw(&mut self) -> Result<Kind, String> {
        let Some(end) = self.rest()[1..].find('`') else { return Err(self.fail("unterminated raw quoted string")) };
        let text = self.rest()[1..=end].to_owned();
        self.at += end + 2;
        Ok(Kind::Quoted(text))
    }

    fn character(&mut self) -> Result<Kind, String> {
        let mut letters = self.rest()[1..].chars();
        match (letters.next(), letters.next()) {
            (Some(letter), Some('\'')) => {
                self.at += 2 + letter.len_utf8();
                Ok(Kind::Int(i64::from(u32::from(letter))))
            }
            _ => Err(self.fail("unterminated character constant")),
        }
    }

    fn quoted(&mut self) -> Result<Kind, String> {
        let mut text = String::new();
        let mut letters = self.rest()[1..].char_indices();
        while let Some((index, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.at += index + 2;
                    return Ok(Kind::Quoted(text));
                }
                '\n' => break,
                '\\' => match letters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, kind @ ('u' | 'x'))) => {
                        let digits = if kind == 'u' { 4 } else { 2 };
                        let hex: String = letters.by_ref().take(digits).map(|(_, letter)| letter).collect();
                        let letter = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                        text.push(letter.ok_or_else(|| self.fail("bad escape in quoted string"))?);
                    }
                    Some((_, letter)) => text.push(letter),
                    None => break,
                },
                letter => text.push(letter),
            }
        }
        Err(self.fail("unterminated quoted string"))
    }
}
