//! A tree and a value to text.

use super::Missing;
use super::functions;
use super::parse::{Base, Command, Node, Operand, Pipeline};
use super::value::Value;

/// How a list of nodes ended.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

pub fn execute(nodes: &[Node], root: &Value, missing: Missing) -> Result<String, String> {
    let mut run = Run { out: String::new(), variables: vec![(String::new(), root.clone())], missing };
    run.nodes(nodes, root)?;
    Ok(run.out)
}

struct Run {
    out: String,
    variables: Vec<(String, Value)>,
    missing: Missing,
}

impl Run {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        let scope = self.variables.len();
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                self.variables.truncate(scope);
                return Ok(flow);
            }
        }
        self.variables.truncate(scope);
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.names.is_empty() {
                    self.out.push_str(&value.to_string());
                }
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::If(branches, otherwise) => {
                let scope = self.variables.len();
                let mut flow = None;
                for (condition, body) in branches {
                    if self.pipeline(condition, dot)?.is_true() {
                        flow = Some(self.nodes(body, dot)?);
                        break;
                    }
                }
                let flow = match flow {
                    Some(flow) => flow,
                    None => self.nodes(otherwise, dot)?,
                };
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::With(pipeline, body, otherwise) => {
                let scope = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                let flow = if value.is_true() { self.nodes(body, &value)? } else { self.nodes(otherwise, dot)? };
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::Range(pipeline, body, otherwise) => return self.range(pipeline, body, otherwise, dot),
        }
        Ok(Flow::On)
    }

    fn range(&mut self, pipeline: &Pipeline, body: &[Node], otherwise: &[Node], dot: &Value) -> Result<Flow, String> {
        let scope = self.variables.len();
        let value = self.commands(pipeline, dot)?;
        let items: Vec<(Value, Value)> = match value {
            Value::List(list) => list.into_iter().enumerate().map(|(index, item)| (number(index), item)).collect(),
            Value::Map(mut pairs) => {
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
                pairs.into_iter().map(|(key, item)| (Value::Text(key), item)).collect()
            }
            Value::Int(count) => (0..count).map(|index| (Value::Int(index), Value::Int(index))).collect(),
            Value::Null => Vec::new(),
            other => {
                let place = pipeline.commands.first().map(place).unwrap_or_default();
                return Err(format!("{place}range can't iterate over {other}"));
            }
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in items {
            match pipeline.names.as_slice() {
                [] => {}
                [element] => self.set(element, item.clone(), pipeline.declares),
                [index, element, ..] => {
                    self.set(index, key, pipeline.declares);
                    self.set(element, item.clone(), pipeline.declares);
                }
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn set(&mut self, name: &str, value: Value, declares: bool) {
        if !declares && let Some(slot) = self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            slot.1 = value;
            return;
        }
        self.variables.push((name.to_owned(), value));
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.names {
            self.set(name, value.clone(), pipeline.declares);
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, dot, piped)?);
        }
        Ok(piped.unwrap_or_default())
    }

    fn command(&mut self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Value, String> {
        let (first, rest) = command.operands.split_first().expect("the parser makes none without operands");
        if let Base::Function(name) = &first.base {
            if matches!(name.as_str(), "and" | "or") {
                return self.short_circuit(name == "and", rest, dot, piped, command);
            }
            let mut arguments = Vec::with_capacity(rest.len() + 1);
            for operand in rest {
                arguments.push(self.operand(operand, dot)?);
            }
            arguments.extend(piped);
            let value = functions::call(name, &arguments)
                .map_err(|reason| format!("{}error calling {name}: {reason}", place(command)))?;
            return self.fields(value, first);
        }
        let mut arguments = Vec::new();
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        let value = self.operand(first, dot)?;
        // A method that takes a key, such as `.Label "x"`: a look-up here.
        match (arguments.as_slice(), &value) {
            ([], _) => Ok(value),
            ([Value::Text(key)], Value::Map(_)) if !first.fields.is_empty() => {
                Ok(value.get(key).cloned().unwrap_or_else(|| Value::from("")))
            }
            _ => Err(format!("{}can't give argument to non-function {}", place(command), first.text)),
        }
    }

    fn short_circuit(
        &mut self,
        and: bool,
        rest: &[Operand],
        dot: &Value,
        piped: Option<Value>,
        command: &Command,
    ) -> Result<Value, String> {
        let mut last = None;
        for operand in rest {
            let value = self.operand(operand, dot)?;
            if value.is_true() != and {
                return Ok(value);
            }
            last = Some(value);
        }
        let name = if and { "and" } else { "or" };
        piped
            .or(last)
            .ok_or_else(|| format!("{}wrong number of args for {name}: want at least 1 got 0", place(command)))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        let base = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Literal(value) => value.clone(),
            Base::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                known.map(|(_, value)| value.clone()).unwrap_or_default()
            }
            Base::Paren(pipeline) => self.pipeline(pipeline, dot)?,
            Base::Function(name) => functions::call(name, &[])
                .map_err(|reason| format!("{}error calling {name}: {reason}", place_of(operand)))?,
        };
        self.fields(base, operand)
    }

    fn fields(&self, mut value: Value, operand: &Operand) -> Result<Value, String> {
        for name in &operand.fields {
            value = match value {
                Value::Map(_) => match value.get(name) {
                    Some(value) => value.clone(),
                    None if self.missing == Missing::NoValue => Value::Null,
                    None => return Err(format!("{}map has no entry for key {name:?}", place_of(operand))),
                },
                Value::Null if self.missing == Missing::NoValue => Value::Null,
                Value::Null => {
                    let place = place_of(operand);
                    return Err(format!("{place}nil pointer evaluating interface {{}}.{name}"));
                }
                _ => {
                    let place = place_of(operand);
                    return Err(format!("{place}can't evaluate field {name} in type interface {{}}"));
                }
            };
        }
        Ok(value)
    }
}

fn number(index: usize) -> Value {
    Value::Int(i64::try_from(index).unwrap_or(i64::MAX))
}

fn place(command: &Command) -> String {
    format!("template: :{}:{}: executing \"\" at <{}>: ", command.line, command.column, command.text)
}

fn place_of(operand: &Operand) -> String {
    format!("template: :{}:{}: executing \"\" at <{}>: ", operand.line, operand.column, operand.text)
}
