//! Netlink messages: a builder of headers and attributes, and a reader of attributes.

const HEADER: usize = 16;
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = (1 << 14) - 1;

/// A request under construction. It carries words for the error that it may earn.
#[derive(Debug, Clone)]
pub struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) operation: &'static str,
    pub(super) subject: String,
    pub(super) too_long: bool,
    /// Begins or ends a transaction: not a request of its own.
    pub(super) frame: bool,
}

impl Message {
    /// Starts a request of type `kind` with the family's fixed header.
    #[must_use]
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | flag(libc::NLM_F_REQUEST)).to_ne_bytes());
        Self { bytes, operation: "send", subject: "netlink message".into(), too_long: false, frame: false }.raw(header)
    }

    /// Says what is being done to what, for errors.
    #[must_use]
    pub fn named(mut self, operation: &'static str, subject: impl Into<String>) -> Self {
        self.operation = operation;
        self.subject = subject.into();
        self
    }

    /// Appends bytes as they are, padded.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let length = self.length_of(4 + value.len());
        self.bytes.extend_from_slice(&length);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value)
    }

    /// Appends a number in the machine's byte order.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, value.to_ne_bytes())
    }

    /// Appends a number in network byte order, as nfnetlink wants them.
    #[must_use]
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, value.to_be_bytes())
    }

    /// Appends a text that ends with a zero byte.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, [value.as_bytes(), &[0]].concat())
    }

    /// Appends an attribute that holds what `fill` appends.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = filled.length_of(filled.bytes.len() - start);
        filled.bytes[start..start + 2].copy_from_slice(&length);
        filled
    }

    /// Sets further flags of the header.
    #[must_use]
    pub(super) fn flags(mut self, flags: u16) -> Self {
        let old = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
        self
    }

    /// Finishes the header.
    pub(super) fn seal(&mut self, sequence: u32) {
        match u32::try_from(self.bytes.len()) {
            Ok(length) => self.bytes[..4].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }

    /// An attribute's length is 16 bits; a longer one makes the message refused when it is sent.
    fn length_of(&mut self, length: usize) -> [u8; 2] {
        u16::try_from(length)
            .unwrap_or_else(|_| {
                self.too_long = true;
                0
            })
            .to_ne_bytes()
    }
}

/// A message from the kernel, without its netlink header.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its type.
    pub kind: u16,
    /// The family's header and the attributes.
    pub body: Vec<u8>,
}

impl Reply {
    /// The attributes behind a fixed header of `header` bytes.
    #[must_use]
    pub fn attributes(&self, header: usize) -> Attributes<'_> {
        Attributes::new(self.body.get(header..).unwrap_or_default())
    }

    /// The four bytes at `offset` of the fixed header as a number.
    #[must_use]
    pub fn number_at(&self, offset: usize) -> u32 {
        self.body.get(offset..offset + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }
}

/// Reads attributes one after the other; malformed ones end it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes in these bytes, such as a nested attribute's value.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of this kind.
    #[must_use]
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        Iterator::find(&mut self, |(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// A number in the machine's byte order.
    #[must_use]
    pub fn u32(self, kind: u16) -> Option<u32> {
        self.find(kind).and_then(|value| value.try_into().ok()).map(u32::from_ne_bytes)
    }

    /// A text up to its zero byte.
    #[must_use]
    pub fn text(self, kind: u16) -> Option<String> {
        let value = self.find(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

pub(super) fn flag(value: i32) -> u16 {
    u16::try_from(value).expect("netlink flags have 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let message = Message::new(1, 0, &[1, 2, 3, 4]).text(3, "eth0").nest(9, |m| m.be32(1, 7).u32(2, 8)).u32(4, 5);
        let reply = Reply { kind: 1, body: message.bytes[HEADER..].to_vec() };
        let attributes = reply.attributes(4);
        assert_eq!(attributes.text(3).as_deref(), Some("eth0"));
        assert_eq!(attributes.u32(4), Some(5));
        let inner = Attributes::new(attributes.find(9).unwrap());
        assert_eq!(inner.find(1), Some(&7_u32.to_be_bytes()[..]));
        assert_eq!(inner.u32(2), Some(8));
    }

    #[test]
    fn cut_attributes_end_the_reading() {
        for cut in 0..8 {
            let whole = [8, 0, 1, 0, 1, 2, 3, 4];
            assert_eq!(Attributes::new(&whole[..cut]).count(), 0);
        }
        assert_eq!(Attributes::new(&[0; 16]).count(), 0);
    }

    #[test]
    fn an_attribute_that_is_too_long_is_noticed() {
        assert!(Message::new(1, 0, &[]).attribute(1, vec![0; 70_000]).too_long);
    }
}
