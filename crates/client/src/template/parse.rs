//! Words to a tree.

use super::functions;
use super::lex::{Kind, Token, lex};
use super::value::Value;

/// A part of a template.
#[derive(Debug, Clone)]
pub enum Node {
    Text(String),
    /// `{{pipeline}}`; a declaration prints nothing.
    Action(Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    Break,
    Continue,
}

/// Commands, each of which gets the value of the one before as its last argument.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// `$x :=`, `$i, $e :=`.
    pub names: Vec<String>,
    pub declares: bool,
    pub commands: Vec<Command>,
}

/// A value, or a function with arguments.
#[derive(Debug, Clone)]
pub struct Command {
    pub operands: Vec<Operand>,
    pub line: usize,
    pub column: usize,
    /// As it was written, for errors.
    pub text: String,
}

#[derive(Debug, Clone)]
pub struct Operand {
    pub base: Base,
    pub fields: Vec<String>,
    pub line: usize,
    /// Of the last field, where Go's errors point.
    pub column: usize,
    pub text: String,
}

#[derive(Debug, Clone)]
pub enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Function(String),
    Paren(Box<Pipeline>),
}

pub fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut parser = Parser { tokens: lex(text)?, at: 0, variables: vec![String::new()], loops: 0 };
    let (nodes, end) = parser.block()?;
    match end {
        Ending::Eof => Ok(nodes),
        Ending::End => Err(parser.fail("unexpected {{end}}")),
        Ending::Else(_) => Err(parser.fail("unexpected {{else}}")),
    }
}

/// What a block ended with.
enum Ending {
    Eof,
    End,
    /// `{{else}}`, `{{else if …}}`, `{{else with …}}`.
    Else(Option<String>),
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// Names in scope.
    variables: Vec<String>,
    loops: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn skip_space(&mut self) {
        while self.peek() == Some(&Kind::Space) {
            self.at += 1;
        }
    }

    fn fail(&self, message: impl std::fmt::Display) -> String {
        let token = self.tokens.get(self.at.saturating_sub(1)).or_else(|| self.tokens.last());
        format!("template: :{}: {message}", token.map_or(1, |token| token.line))
    }

    /// Nodes up to `end`, `else` or the end of the text.
    fn block(&mut self) -> Result<(Vec<Node>, Ending), String> {
        let mut nodes = Vec::new();
        while let Some(token) = self.next() {
            if let Kind::Text(text) = token.kind {
                nodes.push(Node::Text(text));
                continue;
            }
            self.skip_space();
            let keyword = match self.peek() {
                Some(Kind::Word(word)) => word.clone(),
                _ => String::new(),
            };
            match keyword.as_str() {
                "end" => {
                    self.at += 1;
                    self.close()?;
                    return Ok((nodes, Ending::End));
                }
                "else" => {
                    self.at += 1;
                    self.skip_space();
                    let then = match self.peek() {
                        Some(Kind::Word(word)) if word == "if" || word == "with" => Some(word.clone()),
                        _ => None,
                    };
                    if then.is_some() {
                        self.at += 1;
                    } else {
                        self.close()?;
                    }
                    return Ok((nodes, Ending::Else(then)));
                }
                "if" | "with" | "range" => {
                    self.at += 1;
                    nodes.push(self.control(&keyword)?);
                }
                "break" | "continue" if self.loops > 0 => {
                    self.at += 1;
                    self.close()?;
                    nodes.push(if keyword == "break" { Node::Break } else { Node::Continue });
                }
                "break" | "continue" => return Err(self.fail(format!("{{{{{keyword}}}}} outside {{{{range}}}}"))),
                "define" | "template" | "block" => return Err(self.fail(format!("{keyword} is not supported"))),
                _ => {
                    let pipeline = self.pipeline(false)?;
                    self.close()?;
                    nodes.push(Node::Action(pipeline));
                }
            }
        }
        Ok((nodes, Ending::Eof))
    }

    fn close(&mut self) -> Result<(), String> {
        self.skip_space();
        match self.next().map(|token| token.kind) {
            Some(Kind::Close) => Ok(()),
            Some(other) => Err(self.fail(format!("unexpected {} in operand", other.describe()))),
            None => Err(self.fail("unclosed action")),
        }
    }

    fn control(&mut self, keyword: &str) -> Result<Node, String> {
        let scope = self.variables.len();
        let pipeline = self.pipeline(keyword == "range")?;
        self.close()?;
        self.loops += usize::from(keyword == "range");
        let body = self.block();
        self.loops -= usize::from(keyword == "range");
        let (body, end) = body?;
        let otherwise = match end {
            Ending::Eof => return Err(self.fail("unexpected EOF")),
            Ending::End => Vec::new(),
            Ending::Else(Some(then)) => vec![self.control(&then)?],
            Ending::Else(None) => match self.block()? {
                (nodes, Ending::End) => nodes,
                (_, Ending::Eof) => return Err(self.fail("unexpected EOF")),
                (_, Ending::Else(_)) => return Err(self.fail("expected end; found {{else}}")),
            },
        };
        self.variables.truncate(scope);
        Ok(match keyword {
            "if" => Node::If(vec![(pipeline, body)], otherwise),
            "with" => Node::With(pipeline, body, otherwise),
            _ => Node::Range(pipeline, body, otherwise),
        })
    }

