//! `list`: the containers of this state directory.

use super::state::{Described, unwritable};
use super::{Context, user_name};
use crate::cli::{List, OutputFormat};
use crate::error::Result;
use crate::out;

/// Prints them; a damaged one is told of and left out.
pub fn list(context: &Context<'_>, flags: &List) -> Result<u8> {
    let (containers, warnings) = context.runtime.list()?;
    context.warn(&warnings);
    if flags.quiet {
        let names: String = containers.iter().map(|container| format!("{}\n", container.id())).collect();
        out::print(&names)?;
        return Ok(0);
    }
    let mut described = Vec::with_capacity(containers.len());
    for container in &containers {
        match Described::of(container, user_name(container.owner())) {
            Ok(one) => described.push(one),
            // It may have been deleted just now.
            Err(error) => context.log.warning(&format!("status for {}: {error}", container.id())),
        }
    }
    let text = match flags.format {
        // Go writes the list that was never made as null, and engines know that.
        OutputFormat::Json if described.is_empty() => "null\n".to_owned(),
        OutputFormat::Json => serde_json::to_string(&described).map_err(unwritable)? + "\n",
        OutputFormat::Table => table(&described),
    };
    out::print(&text)?;
    Ok(0)
}

fn table(containers: &[Described]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned).to_vec()];
    rows.extend(containers.iter().map(|one| {
        vec![
            one.id.clone(),
            one.pid.to_string(),
            one.status.to_string(),
            one.bundle.clone(),
            one.created.clone(),
            one.owner.clone(),
        ]
    }));
    out::table(&rows)
}
