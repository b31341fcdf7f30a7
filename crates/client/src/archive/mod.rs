//! Files in and out of tar streams for `cp`.

mod pack;
mod plan;
mod unpack;

pub use pack::pack;
pub use plan::{Place, base_of, parent_of, plan};
pub use unpack::unpack;
