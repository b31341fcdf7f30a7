//! seccomp profiles compiled to BPF (being written).
