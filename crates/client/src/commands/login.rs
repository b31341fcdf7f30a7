//! `login`, `logout`.

use std::io::{BufRead, Read};

use gantry_api::registry::AuthResponse;
use gantry_api::system::AuthConfig;

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::credentials::{HUB, key_of};
use crate::daemon::Query;
use crate::failure::{Failure, Result};
use crate::printer::{self, Output};
use crate::terminal;

/// `login`.
pub static LOGIN: Command =
    Command::new(&["[OPTIONS] [SERVER]"], "Authenticate to a registry", Arity::AtMost(1), |context, flags| {
        Box::pin(login(context, flags))
    })
    .flags(&[&[
        Flag::one("password", "string", "Password or Personal Access Token (PAT)").short('p'),
        Flag::switch("password-stdin", "Take the Password or Personal Access Token (PAT) from stdin"),
        Flag::one("username", "string", "Username").short('u'),
    ]]);

/// `logout`.
pub static LOGOUT: Command =
    Command::new(&["[SERVER]"], "Log out from a registry", Arity::AtMost(1), |context, flags| {
        Box::pin(async move { logout(&context, &flags) })
    });

async fn login(context: Context, flags: Parsed) -> Result<u8> {
    let server = flags.args.first().map(String::as_str).unwrap_or_default();
    let key = key_of(server).to_owned();
    let stdin = flags.on("password-stdin");
    if flags.given("password") {
        if stdin {
            return Err(Failure::new("--password and --password-stdin are mutually exclusive"));
        }
        printer::error_line("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    let username = flags.text_or_empty("username").trim();
    if stdin && username.is_empty() {
        return Err(Failure::new("Must provide --username with --password-stdin"));
    }
    let known = context.config.credentials(&key)?;
    let asked = username.is_empty() && !flags.given("password");
    if let Some(known) =
        known.clone().filter(|known| asked && (!known.password.is_empty() || !known.identitytoken.is_empty()))
    {
        printer::line("Authenticating with existing credentials...")?;
        match enter(&context, known).await {
            Ok(()) => return Ok(0),
            // Old ones may have been withdrawn: then a person is asked.
            Err(failure) if failure.status == Some(http::StatusCode::UNAUTHORIZED) && terminal::stdin_is_terminal() => {
                printer::error_line(&format!("Stored credentials were not accepted: {}", failure.message));
            }
            Err(failure) => return Err(failure),
        }
    }
    let password = if stdin { from_stdin()? } else { flags.text_or_empty("password").to_owned() };
    let before = known.map(|known| known.username).unwrap_or_default();
    let (username, password) = ask(username, password, &before).await?;
    enter(&context, AuthConfig { username, password, serveraddress: key, ..AuthConfig::default() }).await?;
    Ok(0)
}

/// Shows credentials to the registry, and keeps what it says shall be kept.
async fn enter(context: &Context, mut auth: AuthConfig) -> Result<()> {
    let daemon = context.daemon().await?;
    let answer: AuthResponse = daemon.post_json("/auth", &Query::new(), &auth).await?;
    if !answer.identity_token.is_empty() {
        auth.identitytoken = answer.identity_token;
        auth.password = String::new();
    }
    if let Some(path) = context.config.keep(&auth)? {
        printer::error_line(&format!(
            "WARNING! Your credentials are stored unencrypted in '{path}'.\nConfigure a credential helper to remove this \
             warning.\n"
        ));
    }
    printer::line(&answer.status)
}

/// Everything that comes, without the line break at its end.
fn from_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        return Err(Failure::new("password is empty"));
    }
    Ok(password.to_owned())
}

/// Asks for what was not given; what is typed as the password is not shown.
async fn ask(username: &str, password: String, before: &str) -> Result<(String, String)> {
    let (mut username, mut password) = (username.to_owned(), password);
    if (username.is_empty() || password.is_empty()) && !terminal::stdin_is_terminal() {
        return Err(Failure::new("cannot perform an interactive login from a non-TTY device: use --password-stdin"));
    }
    if username.is_empty() {
        let hint = if before.is_empty() { String::new() } else { format!(" ({before})") };
        Output::Out.write(format!("Username{hint}: ").as_bytes())?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        line.trim().clone_into(&mut username);
        if username.is_empty() {
            before.clone_into(&mut username);
        }
        if username.is_empty() {
            return Err(Failure::new("username is required"));
        }
    }
    if password.is_empty() {
        password = terminal::secret("Password: ").await?;
        if password.is_empty() {
            return Err(Failure::new("password is required"));
        }
    }
    Ok((username, password))
}

fn logout(context: &Context, flags: &Parsed) -> Result<u8> {
    let server = flags.args.first().map(String::as_str).unwrap_or_default();
    let key = key_of(server);
    let shown = if key == HUB { HUB } else { key };
    printer::line(&format!("Removing login credentials for {shown}"))?;
    if !context.config.forget(key)? {
        printer::line(&format!("Not logged in to {shown}"))?;
    }
    Ok(0)
}
