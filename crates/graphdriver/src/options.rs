//! Settings of drivers: `--storage-opt name=value` and `storage-opts` of `daemon.json`.

use crate::{Error, size};

/// What the daemon was given, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(String, String)>);

impl Options {
    /// From lines `name=value`.
    ///
    /// # Errors
    /// [`Error::Option`] for one that is written otherwise.
    pub fn parse(lines: &[String]) -> Result<Self, Error> {
        let pair = |line: &String| match line.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned())),
            _ => Err(Error::Option { option: line.clone(), reason: "write it as name=value".to_owned() }),
        };
        Ok(Self(lines.iter().map(pair).collect::<Result<_, _>>()?))
    }

    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// For a driver that knows these options alone.
    pub(crate) fn only(&self, driver: &str, known: &[&str]) -> Result<(), Error> {
        match self.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, value)) => Err(unknown(driver, name, value, known)),
            None => Ok(()),
        }
    }
}

/// Refuses an option that a driver does not know.
pub(crate) fn unknown(driver: &str, name: &str, value: &str, known: &[&str]) -> Error {
    let known = if known.is_empty() { "it has none".to_owned() } else { format!("there are {}", known.join(", ")) };
    Error::Option {
        option: format!("{name}={value}"),
        reason: format!("the graphdriver {driver} has no such option; {known}"),
    }
}

/// A number of bytes as people write it.
pub(crate) fn bytes(name: &str, value: &str) -> Result<u64, Error> {
    size(value).ok_or_else(|| Error::Option {
        option: format!("{name}={value}"),
        reason: "want a number of bytes, as 512m or 10G".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_no_driver_knows_is_refused_by_its_name() {
        let options = Options::parse(&["Size=1g".to_owned()]).unwrap();
        assert_eq!(options.only("one", &["size"]).ok(), Some(()));
        let error = options.only("vfs", &[]).unwrap_err().to_string();
        assert_eq!(error, "storage option size=1g: the graphdriver vfs has no such option; it has none");
        assert!(Options::parse(&["size".to_owned()]).is_err());
    }
}
