//! One file per command.

pub mod attach;
pub mod commit;
pub mod context;
pub mod cp;
pub mod create;
pub mod df;
pub mod dial_stdio;
pub mod diff;
pub mod events;
pub mod exec;
pub mod export;
pub mod fsck;
pub mod history;
pub mod images;
pub mod import;
pub mod info;
pub mod inspect;
pub mod jobs;
pub mod kill;
pub mod load;
pub mod login;
pub mod logs;
pub mod network;
pub mod pause;
pub mod port;
pub mod prune;
pub mod ps;
pub mod pull;
pub mod push;
pub mod rename;
pub mod rm;
pub mod rmi;
pub mod run;
pub mod save;
pub mod search;
pub mod start;
pub mod stats;
pub mod stop;
pub mod tag;
pub mod tls_init;
pub mod top;
pub mod update;
pub mod version;
pub mod volume;
pub mod wait;

use std::future::Future;

use gantry_api::filters::Filters;

use crate::failure::{Failure, Result};
use crate::printer;

/// Does the same for each name, all at once, and prints in order each name that worked; the failures come together.
pub async fn for_each<F>(names: &[String], act: impl Fn(String) -> F) -> Result<u8>
where
    F: Future<Output = Result<()>> + 'static,
{
    let local = tokio::task::LocalSet::new();
    let failures = local
        .run_until(async {
            let tasks: Vec<_> = names.iter().map(|name| tokio::task::spawn_local(act(name.clone()))).collect();
            let mut failures = Vec::new();
            for (name, task) in names.iter().zip(tasks) {
                match task.await.unwrap_or_else(|error| Err(Failure::new(error.to_string()))) {
                    Ok(()) => printer::line(name)?,
                    Err(failure) => failures.push(failure),
                }
            }
            Ok::<_, Failure>(failures)
        })
        .await?;
    Failure::join(failures)?;
    Ok(0)
}

/// `--filter name=value` flags.
pub fn filters(flags: &[String]) -> Filters {
    let mut filters = Filters::default();
    for (name, value) in flags.iter().filter_map(|flag| flag.split_once('=')) {
        filters.add(name.trim().to_lowercase(), value.trim());
    }
    filters
}

/// The filters as a parameter; empty when nothing is filtered.
pub fn filter_text(filters: &Filters) -> String {
    if filters.is_empty() { String::new() } else { filters.to_json() }
}
