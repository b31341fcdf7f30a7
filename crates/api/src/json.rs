//! JSON as Go reads it, because every client was written against Go: keys match whatever their case, `null` is the same
//! as absent, unknown keys are ignored.
//!
//! Types that come in requests derive `Deserialize` with `#[serde(default)]` and are read with [`from_slice`].

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// A body that is not what the endpoint wants.
pub type Error = serde_json::Error;

/// Reads a document the way Go does.
///
/// # Errors
/// The position and reason of a syntax error, or the value that has the wrong type.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    from_value(serde_json::from_slice(bytes)?)
}

/// Reads an already parsed document the way Go does.
///
/// # Errors
/// The value that has the wrong type.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(Go(value))
}

/// A list that may be written as one string (`"Cmd": "echo hi"`), as Docker's `strslice` reads it.
pub mod string_or_list {
    use serde::{Deserialize, Deserializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<String>),
        One(String),
    }

    /// For `#[serde(deserialize_with)]`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
        Ok(Option::<Either>::deserialize(from)?.map(|either| match either {
            Either::List(list) => list,
            Either::One(one) => vec![one],
        }))
    }
}

struct Go(Value);

impl<'de> IntoDeserializer<'de, Error> for Go {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

/// The field that Go would put `key` into: the exact name, else the one that differs in case only.
fn field_for(fields: &'static [&'static str], key: &str) -> Option<&'static str> {
    let exact = fields.iter().find(|field| **field == key);
    exact.or_else(|| fields.iter().find(|field| field.eq_ignore_ascii_case(key))).copied()
}

impl<'de> serde::Deserializer<'de> for Go {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Go))),
            Value::Object(map) => {
                visitor.visit_map(MapDeserializer::new(map.into_iter().map(|(key, value)| (key, Go(value)))))
            }
            scalar => serde::Deserializer::deserialize_any(scalar, visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_map(MapDeserializer::new(std::iter::empty::<(&str, Go)>())),
            Value::Object(map) => {
                let mut known: Vec<(&'static str, Go)> = Vec::with_capacity(map.len());
                for (key, value) in map {
                    let Some(field) = field_for(fields, &key) else { continue };
                    if value.is_null() {
                        continue;
                    }
                    // Go lets the last spelling win; serde would refuse the second one.
                    match known.iter_mut().find(|(name, _)| *name == field) {
                        Some(entry) => entry.1 = Go(value),
                        None => known.push((field, Go(value))),
                    }
                }
                visitor.visit_map(MapDeserializer::new(known.into_iter()))
            }
            other => Err(Error::custom(format!("cannot read {} as {name}", describe(&other)))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        serde::Deserializer::deserialize_enum(self.0, name, variants, visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() {
            return visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<Go>()));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() {
            return visitor.visit_map(MapDeserializer::new(std::iter::empty::<(&str, Go)>()));
        }
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct identifier ignored_any
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Inner {
        name: String,
        list: Option<Vec<String>>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Outer {
        #[serde(deserialize_with = "string_or_list::deserialize")]
        cmd: Option<Vec<String>>,
        inner: Inner,
        count: i64,
    }

    #[test]
    fn keys_match_in_any_case_and_null_is_absent() {
        let read: Outer =
            from_slice(br#"{"cmd": "echo hi", "INNER": {"nAme": "x", "List": null}, "Count": null, "other": 1}"#)
                .unwrap();
        assert_eq!(read.cmd, Some(vec!["echo hi".into()]));
        assert_eq!(read.inner, Inner { name: "x".into(), list: None });
    }

    #[test]
    fn a_wrong_type_is_an_error_that_says_so() {
        let error = from_slice::<Outer>(br#"{"Inner": 3}"#).unwrap_err().to_string();
        assert!(error.contains("a number"), "{error}");
    }

    #[test]
    fn the_last_spelling_of_a_key_wins() {
        let read: Outer = from_slice(br#"{"Count": 1, "count": 2}"#).unwrap();
        assert_eq!(read.count, 2);
    }
}
