//! As much of the registry's server as its uploads need, for the target `uploads`: the files themselves, without HTTP, TLS and DNS,
//! which would take most of an hour to build with a sanitizer.
#![allow(dead_code, reason = "the server needs more of it")]

#[path = "../../crates/registry/src/byte_range.rs"]
pub mod byte_range;
#[path = "../../crates/registry/src/server/failure.rs"]
pub mod failure;
#[path = "../../crates/registry/src/server/names.rs"]
pub mod names;
#[path = "../../crates/registry/src/server/store/error.rs"]
pub mod store;
#[path = "../../crates/registry/src/server/upload_id.rs"]
pub mod upload_id;
#[path = "../../crates/registry/src/server/uploads/mod.rs"]
pub mod uploads;

pub use byte_range::Chunk;

/// What a failure becomes, which nobody is sent here.
pub mod answer {
    use http::StatusCode;

    pub type Response = http::Response<String>;

    pub fn json_answer(status: StatusCode, value: &serde_json::Value) -> Response {
        let mut response = Response::new(value.to_string());
        *response.status_mut() = status;
        response
    }
}
