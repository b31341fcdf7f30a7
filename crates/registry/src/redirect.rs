//! Where a registry may send us, and what goes along: never the credentials.

use reqwest::header::LOCATION;
use reqwest::{Response, Url};

use crate::http::shown;
use crate::options::is_local;
use crate::{Error, Options, Result};

/// The most hops of one request.
pub const LIMIT: usize = 10;

/// Whether two addresses are the same scheme, host and port: only there do credentials go.
pub fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

/// Where the answer points, `None` when it is none of that kind.
pub fn target(answer: &Response, options: &Options) -> Result<Option<Url>> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let from = answer.url();
    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let refuse = |to: String, reason| Error::Redirect { from: shown(from), to, reason };
    if location.is_empty() {
        return Err(refuse("nowhere".to_owned(), "the answer has no location"));
    }
    judged(from, location, options).map(Some)
}

/// Where a location of `from` is, if it may be followed.
pub fn judged(from: &Url, location: &str, options: &Options) -> Result<Url> {
    let refuse = |to: String, reason| Error::Redirect { from: shown(from), to, reason };
    let to = from.join(location).map_err(|_| refuse(format!("{location:.80}"), "that is not a URL"))?;
    check(from, &to, options).map_err(|reason| refuse(shown(&to), reason))?;
    Ok(to)
}

fn check(from: &Url, to: &Url, options: &Options) -> std::result::Result<(), &'static str> {
    if !matches!(to.scheme(), "http" | "https") || !to.has_host() {
        return Err("only http and https are followed");
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("a URL with credentials in it is not followed");
    }
    if from.scheme() == "https" && to.scheme() == "http" && !options.is_insecure(to) {
        return Err("it leads from https to http");
    }
    if is_local(to) && !is_local(from) {
        return Err("it leads from another machine to this one");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_that_leave_safety_are_refused() {
        let options = Options::default();
        let verdict = |from: &str, to: &str| {
            check(&Url::parse(from).unwrap(), &Url::parse(to).unwrap(), &options).err().unwrap_or("ok")
        };
        assert_eq!(verdict("https://a.test/", "https://cdn.test/x?sig=1"), "ok");
        assert_eq!(verdict("http://127.0.0.1:1/", "http://127.0.0.1:2/"), "ok");
        for (from, to) in [
            ("https://a.test/", "http://a.test/"),
            ("https://a.test/", "file:///etc/passwd"),
            ("https://a.test/", "https://u:p@cdn.test/"),
            ("https://a.test/", "https://127.0.0.1/"),
            ("https://a.test/", "https://169.254.169.254/"),
        ] {
            assert_ne!(verdict(from, to), "ok", "{from} {to}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
        assert!(same("https://a.test/x", "https://a.test:443/y"));
        assert!(!same("https://a.test/", "http://a.test/"));
        assert!(!same("https://a.test/", "https://a.test:444/"));
        assert!(!same("https://a.test/", "https://b.test/"));
    }
}
