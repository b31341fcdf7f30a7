//! netlink (being written).
