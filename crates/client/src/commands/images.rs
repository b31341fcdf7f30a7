//! `images`.

use gantry_api::image::{GraphNode, ImageSummary};

use super::{filter_text, filters};
use crate::cli::{Arity, Command, Flag, Parsed};
use crate::context::Context;
use crate::daemon::Query;
use crate::failure::Result;
use crate::flags::checks;
use crate::format::rows::{Columns, Listing};
use crate::format::{short_id, size, time};
use crate::printer;
use crate::template::Value;

const NONE: &str = "<none>";

/// The command.
pub static COMMAND: Command =
    Command::new(&["[OPTIONS] [REPOSITORY[:TAG]]"], "List images", Arity::AtMost(1), |context, flags| {
        Box::pin(run(context, flags))
    })
    .flags(&[&[
        Flag::switch("all", "Show all images (default hides intermediate images)").short('a'),
        Flag::switch("digests", "Show digests"),
        Flag::many("filter", "filter", "Filter output based on conditions provided").short('f').check(checks::filter),
        Flag::one("format", "string", "Format output: 'table', 'table TEMPLATE', 'json', or a Go template"),
        Flag::switch("no-trunc", "Don't truncate output"),
        Flag::switch("quiet", "Only show image IDs").short('q'),
        Flag::switch("tree", "Show which layers and images stand on which"),
        Flag::switch("viz", "Show the same in the language of graphviz"),
    ]]);

const COLUMNS: Columns = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

async fn run(context: Context, flags: Parsed) -> Result<u8> {
    if flags.on("viz") {
        let drawn = context.daemon().await?.get_bytes("/images/viz", &Query::new()).await?;
        printer::text(&String::from_utf8_lossy(&drawn))?;
        return Ok(0);
    }
    if flags.on("tree") {
        let query = Query::new().with("format", "json");
        let nodes: Vec<GraphNode> = context.daemon().await?.get("/images/viz", &query).await?;
        printer::text(&tree(&nodes, flags.on("no-trunc")))?;
        return Ok(0);
    }
    let mut filters = filters(flags.list("filter"));
    if let Some(name) = flags.args.first() {
        filters.add("reference", name);
    }
    let query = Query::new().with_flag("all", flags.on("all")).with_text("filters", filter_text(&filters));
    let images: Vec<ImageSummary> = context.daemon().await?.get("/images/json", &query).await?;
    let format = flags.text("format").unwrap_or(&context.config.images_format).to_owned();
    let digests = flags.on("digests") || format.contains(".Digest");
    let digest = if flags.on("digests") { "{{.Digest}}\t" } else { "" };
    let table = format!("{{{{.Repository}}}}\t{{{{.Tag}}}}\t{digest}{{{{.ID}}}}\t{{{{.CreatedSince}}}}\t{{{{.Size}}}}");
    let quiet = flags.on("quiet");
    let rows: Vec<_> = images.iter().flat_map(|image| rows(image, flags.on("no-trunc"), digests)).collect();
    let listing = Listing { columns: COLUMNS, table: &table, quiet: "{{.ID}}" };
    printer::text(&listing.render(&format, quiet, &rows)?)?;
    Ok(0)
}

/// Every layer below the one that it stands on, with the tags of images that end in it.
fn tree(nodes: &[GraphNode], whole: bool) -> String {
    let on = |parent: &str| nodes.iter().filter(|node| node.parent == parent).collect::<Vec<_>>();
    let mut text = String::new();
    // Deep stacks are no reason to recurse: what is still to be written, the next one last, each with its indentation.
    let mut open: Vec<(String, bool, &GraphNode)> = Vec::new();
    let push = |open: &mut Vec<_>, indent: &str, parent: &str| {
        let children = on(parent);
        let last = children.len();
        open.extend(children.into_iter().enumerate().rev().map(|(at, node)| (indent.to_owned(), at + 1 == last, node)));
    };
    push(&mut open, "", "");
    while let Some((indent, last, node)) = open.pop() {
        let id = if whole { node.id.as_str() } else { short_id(&node.id) };
        let size = size::human(node.virtual_size);
        let tags = if node.tags.is_empty() { String::new() } else { format!(" Tags: {}", node.tags.join(", ")) };
        text.push_str(&format!("{indent}{}{id} Virtual Size: {size}{tags}\n", if last { "└─" } else { "├─" }));
        push(&mut open, &format!("{indent}{}", if last { "  " } else { "│ " }), &node.id);
    }
    text
}

/// The table of `system df -v`.
pub(super) fn usage(images: &[ImageSummary]) -> Result<String> {
    let table = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t\
                 {{.Containers}}";
    let rows: Vec<_> = images.iter().flat_map(|image| rows(image, false, false)).collect();
    Listing { columns: COLUMNS, table, quiet: table }.render("", false, &rows)
}

