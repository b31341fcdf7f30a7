//! `wait`.

use gantry_api::container::WaitResponse;

use super::attach;
use crate::cli::{Arity, Command, Parsed};
use crate::context::Context;
use crate::daemon::collect;
use crate::failure::{Failure, Result};
use crate::printer;

/// The command.
pub static COMMAND: Command = Command::new(
    &["CONTAINER [CONTAINER...]"],
    "Block until one or more containers stop, then print their exit codes",
    Arity::AtLeast(1),
    |context, flags| Box::pin(run(context, flags)),
);

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    let daemon = context.daemon().await?;
    let mut failures = Vec::new();
    for name in &flags.args {
        let waited = async {
            let answer = collect(attach::wait(&daemon, name, "not-running").await?).await?;
            let answer: WaitResponse = gantry_api::json::from_slice(&answer)?;
            match answer.error {
                Some(error) if !error.message.is_empty() => Err(Failure::new(error.message)),
                _ => Ok(answer.status_code),
            }
        };
        match waited.await {
            Ok(code) => printer::line(&code.to_string())?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)?;
    Ok(0)
}
