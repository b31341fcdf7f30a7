//! `kill`: a signal.

use libcontainer::oci::Status;

use super::Context;
use crate::cli::{self, Kill};
use crate::error::{Error, Result};

/// To the first process, or to all; when none is left there is nothing wrong with all.
pub fn kill(context: &Context<'_>, flags: &Kill) -> Result<u8> {
    let signal = cli::signal(&flags.signal).map_err(Error::Usage)?;
    let container = context.open(&flags.id)?;
    // 0 asks whether there is a process.
    let sent = if signal == 0 {
        running(container.state()?.status)
    } else {
        container.kill(signal, flags.all).map_err(Error::from)
    };
    match sent {
        Err(Error::Container(libcontainer::Error::Conflict(_))) if flags.all => Ok(0),
        sent => sent.map(|()| 0),
    }
}

fn running(status: Status) -> Result<()> {
    if status == Status::Stopped {
        return Err(Error::Refused("container not running".into()));
    }
    Ok(())
}
