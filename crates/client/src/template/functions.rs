//! The functions that templates can call: Go's and those that Docker adds.

use std::cmp::Ordering;
use std::fmt::Write as _;

use super::value::Value;

const NAMES: &[&str] = &[
    "and", "eq", "ge", "gt", "html", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not", "or", "pad",
    "print", "printf", "println", "slice", "split", "title", "truncate", "upper", "urlquery",
];

/// Whether there is such a function.
pub fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls it.
pub fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    match (name, arguments) {
        ("json", [value]) => Ok(Value::Text(value.to_json())),
        ("len", [value]) => length(value),
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| index(&value, key)),
        ("slice", [value, bounds @ ..]) if bounds.len() < 3 => slice(value, bounds),
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("eq", [first, others @ ..]) if !others.is_empty() => others
            .iter()
            .try_fold(false, |found, other| Ok(found || compare(first, other)? == Ordering::Equal))
            .map(Value::Bool),
        ("ne", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Equal)),
        ("lt", [a, b]) => Ok(Value::Bool(compare(a, b)? == Ordering::Less)),
        ("le", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Greater)),
        ("gt", [a, b]) => Ok(Value::Bool(compare(a, b)? == Ordering::Greater)),
        ("ge", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Less)),
        ("upper", [Value::Text(text)]) => Ok(text.to_uppercase().into()),
        ("lower", [Value::Text(text)]) => Ok(text.to_lowercase().into()),
        ("title", [Value::Text(text)]) => Ok(title(text).into()),
        ("split", [Value::Text(text), Value::Text(separator)]) => {
            Ok(Value::List(text.split(separator.as_str()).map(Value::from).collect()))
        }
        ("join", [Value::List(list), Value::Text(separator)]) => {
            Ok(list.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator).into())
        }
        ("join", [Value::Null, _]) => Ok("".into()),
        ("truncate", [Value::Text(text), Value::Int(limit)]) => {
            Ok(text.chars().take(usize::try_from(*limit).unwrap_or(0)).collect::<String>().into())
        }
        ("pad", [Value::Text(text), Value::Int(before), Value::Int(after)]) if text.is_empty() => {
            let _ = (before, after);
            Ok(text.as_str().into())
        }
        ("pad", [Value::Text(text), Value::Int(before), Value::Int(after)]) => {
            let blanks = |count: &i64| " ".repeat(usize::try_from(*count).unwrap_or(0).min(1000));
            Ok(format!("{}{text}{}", blanks(before), blanks(after)).into())
        }
        ("print", values) => Ok(print(values).into()),
        ("println", values) => {
            let words: Vec<_> = values.iter().map(shown).collect();
            Ok(format!("{}\n", words.join(" ")).into())
        }
        ("printf", [Value::Text(format), values @ ..]) => Ok(printf(format, values).into()),
        ("html" | "urlquery", values) => Ok(print(values).into()),
        (_, values) => {
            let kinds: Vec<_> = values.iter().map(Value::kind).collect();
            Err(format!("wrong number or type of arguments: ({})", kinds.join(", ")))
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        value => value.to_string(),
    }
}

/// Go's `Sprint`: blanks between operands when neither is a string.
fn print(values: &[Value]) -> String {
    let mut text = String::new();
    for (position, value) in values.iter().enumerate() {
        let blank = position > 0 && value.as_text().is_none() && values[position - 1].as_text().is_none();
        if blank {
            text.push(' ');
        }
        text.push_str(&shown(value));
    }
    text
}

