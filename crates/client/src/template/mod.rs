//! Go's templates, as far as people use them in `--format`: paths, pipes, `range`, `if`, `with`, variables, functions.

mod eval;
mod functions;
mod lex;
mod parse;
mod value;

pub use value::{HIDDEN, Value};

/// A parsed template.
#[derive(Debug, Clone)]
pub struct Template {
    nodes: Vec<parse::Node>,
    missing: Missing,
}

/// What a key that is not there means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// `<no value>`.
    NoValue,
    /// An error, as for a field of a struct.
    Error,
}

impl Template {
    /// Parses it; `missing` says what becomes of unknown fields.
    ///
    /// # Errors
    /// One line, as Go words it.
    pub fn parse(text: &str, missing: Missing) -> Result<Self, String> {
        Ok(Self { nodes: parse::parse(text)?, missing })
    }

    /// Its text for this value.
    ///
    /// # Errors
    /// One line, as Go words it.
    pub fn execute(&self, root: &Value) -> Result<String, String> {
        eval::execute(&self.nodes, root, self.missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, String> {
        let data = r#"{"Id":"abc","Name":"/web","Size":3,"Pi":1.5,"On":true,"Off":false,"Nil":null,"List":["a","b","c"],
            "State":{"Status":"running","Pid":42},"Labels":{"x":"1","com.a":"two","é":"3"},
            "Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}],"90/tcp":null},"Empty":[]}"#;
        let value: Value = serde_json::from_str(data).unwrap();
        Template::parse(template, Missing::Error)?.execute(&value)
    }

    #[test]
    fn paths_functions_and_pipes_give_what_go_gives() {
        for (template, text) in [
            ("{{.Id}} {{ .State.Pid }}", "abc 42"),
            ("{{.Size}}{{.Pi}}{{.On}}{{.Nil}}", "31.5true<no value>"),
            ("{{json .List}}{{.State | json}}", r#"["a","b","c"]{"Status":"running","Pid":42}"#),
            ("{{.List}} {{.Labels}}", "[a b c] map[com.a:two x:1 é:3]"),
            ("{{len .List}} {{len .Name}} {{len .Labels}}", "3 4 3"),
            ("{{index .List 1}}{{index .Labels \"com.a\"}}", "btwo"),
            ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
            ("{{with index .Ports \"80/tcp\"}}{{(index . 0).HostIp}}{{end}}", "0.0.0.0"),
            ("{{upper .Id}}{{lower \"ABC\"}}{{title \"abc def\"}}", "ABCabcAbc Def"),
            ("{{join .List \", \"}} {{split \"a:b\" \":\"}}", "a, b, c [a b]"),
            (
                "{{println .Id}}{{print 1 2}}{{printf \"%s-%d-%v-%q-%5s|%-4s|%03d\" .Id 7 .On .Id \"x\" \"y\" 5}}",
                "abc\n1 2abc-7-true-\"abc\"-    x|y   |005",
            ),
            ("{{truncate .Id 2}}{{pad .Id 1 2}}", "ab abc  "),
            ("{{slice .Id 1}}{{slice .Id 0 1}}{{trimPrefix}}", ""),
            ("{{.Name | printf \"%q\"}}", "\"/web\""),
            ("{{printf \"%.2f\" .Pi}}", "1.50"),
        ] {
            if template.contains("trimPrefix") {
                assert_eq!(render(template).unwrap_err(), "template: :1: function \"trimPrefix\" not defined");
                continue;
            }
            assert_eq!(render(template).unwrap(), text, "{template}");
        }
    }

    #[test]
    fn conditions_and_loops_give_what_go_gives() {
        for (template, text) in [
            ("{{if .On}}y{{else}}n{{end}}{{if .Off}}y{{else if .Size}}s{{else}}n{{end}}", "ys"),
            ("{{if eq .State.Status \"running\"}}up{{end}}{{if ne .Size 3}}x{{end}}", "up"),
            ("{{if and .On .List}}a{{end}}{{if or .Off .Empty}}b{{end}}{{if not .Off}}c{{end}}", "ac"),
            ("{{eq .Id \"x\" \"abc\"}}{{lt 1 2}}{{le 2 2}}{{gt 1 2}}{{ge 1 2}}", "truetruetruefalsefalse"),
            ("{{range .List}}<{{.}}>{{end}}", "<a><b><c>"),
            ("{{range $i, $e := .List}}{{if $i}}, {{end}}{{$e}}{{end}}", "a, b, c"),
            ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "com.a=two;x=1;é=3;"),
            (
                "{{range $p, $c := .Ports}}{{$p}} -> {{range $c}}{{.HostPort}}{{else}}none{{end}}\n{{end}}",
                "80/tcp -> 8080\n90/tcp -> none\n",
            ),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{$x := .Id}}{{with .State}}{{$x}}{{.Pid}}{{$.Name}}{{end}}", "abc42/web"),
            ("{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}{{range .List}}{{break}}{{end}}", "ac"),
            ("a {{- .Id -}} b {{/* c */}}!", "aabcb !"),
            ("{{`raw\"`}}{{\"a\\tb\\n\\u00e9\"}}", "raw\"a\tb\né"),
            ("{{$n := 1}}{{if .On}}{{$n = 2}}{{end}}{{$n}}", "2"),
            ("{{range 3}}{{.}}{{end}}", "012"),
        ] {
            assert_eq!(render(template).unwrap(), text, "{template}");
        }
    }

    #[test]
    fn errors_name_the_place_as_go_does() {
        for (template, message) in [
            ("{{.Id", "template: :1: unclosed action"),
            ("{{foo .Id}}", "template: :1: function \"foo\" not defined"),
            ("{{if .On}}x", "template: :1: unexpected EOF"),
            ("{{end}}", "template: :1: unexpected {{end}}"),
            ("{{}}", "template: :1: missing value for command"),
            ("{{.Foo}}", "template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""),
            (
                "{{.Id.Foo}}",
                "template: :1:5: executing \"\" at <.Id.Foo>: can't evaluate field Foo in type interface {}",
            ),
            (
                "{{index .List 9}}",
                "template: :1:2: executing \"\" at <index .List 9>: error calling index: reflect: slice index out of range",
            ),
            ("{{$x}}", "template: :1: undefined variable \"$x\""),
        ] {
            assert_eq!(render(template).unwrap_err(), message, "{template}");
        }
    }

    #[test]
    fn a_missing_key_is_no_value_where_that_is_wanted() {
        let value: Value = serde_json::from_str("{}").unwrap();
        assert_eq!(Template::parse("{{.A}}", Missing::NoValue).unwrap().execute(&value).unwrap(), "<no value>");
    }
}
