//! JSON for people: the daemon's document with its keys in their order, indented by four blanks.

use crate::template::Value;

const STEP: &str = "    ";

/// Indented, without a line end. `prefix` stands before each line but the first.
pub fn indent(value: &Value, prefix: &str, out: &mut String) {
    let inner = format!("{prefix}{STEP}");
    match value {
        Value::List(list) if !list.is_empty() => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                out.push_str(if index > 0 { ",\n" } else { "\n" });
                out.push_str(&inner);
                indent(item, &inner, out);
            }
            out.push('\n');
            out.push_str(prefix);
            out.push(']');
        }
        Value::Map(pairs) if !pairs.is_empty() => {
            out.push('{');
            for (index, (key, item)) in pairs.iter().enumerate() {
                out.push_str(if index > 0 { ",\n" } else { "\n" });
                out.push_str(&inner);
                out.push_str(&Value::from(key.as_str()).to_json());
                out.push_str(": ");
                indent(item, &inner, out);
            }
            out.push('\n');
            out.push_str(prefix);
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_json()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_in_their_order_and_empty_things_on_their_line() {
        let value: Value = serde_json::from_str(r#"[{"b":1,"a":[],"c":{"d":["<x>",null]}}]"#).unwrap();
        let mut out = String::new();
        indent(&value, "", &mut out);
        assert_eq!(
            out,
            "[\n    {\n        \"b\": 1,\n        \"a\": [],\n        \"c\": {\n            \"d\": [\n                \"<x>\",\n                null\n            ]\n        }\n    }\n]"
        );
    }
}