    /// Declarations and commands, up to what closes them.
    fn pipeline(&mut self, two_names: bool) -> Result<Pipeline, String> {
        self.skip_space();
        let start = self.at;
        let (names, declares) = match self.names(two_names) {
            Some(found) => found,
            None => {
                self.at = start;
                (Vec::new(), false)
            }
        };
        let mut commands = Vec::new();
        loop {
            commands.push(self.command()?);
            self.skip_space();
            if self.peek() != Some(&Kind::Pipe) {
                break;
            }
            self.at += 1;
        }
        for name in &names {
            if declares {
                self.variables.push(name.clone());
            } else if !self.variables.contains(name) {
                return Err(self.fail(format!("undefined variable \"${name}\"")));
            }
        }
        Ok(Pipeline { names, declares, commands })
    }

    fn names(&mut self, two: bool) -> Option<(Vec<String>, bool)> {
        let mut names = Vec::new();
        loop {
            self.skip_space();
            let Kind::Variable(name) = self.next()?.kind else { return None };
            names.push(name);
            self.skip_space();
            match self.next()?.kind {
                Kind::Declare => return Some((names, true)),
                Kind::Assign => return Some((names, false)),
                Kind::Comma if two && names.len() == 1 => {}
                _ => return None,
            }
        }
    }

    fn command(&mut self) -> Result<Command, String> {
        self.skip_space();
        let (line, column) = self.tokens.get(self.at).map_or((1, 0), |token| (token.line, token.column));
        let mut operands: Vec<Operand> = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                None => return Err(self.fail("unclosed action")),
                Some(Kind::Close | Kind::Pipe | Kind::RightParen) => break,
                Some(_) => operands.push(self.operand()?),
            }
        }
        if operands.is_empty() {
            return Err(self.fail("missing value for command"));
        }
        let text = operands.iter().map(|operand| operand.text.as_str()).collect::<Vec<_>>().join(" ");
        Ok(Command { operands, line, column, text })
    }

    fn operand(&mut self) -> Result<Operand, String> {
        let token = self.next().ok_or_else(|| self.fail("unclosed action"))?;
        let Token { line, mut column, .. } = token;
        let mut fields = Vec::new();
        let (base, mut text) = match token.kind {
            Kind::Dot => (Base::Dot, ".".to_owned()),
            Kind::Field(name) => {
                fields.push(name.clone());
                (Base::Dot, format!(".{name}"))
            }
            Kind::Variable(name) => {
                if !self.variables.contains(&name) {
                    return Err(self.fail(format!("undefined variable \"${name}\"")));
                }
                let text = format!("${name}");
                (Base::Variable(name), text)
            }
            Kind::Quoted(text) => {
                let shown = format!("{text:?}");
                (Base::Literal(Value::Text(text)), shown)
            }
            Kind::Int(number) => (Base::Literal(Value::Int(number)), number.to_string()),
            Kind::Float(number) => (Base::Literal(Value::Float(number)), number.to_string()),
            Kind::Word(word) => match word.as_str() {
                "true" | "false" => (Base::Literal(Value::Bool(word == "true")), word),
                "nil" => (Base::Literal(Value::Null), word),
                _ if functions::exists(&word) => (Base::Function(word.clone()), word),
                _ => return Err(self.fail(format!("function {word:?} not defined"))),
            },
            Kind::LeftParen => {
                let pipeline = self.pipeline(false)?;
                self.skip_space();
                if self.next().map(|token| token.kind) != Some(Kind::RightParen) {
                    return Err(self.fail("unclosed left paren"));
                }
                let inner: Vec<_> = pipeline.commands.iter().map(|command| command.text.as_str()).collect();
                let text = format!("({})", inner.join(" | "));
                (Base::Paren(Box::new(pipeline)), text)
            }
            other => return Err(self.fail(format!("unexpected {} in operand", other.describe()))),
        };
        while let Some(Token { kind: Kind::Field(name), column: at, .. }) = self.tokens.get(self.at) {
            text.push('.');
            text.push_str(name);
            fields.push(name.clone());
            column = *at;
            self.at += 1;
        }
        Ok(Operand { base, fields, line, column, text })
    }
}

impl Kind {
    fn describe(&self) -> String {
        match self {
            Self::Text(text) | Self::Word(text) => format!("{text:?}"),
            Self::Quoted(text) => format!("{text:?}"),
            Self::Field(name) => format!("<.{name}>"),
            Self::Variable(name) => format!("\"${name}\""),
            Self::Int(number) => format!("\"{number}\""),
            Self::Float(number) => format!("\"{number}\""),
            Self::Open => "\"{{\"".to_owned(),
            Self::Close => "\"}}\"".to_owned(),
            Self::Dot => "<.>".to_owned(),
            Self::Pipe => "\"|\"".to_owned(),
            Self::Comma => "\",\"".to_owned(),
            Self::Declare => "\":=\"".to_owned(),
            Self::Assign => "\"=\"".to_owned(),
            Self::LeftParen => "\"(\"".to_owned(),
            Self::RightParen => "\")\"".to_owned(),
            Self::Space => "\" \"".to_owned(),
        }
    }
}
