//! What Docker promises of images and of containers' files, in depth: by the real CLI, beside ours.

mod changes;
mod copies;
mod imports;
mod lists;
mod space;
