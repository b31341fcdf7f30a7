//! `delete`: a container is removed.

use super::Context;
use crate::cli::Delete;
use crate::error::{Error, Result};

/// A stopped one, as the runtime spec has it; with `--force` any, and none is no error.
pub fn delete(context: &Context<'_>, flags: &Delete) -> Result<u8> {
    let container = match context.open(&flags.id) {
        Err(error) if flags.force && error.is_no_container() => return Ok(0),
        other => other?,
    };
    match container.delete(flags.force).map_err(Error::from) {
        // Somebody else has done it meanwhile.
        Err(error) if flags.force && error.is_no_container() => Ok(0),
        other => {
            context.warn(&other?);
            Ok(0)
        }
    }
}
