//! Ids and names: random ones for those who give none, and the grammar of those that are given.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Error, Result};

const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "apt", "bold", "brave", "bright", "brisk", "calm", "clever", "crisp", "curious", "deft",
    "eager", "early", "easy", "exact", "fair", "fast", "fine", "fond", "frank", "free", "fresh", "gentle", "glad",
    "golden", "grand", "happy", "hardy", "honest", "jolly", "keen", "kind", "light", "lively", "loyal", "lucid",
    "merry", "mild", "modest", "neat", "noble", "open", "patient", "plain", "polite", "proud", "quick", "quiet",
    "ready", "robust", "serene", "sharp", "silent", "smart", "solid", "steady", "sunny", "swift", "tidy", "vivid",
    "warm", "wise",
];

/// People who lifted, carried and connected things.
const SURNAMES: [&str; 64] = [
    "archimedes",
    "armstrong",
    "arkwright",
    "baker",
    "bell",
    "bessemer",
    "boulton",
    "bramah",
    "brindley",
    "brunel",
    "carnot",
    "cayley",
    "clegg",
    "coignet",
    "cort",
    "crampton",
    "darby",
    "davy",
    "diesel",
    "dunlop",
    "edison",
    "eiffel",
    "ericsson",
    "fairbairn",
    "faraday",
    "fulton",
    "galileo",
    "goodyear",
    "harrison",
    "hero",
    "hodgkinson",
    "hooke",
    "jacquard",
    "jessop",
    "joule",
    "kelvin",
    "lovelace",
    "macadam",
    "mclean",
    "maudslay",
    "morse",
    "nasmyth",
    "newcomen",
    "otis",
    "otto",
    "papin",
    "parsons",
    "pelton",
    "rankine",
    "rennie",
    "roebling",
    "savery",
    "siemens",
    "smeaton",
    "stephenson",
    "stevin",
    "telford",
    "tesla",
    "tesler",
    "trevithick",
    "vauban",
    "vitruvius",
    "watt",
    "whitworth",
];

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let length = getrandom(&mut bytes[..], GetRandomFlags::empty())
        .map_err(|e| Error::system(format!("get random bytes from the kernel: {e}")))?;
    if length == N { Ok(bytes) } else { Err(Error::system("get random bytes from the kernel: too few came")) }
}

/// 64 random hexadecimal digits; the first twelve are never all decimal, as they serve as host names.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn random_id() -> Result<String> {
    loop {
        let id: String = random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        if id.as_bytes()[..12].iter().any(|b| !b.is_ascii_digit()) {
            return Ok(id);
        }
    }
}

/// A name such as `brave_watt`; with a number from the third attempt on.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn random_name(attempt: u32) -> Result<String> {
    let [a, b, c, d] = random::<4>()?;
    let adjective = ADJECTIVES[usize::from(a) % ADJECTIVES.len()];
    let surname = SURNAMES[usize::from(b) % SURNAMES.len()];
    if attempt < 2 {
        return Ok(format!("{adjective}_{surname}"));
    }
    Ok(format!("{adjective}_{surname}{}", u32::from(c) << 8 | u32::from(d)))
}

/// Docker's grammar of container and volume names: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
#[must_use]
pub fn is_valid(name: &str) -> bool {
    name.len() >= 2
        && name.len() <= 255
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_and_ids_follow_the_grammar() {
        for attempt in 0..50 {
            assert!(is_valid(&random_name(attempt).unwrap()));
        }
        assert_eq!(random_id().unwrap().len(), 64);
        for bad in ["", "a", "-a", "a b", "a/b", ".a"] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }
}
