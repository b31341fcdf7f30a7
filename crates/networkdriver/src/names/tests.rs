//! The resolver by itself: a host, containers and servers outside, each in network namespaces of their own.

mod measure;
mod mutations;
mod outside;
mod process;
mod wire;
mod world;
