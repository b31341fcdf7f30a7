//! Handlers: each reads a request, builds one job, and turns its output into an answer.

pub mod containers;
pub mod exec;
pub mod images;
pub mod networks;
pub mod registries;
pub mod system;
pub mod volumes;

use jiff::Timestamp;

use crate::error::{Failure, Result};
use crate::request::Request;

/// A moment of the query: Unix seconds with a fraction, or RFC 3339.
fn moment(request: &Request, name: &str) -> Result<Option<Timestamp>> {
    let Some(text) = request.query(name).filter(|text| !matches!(text.as_str(), "" | "0")) else { return Ok(None) };
    let invalid = || Failure::invalid(format!("invalid value for {name:?}: {text:?} is no time"));
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(Some(moment));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let nanos: String = format!("{fraction:0<9}").chars().take(9).collect();
    let seconds: i64 = seconds.parse().map_err(|_| invalid())?;
    let nanos: i32 = nanos.parse().map_err(|_| invalid())?;
    Timestamp::new(seconds, nanos).map(Some).map_err(|_| invalid())
}
