//! GraphDB against a plain model, and its promises one by one.
