//! The API's description of itself (OpenAPI 3.1), made from the table of its operations.
//!
//! An operation without a page, or a page without an operation, fails a test; that answers are as
//! described is what `tests/e2e/openapi.rs` finds out with a running wsteady.

mod pages;
mod schemas;

use serde_json::{Map, Value, json};

use self::pages::{Page, Spoken};
use super::guard::OPEN_PATHS;
use super::routes::{OPERATIONS, Operation};

/// The whole description.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let Some(page) = pages::of(operation.method, operation.path) else {
            debug_assert!(false, "{} {}", operation.method, operation.path);
            continue;
        };
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_ascii_lowercase()] = described(operation, &page);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "wsteady admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT", "identifier": "MIT" },
            "description": ABOUT,
        },
        "tags": pages::TAGS.map(|(name, about)| json!({ "name": name, "description": about })),
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "`admin.token`, if that is set.",
            } },
        },
    })
}

fn described(operation: &Operation, page: &Page) -> Value {
    let (mut parameters, has_id) = (Vec::new(), operation.path.contains("{id}"));
    if has_id {
        parameters.push(pages::id(operation.path));
    }
    parameters.extend(page.parameters.iter().cloned());
    let mut value = json!({
        "operationId": name_of(operation),
        "tags": [page.tag],
        "summary": page.summary,
        "responses": responses(operation, page),
    });
    if !parameters.is_empty() {
        value["parameters"] = json!(parameters);
    }
    if let Some(schema) = &page.body {
        let content = json!({ "application/json": { "schema": schema } });
        value["requestBody"] = json!({ "required": true, "content": content });
    }
    // With a token or, where none is set, without.
    if !OPEN_PATHS.contains(&operation.path) {
        value["security"] = json!([{}, { "token": [] }]);
    }
    value
}

/// The page's answers, its own refusals, and those that every request may meet.
fn responses(operation: &Operation, page: &Page) -> Value {
    let mut responses = Map::new();
    for (status, about, content) in &page.answers {
        responses.insert(
            status.to_string(),
            json!({ "description": about, "content": content }),
        );
    }
    let token = !OPEN_PATHS.contains(&operation.path);
    let body = page.body.is_some();
    let changes = operation.method != "GET";
    let common = [
        (
            true,
            400,
            "The request is not well-formed; what is wrong is said.",
        ),
        (token, 401, "The token is missing or wrong."),
        (true, 403, "The Origin is another page's."),
        (body, 408, "The body comes too slowly."),
        (body, 413, "The body has more than 1 MiB."),
        (changes, 415, "The body is not `application/json`."),
        (
            true,
            421,
            "The Host is neither an IP address nor localhost.",
        ),
        (true, 431, "The head is too large."),
        (
            true,
            503,
            "A loop does not answer, or 64 connections are open already.",
        ),
    ];
    let common = common.into_iter().filter(|(applies, ..)| *applies);
    let own = page.refusals.iter().copied();
    for (status, about) in own.chain(common.map(|(_, status, about)| (status, about))) {
        let schema = match page.spoken {
            Spoken::Ours => schemas::named("Error"),
            // What can't be read at all has no path whose words it could have.
            Spoken::Balancers => {
                let either = ["Result", "Error"].map(schemas::named);
                json!({ "anyOf": either })
            }
        };
        let refusal = json!({ "application/json": { "schema": schema } });
        let entry = responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "description": about, "content": {} }));
        entry["content"]["application/json"] = refusal["application/json"].clone();
    }
    responses.sort_keys();
    Value::Object(responses)
}

/// `patch_v1_servers_id`.
fn name_of(operation: &Operation) -> String {
    let words = operation
        .path
        .split(|sign: char| !sign.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    let method = operation.method.to_ascii_lowercase();
    let words = std::iter::once(method.as_str()).chain(words);
    words.collect::<Vec<_>>().join("_")
}

const ABOUT: &str = "Served on the admin address alone. Where there is GET, there is HEAD. Errors \
    have the right status and say what is wrong. Nothing is changed by GET; each change may be \
    repeated and then changes nothing more. `docs/admin.md` has examples.";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_operation_has_a_page_and_every_page_an_operation() {
        let served = OPERATIONS.iter().map(|one| (one.method, one.path));
        let served: BTreeSet<_> = served.collect();
        assert_eq!(served.len(), OPERATIONS.len(), "one stands twice");
        let described: BTreeSet<_> = pages::ALL.iter().map(|(key, _)| *key).collect();
        assert_eq!(described.len(), pages::ALL.len(), "one is described twice");
        assert_eq!(served, described);
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let counted: usize = paths
            .values()
            .map(|path| path.as_object().unwrap().len())
            .sum();
        assert_eq!(counted, OPERATIONS.len());
    }

    #[test]
    fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let there = schemas
            .keys()
            .map(|name| format!("#/components/schemas/{name}"));
        assert_eq!(
            found
                .into_iter()
                .map(str::to_owned)
                .collect::<BTreeSet<_>>(),
            there.collect()
        );
    }

    #[test]
    fn every_parameter_that_is_taken_is_described() {
        for operation in OPERATIONS {
            let page = pages::of(operation.method, operation.path).unwrap();
            let names = page
                .parameters
                .iter()
                .map(|one| one["name"].as_str().unwrap());
            let taken = operation.params().unwrap_or_default();
            assert_eq!(names.collect::<Vec<_>>(), taken, "{}", operation.path);
        }
    }

    #[test]
    fn names_of_operations_are_unique() {
        let names: BTreeSet<String> = OPERATIONS.iter().map(name_of).collect();
        assert_eq!(names.len(), OPERATIONS.len());
        assert!(names.contains("patch_v1_servers_id"), "{names:?}");
    }
}
