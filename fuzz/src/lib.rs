//! What several fuzz targets share: descriptions of archives that bytes alone would not become.

pub mod images;
pub mod libseccomp;
pub mod place;
pub mod tarball;
