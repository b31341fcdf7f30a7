//! Words of a URL.

/// Undoes percent-encoding; in queries `+` is a blank. None when an escape is broken, or it is no UTF-8.
#[must_use]
pub fn percent_decode(text: &str, query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if query => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_what_is_broken_is_nothing() {
        for (text, query, means) in [
            ("a%2Fb+c", false, Some("a/b+c")),
            ("a%2fb+c", true, Some("a/b c")),
            ("%e2%82%ac", false, Some("€")),
            ("", true, Some("")),
            ("%", false, None),
            ("%2", false, None),
            ("%zz", false, None),
            ("%+1", true, None),
            ("%ff", false, None),
        ] {
            assert_eq!(percent_decode(text, query).as_deref(), means, "{text}");
        }
    }
}