fn length(value: &Value) -> Result<Value, String> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        Value::Map(pairs) => pairs.len(),
        // A list that JSON wrote as null.
        Value::Null => 0,
        other => return Err(format!("len of type {}", other.kind())),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index(value: &Value, key: &Value) -> Result<Value, String> {
    match (value, key) {
        (Value::List(list), Value::Int(position)) => usize::try_from(*position)
            .ok()
            .and_then(|position| list.get(position).cloned())
            .ok_or_else(|| "reflect: slice index out of range".to_owned()),
        (Value::Text(text), Value::Int(position)) => usize::try_from(*position)
            .ok()
            .and_then(|position| text.as_bytes().get(position))
            .map(|byte| Value::Int(i64::from(*byte)))
            .ok_or_else(|| "reflect: string index out of range".to_owned()),
        (Value::Map(_), Value::Text(key)) => Ok(value.get(key).cloned().unwrap_or_default()),
        (Value::Null, _) => Err("index of untyped nil".to_owned()),
        (Value::List(_) | Value::Text(_), key) => Err(format!("cannot index slice/array with type {}", key.kind())),
        (Value::Map(_), key) => Err(format!("value has type {}; should be string", key.kind())),
        (other, _) => Err(format!("can't index item of type {}", other.kind())),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(list) => list.len(),
        other => return Err(format!("can't slice item of type {}", other.kind())),
    };
    let bound = |position: usize, default: usize| match bounds.get(position) {
        None => Ok(default),
        Some(Value::Int(bound)) if usize::try_from(*bound).is_ok_and(|bound| bound <= length) => {
            Ok(usize::try_from(*bound).unwrap_or(default))
        }
        Some(Value::Int(bound)) => Err(format!("index out of range: {bound}")),
        Some(other) => Err(format!("cannot index slice/array with type {}", other.kind())),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    match value {
        Value::Text(text) => text.get(from..to).map(Value::from).ok_or_else(|| "slice inside a character".to_owned()),
        Value::List(list) => Ok(Value::List(list[from..to].to_vec())),
        _ => Ok(Value::Null),
    }
}

#[allow(clippy::cast_precision_loss, reason = "as Go compares a number from JSON")]
fn compare(a: &Value, b: &Value) -> Result<Ordering, String> {
    let different = || "incompatible types for comparison".to_owned();
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b).ok_or_else(different),
        (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)).ok_or_else(different),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).ok_or_else(different),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::Null, Value::Null) => Ok(Ordering::Equal),
        (Value::Null, _) | (_, Value::Null) => Ok(Ordering::Less),
        _ => Err(different()),
    }
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for letter in text.chars() {
        if begins {
            out.extend(letter.to_uppercase());
        } else {
            out.push(letter);
        }
        begins = letter.is_whitespace();
    }
    out
}

/// `%s %d %v %q %t %f %x %%` with flags, width and precision.
fn printf(format: &str, values: &[Value]) -> String {
    let mut out = String::new();
    let mut values = values.iter();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = letters.next_if(|letter| matches!(letter, '-' | '0' | '+' | '#' | ' ')) {
            spec.left |= flag == '-';
            spec.zero |= flag == '0';
            spec.plus |= flag == '+';
        }
        spec.width = digits(&mut letters).unwrap_or(0);
        if letters.next_if_eq(&'.').is_some() {
            spec.precision = Some(digits(&mut letters).unwrap_or(0));
        }
        match letters.next() {
            Some('%') => out.push('%'),
            None => out.push_str("%!(NOVERB)"),
            Some(verb) => match values.next() {
                Some(value) => spec.write(verb, value, &mut out),
                None => _ = write!(out, "%!{verb}(MISSING)"),
            },
        }
    }
    let extra: Vec<_> = values.map(|value| format!("{}={}", value.kind(), shown(value))).collect();
    if !extra.is_empty() {
        let _ = write!(out, "%!(EXTRA {})", extra.join(", "));
    }
    out
}

fn digits(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut number = None;
    while let Some(digit) = letters.next_if(char::is_ascii_digit) {
        let digit = digit.to_digit(10).unwrap_or(0) as usize;
        number = Some((number.unwrap_or(0) * 10 + digit).min(10_000));
    }
    number
}

#[derive(Default)]
struct Spec {
    left: bool,
    zero: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

impl Spec {
    #[allow(clippy::cast_precision_loss, reason = "a number that is printed as a float")]
    fn write(&self, verb: char, value: &Value, out: &mut String) {
        let text = match (verb, value) {
            ('s' | 'v', value) => {
                let text = shown(value);
                self.precision.filter(|_| verb == 's').map_or(text.clone(), |limit| text.chars().take(limit).collect())
            }
            ('q', Value::Text(text)) => format!("{text:?}"),
            ('d', Value::Int(number)) if self.plus => format!("{number:+}"),
            ('d', Value::Int(number)) => number.to_string(),
            ('x', Value::Int(number)) => format!("{number:x}"),
            ('x', Value::Text(text)) => text.bytes().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            }),
            ('t', Value::Bool(on)) => on.to_string(),
            ('f', Value::Float(number)) => format!("{number:.*}", self.precision.unwrap_or(6)),
            ('f', Value::Int(number)) => format!("{:.*}", self.precision.unwrap_or(6), *number as f64),
            (verb, value) => format!("%!{verb}({}={})", value.kind(), shown(value)),
        };
        let blanks = self.width.saturating_sub(text.chars().count());
        let fill = |symbol: &str| symbol.repeat(blanks);
        if self.left {
            out.push_str(&text);
            out.push_str(&fill(" "));
        } else if self.zero && matches!(value, Value::Int(_) | Value::Float(_)) {
            let (sign, number) = text.strip_prefix('-').map_or(("", text.as_str()), |number| ("-", number));
            out.push_str(sign);
            out.push_str(&fill("0"));
            out.push_str(number);
        } else {
            out.push_str(&fill(" "));
            out.push_str(&text);
        }
    }
}