/// A row for each name; with digests, for each name under each digest of its repository.
fn rows(image: &ImageSummary, whole: bool, digests: bool) -> Vec<Value> {
    let mut names: Vec<(String, String, String)> = Vec::new();
    let tags: Vec<_> = image.repo_tags.iter().filter(|tag| *tag != "<none>:<none>").collect();
    let known: Vec<_> =
        image.repo_digests.iter().filter_map(|one| one.split_once('@')).filter(|(name, _)| *name != NONE).collect();
    for tag in &tags {
        let (repository, tag) = tag.rsplit_once(':').unwrap_or((tag, NONE));
        let mut of_repository = known.iter().filter(|(name, _)| *name == repository).peekable();
        if !digests || of_repository.peek().is_none() {
            names.push((repository.to_owned(), tag.to_owned(), NONE.to_owned()));
            continue;
        }
        names.extend(of_repository.map(|(_, digest)| (repository.to_owned(), tag.to_owned(), (*digest).to_owned())));
    }
    for (repository, digest) in &known {
        let has_tag = tags.iter().any(|tag| tag.rsplit_once(':').is_some_and(|(name, _)| name == *repository));
        if !has_tag && !names.iter().any(|(name, _, _)| name == repository && !digests) {
            names.push(((*repository).to_owned(), NONE.to_owned(), (*digest).to_owned()));
        }
    }
    if names.is_empty() {
        names.push((NONE.to_owned(), NONE.to_owned(), NONE.to_owned()));
    }
    names.into_iter().map(|name| row(image, name, whole)).collect()
}

fn row(image: &ImageSummary, (repository, tag, digest): (String, String, String), whole: bool) -> Value {
    let id = if whole { image.id.as_str() } else { short_id(&image.id) };
    let count = |number: i64| if number < 0 { "N/A".to_owned() } else { number.to_string() };
    let bytes = |number: i64| if number < 0 { "N/A".to_owned() } else { size::human(number) };
    let unique = if image.shared_size < 0 { -1 } else { image.size - image.shared_size };
    let pairs = [
        ("Containers", Value::from(count(image.containers))),
        ("CreatedAt", time::of_unix(image.created).into()),
        ("CreatedSince", if image.created > 0 { time::ago(image.created) } else { "N/A".to_owned() }.into()),
        ("Digest", digest.into()),
        ("ID", id.into()),
        ("Repository", repository.into()),
        ("SharedSize", bytes(image.shared_size).into()),
        ("Size", size::human(image.size).into()),
        ("Tag", tag.into()),
        ("UniqueSize", bytes(unique).into()),
        ("VirtualSize", size::finer(image.size).into()),
    ];
    Value::Map(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageSummary {
        ImageSummary {
            id: format!("sha256:{}", "ab".repeat(32)),
            repo_tags: vec!["localhost:5000/debian:12".into(), "localhost:5000/debian:latest".into()],
            repo_digests: vec![format!("localhost:5000/debian@sha256:{}", "0".repeat(64))],
            created: jiff::Timestamp::now().as_second() - 3 * 7 * 86400,
            size: 124_000_000,
            shared_size: -1,
            ..ImageSummary::default()
        }
    }

    #[test]
    fn the_table_is_dockers_to_the_character() {
        let table = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
        let listing = Listing { columns: COLUMNS, table, quiet: "{{.ID}}" };
        assert_eq!(
            listing.render("", false, &rows(&image(), false, false)).unwrap(),
            "REPOSITORY              TAG       IMAGE ID       CREATED       SIZE\n\
             localhost:5000/debian   12        abababababab   3 weeks ago   124MB\n\
             localhost:5000/debian   latest    abababababab   3 weeks ago   124MB\n"
        );
    }

    #[test]
    fn an_image_without_a_name_is_shown_all_the_same() {
        let nameless = ImageSummary { repo_tags: vec![], repo_digests: vec![], ..image() };
        assert_eq!(rows(&nameless, false, false)[0].get("Repository"), Some(&Value::from("<none>")));
        let by_digest = ImageSummary { repo_tags: vec![], ..image() };
        let row = &rows(&by_digest, true, true)[0];
        assert_eq!(row.get("Repository"), Some(&Value::from("localhost:5000/debian")));
        assert_eq!(row.get("Tag"), Some(&Value::from("<none>")));
    }

    #[test]
    fn a_tree_shows_what_stands_on_what() {
        let node = |id: &str, parent: &str, tags: &[&str]| GraphNode {
            id: id.into(),
            parent: parent.into(),
            virtual_size: 1000,
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..GraphNode::default()
        };
        let nodes = [node("a", "", &[]), node("d", "", &["d:1"]), node("b", "a", &["b:1", "b:2"]), node("c", "a", &[])];
        assert_eq!(
            tree(&nodes, true),
            "├─a Virtual Size: 1kB\n│ ├─b Virtual Size: 1kB Tags: b:1, b:2\n│ └─c Virtual Size: 1kB\n\
             └─d Virtual Size: 1kB Tags: d:1\n"
        );
    }
}
