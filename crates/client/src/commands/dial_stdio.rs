//! `system dial-stdio`: joins the standard streams with the daemon, for a client that comes by ssh.

use gantry_transport::connect;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cli::{Arity, Command, Parsed};
use crate::context::Context;
use crate::failure::Result;
use crate::printer::Output;
use crate::stream::read_stdin;

const PIECE: usize = 32 << 10;

/// The command.
pub static COMMAND: Command = Command::new(
    &[""],
    "Proxy the stdio stream to the daemon connection, for clients that come by ssh",
    Arity::None,
    |context, flags| Box::pin(run(context, flags)),
);

async fn run(context: Context, _: Parsed) -> Result<u8> {
    // One that is there already, or that this starts.
    let daemon = context.daemon().await?;
    let (mut from_daemon, mut to_daemon) = connect(daemon.endpoint(), daemon.tls()).await?.into_split();
    let input = async {
        let mut input = read_stdin();
        while let Some(bytes) = input.recv().await {
            to_daemon.write_all(&bytes).await?;
            to_daemon.flush().await?;
        }
        to_daemon.shutdown().await
    };
    let output = async {
        let mut piece = vec![0; PIECE];
        loop {
            let length = from_daemon.read(&mut piece).await?;
            if length == 0 {
                return Ok::<(), std::io::Error>(());
            }
            Output::Out.stream(&piece[..length]).await?;
        }
    };
    tokio::pin!(input, output);
    tokio::select! {
        ended = &mut output => ended,
        // The end of input is not the end: the answer to it is still to come. A daemon that is gone is noticed there.
        _ = &mut input => output.await,
    }
    .map(|()| 0)
    .map_err(|error: std::io::Error| error.into())
}
