//! Lists and their pages: tags, repositories, what a search finds.

use serde_json::{Value, json};

use crate::client::{Client, OCI_MANIFEST};
use crate::served::Served;

/// Follows `Link` to the end and returns each page's entries.
fn pages(client: Client, path: &str, field: &str) -> Vec<Vec<String>> {
    let (mut pages, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let answer = client.get(&path).expect(200);
        let listed = answer.json();
        let entries = listed[field].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap().to_owned());
        pages.push(entries.collect());
        next = answer.header("link").split_once('>').map(|(link, relation)| {
            assert_eq!(relation, "; rel=\"next\"");
            link.trim_start_matches('<').to_owned()
        });
    }
    pages
}

#[test]
fn tags_are_listed_in_order_and_in_pages() {
    let served = Served::start();
    let client = served.client;
    let manifest = client.image("a/b", "v1", b"layer");
    let tags = ["B", "a", "v1", "v10", "v2", "z"];
    for tag in ["z", "v10", "B", "a", "v2"] {
        client.manifest("a/b", tag, OCI_MANIFEST, &manifest).expect(201);
    }
    let list = |query: &str| client.get(&format!("/v2/a/b/tags/list{query}")).expect(200);
    assert_eq!(list("").json(), json!({ "name": "a/b", "tags": tags }));
    assert_eq!(pages(client, "/v2/a/b/tags/list?n=4", "tags"), [&tags[..4], &tags[4..]]);
    assert_eq!(pages(client, "/v2/a/b/tags/list?n=3", "tags"), [&tags[..3], &tags[3..]]);
    assert_eq!(list("?last=v1").json()["tags"], json!(["v10", "v2", "z"]));
    assert_eq!(list("?n=1&last=v11").json()["tags"], json!(["v2"]));
    let none = list("?n=0");
    assert_eq!((none.json()["tags"].clone(), none.header("link")), (json!([]), ""));
    assert_eq!(client.get("/v2/a/b/tags/list?n=x").expect(400).code(), "PAGINATION_NUMBER_INVALID");
    for nothing in ["a", "a/b/c"] {
        assert_eq!(client.get(&format!("/v2/{nothing}/tags/list")).expect(404).code(), "NAME_UNKNOWN");
    }
}

#[test]
fn repositories_are_listed_in_pages_each_exactly_once() {
    let served = Served::start();
    let mut names = ["a", "a/b", "a/b/c", "a-b", "b/c", "b.d", "c"].map(str::to_owned).to_vec();
    for name in &names {
        served.client.image(name, "1", b"layer");
    }
    names.sort_by(|one, other| one.split('/').cmp(other.split('/')));
    for size in 1..9 {
        let listed = pages(served.client, &format!("/v2/_catalog?n={size}"), "repositories");
        assert_eq!(listed.concat(), names, "pages of {size}");
        assert!(listed[..listed.len() - 1].iter().all(|page| page.len() == size));
    }
    assert_eq!(served.client.get("/v2/_catalog?n=0").expect(200).json()["repositories"], json!([]));
}

#[test]
fn a_search_answers_as_docker_hub_does() {
    let served = Served::start();
    for name in ["library/debian", "me/debian-slim", "other"] {
        served.client.image(name, "1", b"layer");
    }
    let found = served.client.get("/v1/search?q=Debian&n=1").expect(200).json();
    assert_eq!((&found["num_results"], &found["num_pages"], &found["query"]), (&json!(2), &json!(2), &json!("Debian")));
    let names =
        |found: &Value| found["results"].as_array().unwrap().iter().map(|r| r["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), ["library/debian"]);
    let second = served.client.get("/v1/search?q=debian&n=1&page=2").expect(200).json();
    assert_eq!(names(&second), ["me/debian-slim"]);
    for field in ["star_count", "is_official", "is_automated", "description"] {
        assert!(!found["results"][0][field].is_null(), "{field}");
    }
    assert_eq!(names(&served.client.get("/v1/search?q=nothing").expect(200).json()), Vec::<Value>::new());
    served.client.get("/v1/search?n=x").expect(400);
}

#[test]
fn health_is_told_to_everybody() {
    assert_eq!(Served::start().client.get("/health").expect(200).json(), json!({ "status": "ok" }));
}
