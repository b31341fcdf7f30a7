//! What a check of the store finds: where, what is wrong, and what came of it.

use std::fmt;

use gantry_api::reference::Digest;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub place: Place,
    /// What is wrong with it.
    pub problem: Problem,
    /// What came of it.
    pub outcome: Outcome,
}

/// A stored thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// An image, by its id.
    Image(Digest),
    /// A layer, by its chain id.
    Layer(Digest),
    /// A configuration, manifest or manifest list.
    Document(Digest),
    /// The bytes of a compressed layer that are kept.
    Blob(Digest),
    /// A directory of the graphdriver.
    Directory(String),
    /// A directory of the graphdriver whose record was lost with a damaged database, or an image (by its id) none of whose
    /// layers was found again.
    Lost(String),
    /// A record of the database, by its id.
    Record(String),
    /// A name in the database, as a path.
    Name(String),
    /// A container, by its id.
    Container(String),
    /// The database as a whole.
    Database,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It is not there.
    Missing,
    /// It is not what was stored; the text says in what.
    Altered(String),
    /// It cannot be read; the text says why.
    Unreadable(String),
    /// Its size is not the one that was recorded.
    Size {
        /// Bytes that it has.
        found: u64,
        /// Bytes that the database says.
        recorded: u64,
    },
    /// Nothing needs it.
    Unneeded,
    /// It names something that is not there.
    Dangling,
    /// It stands on this damaged layer.
    StandsOn(Digest),
}

/// What came of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was found, and nothing was to be done.
    Found,
    /// It is as it should be now.
    Repaired(Repair),
    /// It is as it was; the text says why, and what a person can do.
    Unrepaired(String),
}

/// How something was repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Fetched again from its registry.
    Fetched {
        /// The name under which the registry has it.
        from: String,
        /// Containers that have the damaged files mounted until they are started again.
        running: Vec<String>,
    },
    /// Written again from what the daemon knew.
    Rewritten,
    /// Deleted: nothing needed it.
    Deleted,
    /// A layer was made anew of its own content. Containers that run see that when they are started again.
    Remade,
    /// Deleted: the layer is there, and a push compresses it anew where no registry has the blob.
    Forgotten,
    /// Removed with these names.
    Removed(Vec<String>),
}

impl Place {
    /// One word for what it is.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Image(_) => "image",
            Self::Layer(_) => "layer",
            Self::Document(_) => "document",
            Self::Blob(_) => "blob",
            Self::Directory(_) => "directory",
            Self::Lost(id) if id.starts_with("sha256:") => "image",
            Self::Lost(_) => "directory",
            Self::Record(_) => "record",
            Self::Name(_) => "name",
            Self::Container(_) => "container",
            Self::Database => "database",
        }
    }

    /// Which one it is.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Image(digest) | Self::Layer(digest) | Self::Document(digest) | Self::Blob(digest) => digest.as_str(),
            Self::Directory(name)
            | Self::Lost(name)
            | Self::Record(name)
            | Self::Name(name)
            | Self::Container(name) => name,
            Self::Database => "gantry.db",
        }
    }
}

impl Problem {
    /// One word for what it is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Altered(_) => "altered",
            Self::Unreadable(_) => "unreadable",
            Self::Size { .. } => "size",
            Self::Unneeded => "unneeded",
            Self::Dangling => "dangling",
            Self::StandsOn(_) => "damaged-layer",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "it is missing"),
            Self::Altered(how) => write!(f, "it is not what was stored: {how}"),
            Self::Unreadable(why) => write!(f, "it cannot be read: {why}"),
            Self::Size { found, recorded } => write!(f, "it has {found} bytes, the database says {recorded}"),
            Self::Unneeded => write!(f, "no image and no container needs it"),
            Self::Dangling => write!(f, "what it belongs to is not known"),
            Self::StandsOn(layer) => write!(f, "its layer {layer} is damaged"),
        }
    }
}

impl Outcome {
    /// One word for it: `found`, `repaired` or `unrepaired`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Repaired(_) => "repaired",
            Self::Unrepaired(_) => "unrepaired",
        }
    }
}

/// What a person reads; empty where nothing was to be done.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found => Ok(()),
            Self::Repaired(Repair::Fetched { from, running }) => {
                write!(f, "fetched again from {from}")?;
                match running.is_empty() {
                    true => Ok(()),
                    false => write!(f, "; restart what runs on the damaged files still: {}", running.join(", ")),
                }
            }
            Self::Repaired(Repair::Rewritten) => write!(f, "written again"),
            Self::Repaired(Repair::Deleted) => write!(f, "deleted"),
            Self::Repaired(Repair::Remade) => {
                write!(f, "made anew of its own content; restart what runs on it")
            }
            Self::Repaired(Repair::Forgotten) => write!(f, "deleted; a push compresses its layer anew"),
            Self::Repaired(Repair::Removed(names)) if names.is_empty() => write!(f, "removed"),
            Self::Repaired(Repair::Removed(names)) => write!(f, "removed: pull or load {} again", names.join(", ")),
            Self::Unrepaired(why) => write!(f, "{why}"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.place.kind(), self.place.name(), self.problem)?;
        match &self.outcome {
            Outcome::Found => Ok(()),
            outcome => write!(f, " ({outcome})"),
        }
    }
}
