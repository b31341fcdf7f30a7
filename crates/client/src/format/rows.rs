//! Lists under `--format`: a table, a table of one's own, JSON, or a template for each row.

use super::table;
use crate::failure::{Failure, Result};
use crate::template::{Missing, Template, Value};

/// What a list can show: a field's name for templates, and its column's heading.
pub type Columns = &'static [(&'static str, &'static str)];

/// How a list is shown.
pub struct Listing<'a> {
    /// All fields.
    pub columns: Columns,
    /// The template of the plain table, fields separated by tabs.
    pub table: &'a str,
    /// What `--quiet` shows.
    pub quiet: &'a str,
}

impl Listing<'_> {
    /// The text of the list. An empty `format` is `table`.
    pub fn render(&self, format: &str, quiet: bool, rows: &[Value]) -> Result<String> {
        let own = format.strip_prefix("table").map(str::trim);
        match (format, own) {
            ("" | "table", _) if quiet => lines(self.quiet, rows),
            ("" | "table", _) => self.table(self.table, rows),
            // Rows are escaped for HTML, as Go does it where nobody turns it off.
            ("json", _) => {
                let text = lines("{{json .}}", rows)?;
                Ok(text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
            }
            (_, Some(template)) => self.table(template, rows),
            ("raw", _) => Err(Failure::new("the format \"raw\" is not supported yet")),
            (template, None) => lines(template, rows),
        }
    }

    fn table(&self, template: &str, rows: &[Value]) -> Result<String> {
        let template = unescape(template);
        let parsed = parse(&template)?;
        let headings = self.columns.iter().map(|(name, heading)| ((*name).to_owned(), Value::from(*heading)));
        // In the heading `.Label "x"` has nothing to look up; Docker shows the label's name.
        let headings = Value::Map(headings.chain([("Label".to_owned(), labels_of(&template))]).collect());
        let head = Template::parse(&head_template(&template), Missing::NoValue).map_err(broken)?;
        let mut text = head.execute(&headings).map_err(broken)?;
        text.push('\n');
        for row in rows {
            text.push_str(&parsed.execute(row).map_err(failed)?);
            text.push('\n');
        }
        Ok(table::STANDARD.align(&text))
    }
}

/// Functions such as `upper` would change headings; only what they are applied to is shown.
fn head_template(template: &str) -> String {
    template.replace("{{json ", "{{")
}

fn labels_of(template: &str) -> Value {
    let mut pairs = Vec::new();
    for part in template.split(".Label \"").skip(1) {
        if let Some((name, _)) = part.split_once('"') {
            let shown = name.rsplit(['.', '-']).next().unwrap_or(name);
            pairs.push((name.to_owned(), Value::from(shown)));
        }
    }
    Value::Map(pairs)
}

fn lines(template: &str, rows: &[Value]) -> Result<String> {
    let template = parse(&unescape(template))?;
    let mut text = String::new();
    for row in rows {
        text.push_str(&template.execute(row).map_err(failed)?);
        text.push('\n');
    }
    Ok(text)
}

fn parse(template: &str) -> Result<Template> {
    Template::parse(template, Missing::Error).map_err(broken)
}

/// A template that was typed in a shell has its tabs and line ends as two characters.
pub fn unescape(template: &str) -> String {
    template.replace("\\t", "\t").replace("\\n", "\n")
}

fn broken(error: String) -> Failure {
    let what = if error.contains("executing") { "failed to execute template" } else { "template parsing error" };
    Failure::new(format!("{what}: {error}"))
}

fn failed(error: String) -> Failure {
    Failure::new(format!("failed to execute template: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: Listing<'static> = Listing {
        columns: &[("ID", "CONTAINER ID"), ("Names", "NAMES")],
        table: "{{.ID}}\t{{.Names}}",
        quiet: "{{.ID}}",
    };

    fn rows() -> Vec<Value> {
        vec![serde_json::from_str(r#"{"ID":"abc","\u0000Label":{"com.x":"v"},"Names":"web"}"#).unwrap()]
    }

    #[test]
    fn every_form_of_a_format_is_shown() {
        let show = |format, quiet| LISTING.render(format, quiet, &rows()).unwrap();
        assert_eq!(show("", false), "CONTAINER ID   NAMES\nabc            web\n");
        assert_eq!(show("", true), "abc\n");
        assert_eq!(show("table {{.Names}}\\t{{.ID}}", false), "NAMES     CONTAINER ID\nweb       abc\n");
        assert_eq!(show("{{.Names}}:{{.Label \"com.x\"}}", true), "web:v\n");
        assert_eq!(show("table {{.Label \"com.x\"}}", false), "x\nv\n");
        assert_eq!(show("json", false), "{\"ID\":\"abc\",\"Names\":\"web\"}\n");
    }

    #[test]
    fn a_field_that_is_not_there_is_an_error() {
        let error = LISTING.render("{{.Foo}}", false, &rows()).unwrap_err().message;
        assert!(error.starts_with("failed to execute template: template: :1:2: executing"), "{error}");
    }
}
