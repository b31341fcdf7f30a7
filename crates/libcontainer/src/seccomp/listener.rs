//! Hands the listener of a seccomp program to the agent that answers its calls, as the OCI specification has it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use gantry_linux::socket;
use serde::Serialize;

use crate::config::SeccompListener;
use crate::error::{Error, Result};
use crate::oci::State;

/// An agent that does not take what it is sent is given up after this.
const LIMIT: Duration = Duration::from_secs(10);

/// The specification's `ContainerProcessState`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'a str,
    /// What the descriptors of the message are, in their order.
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a State,
}

/// Sends `descriptor` to the agent of `listener`; `pid` is the process that installed the program, as the host sees it,
/// and `state` its container's. The container's process must not be waited for before: it may wait for the agent.
///
/// # Errors
/// When nobody listens there, or does not take it within ten seconds. The caller ends the process: its calls would fail
/// with `ENOSYS`, for nobody could answer them.
pub fn hand_over(listener: &SeccompListener, descriptor: &OwnedFd, pid: i32, state: &State) -> Result<()> {
    let message = ContainerProcessState {
        oci_version: &state.oci_version,
        fds: ["seccompFd"],
        pid,
        metadata: &listener.metadata,
        state,
    };
    let text = serde_json::to_vec(&message)
        .map_err(|error| Error::Invalid(format!("the state for the seccomp agent cannot be written: {error}")))?;
    let agent = socket::connect_stream(&listener.path, LIMIT)?;
    Ok(socket::send_stream(&agent, &text, &[descriptor.as_fd()])?)
}
