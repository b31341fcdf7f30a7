//! `kill`: a signal.

use super::Context;
use crate::cli::{self, Kill};
use crate::error::{Error, Result};

/// To the first process, or to all.
pub fn kill(context: &Context<'_>, flags: &Kill) -> Result<u8> {
    let signal = cli::signal(&flags.signal).map_err(Error::Usage)?;
    context.open(&flags.id)?.kill(signal, flags.all)?;
    Ok(0)
}
