//! Tar archives from a description: whole enough to get far, wrong in places. The names are few, so that entries meet.

use arbitrary::{Arbitrary, Result, Unstructured};
use tar::{EntryType, Header};

/// The most entries of one archive.
const ENTRIES: usize = 24;

/// Parts of names. `@` stands for a directory that is outside.
const WORDS: [&[u8]; 24] = [
    b"a",
    b"b",
    b"c",
    b"a",
    b"b",
    b"d",
    b"etc",
    b".wh.a",
    b".wh.b",
    b".wh.c",
    b".wh.d",
    b".wh..wh..opq",
    b".wh..wh.plnk",
    b".wh.",
    b".wh...",
    b"..",
    b".",
    b"",
    b"@",
    b"\xff\xfe",
    b"\xc3\xa4",
    b"a b\n",
    b"victim",
    b"low",
];

/// An archive, described.
#[derive(Debug, Clone)]
pub struct Tarball {
    pub members: Vec<Member>,
    /// Bytes behind the last entry; the usual end is 1024 zeros.
    pub end: Vec<u8>,
    /// Bytes that are not there at its end.
    pub cut: u16,
}

/// A header with what belongs to it.
#[derive(Debug, Clone)]
pub struct Member {
    pub kind: u8,
    pub ustar: bool,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u16,
    pub owner: u32,
    pub mtime: u32,
    pub data: Vec<u8>,
    pub sparse: Vec<(u32, u16)>,
    pub real_size: u32,
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the header that become others before it is summed up.
    pub edits: Vec<(u16, u8)>,
    /// The header's checksum is wrong.
    pub unsummed: bool,
}

impl<'a> Arbitrary<'a> for Tarball {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let count = u.int_in_range(0..=ENTRIES)?;
        let mut members = Vec::new();
        while members.len() < count && !u.is_empty() {
            members.push(Member::arbitrary(u)?);
        }
        let end = match u.int_in_range(0..=9)? {
            0 => Vec::new(),
            1 => vec![0; 512],
            2 => [&[0; 1024], bytes(u, 700)?.as_slice()].concat(),
            3 => vec![0; 10240],
            _ => vec![0; 1024],
        };
        let cut = if u.ratio(1, 20)? { u.int_in_range(0..=1500)? } else { 0 };
        Ok(Self { members, end, cut })
    }
}

impl<'a> Arbitrary<'a> for Member {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const KINDS: &[u8] = b"0000000055555222211113344667gSLKx\0";
        let kind = if u.ratio(1, 50)? { u.arbitrary()? } else { *u.choose(KINDS)? };
        let mut member = Self {
            kind,
            ustar: u.ratio(1, 3)?,
            name: name(u)?,
            link: if matches!(kind, b'1' | b'2') { name(u)? } else { Vec::new() },
            mode: *u.choose(&[0o644, 0o755, 0o4755, 0o1777, 0, 0xffff])?,
            owner: *u.choose(&[0, 0, 0, 1000, 0o7_777_777, u32::MAX])?,
            mtime: *u.choose(&[1_000_000_000, 0, 1, u32::MAX])?,
            data: Vec::new(),
            sparse: Vec::new(),
            real_size: 0,
            records: Vec::new(),
            edits: Vec::new(),
            unsummed: u.ratio(1, 200)?,
        };
        match kind {
            b'0' | b'7' | 0 => {
                let length = *u.choose(&[0, 1, 5, 100, 511, 512, 513, 3000])?;
                member.data = vec![u.arbitrary()?; length];
            }
            b'S' => member.sparse(u)?,
            b'L' | b'K' => member.data = if u.ratio(1, 20)? { vec![b'n'; 9000] } else { name(u)? },
            b'x' | b'g' => member.data = bytes(u, 60)?,
            // Data where there must be none.
            _ if u.ratio(1, 20)? => member.data = bytes(u, 600)?,
            _ => {}
        }
        if u.ratio(1, 4)? {
            for _ in 0..u.int_in_range(1..=3)? {
                member.records.push(record(u)?);
            }
        }
        if u.ratio(1, 10)? {
            for _ in 0..u.int_in_range(1..=3)? {
                member.edits.push((u.int_in_range(0..=511)?, u.arbitrary()?));
            }
        }
        Ok(member)
    }
}

impl Member {
    fn sparse(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut at = 0_u32;
        for _ in 0..u.int_in_range(0..=6)? {
            let piece = (at + u32::from(u.int_in_range(0..=5000_u16)?), u.int_in_range(0..=700_u16)?);
            at = piece.0 + u32::from(piece.1);
            self.sparse.push(piece);
        }
        let stored = self.sparse.iter().map(|(_, length)| usize::from(*length)).sum();
        self.data = vec![b's'; stored];
        self.real_size = at + u32::from(u.int_in_range(0..=9000_u16)?);
        if u.ratio(1, 10)? {
            self.real_size = u.arbitrary()?;
        }
        Ok(())
    }

    fn write(&self, archive: &mut Vec<u8>) {
        if !self.records.is_empty() {
            let body: Vec<u8> = self.records.iter().flat_map(|(key, value)| pax(key, value)).collect();
            let extended = Self { kind: b'x', data: body, records: Vec::new(), edits: Vec::new(), ..self.clone() };
            Self { name: b"PaxHeaders.0/x".to_vec(), ..extended }.write(archive);
        }
        let mut header = if self.ustar { Header::new_ustar() } else { Header::new_gnu() };
        header.set_entry_type(EntryType::new(self.kind));
        header.set_mode(self.mode.into());
        header.set_uid(self.owner.into());
        header.set_gid(self.owner.into());
        header.set_mtime(self.mtime.into());
        header.set_size(self.data.len() as u64);
        copy(&mut header.as_old_mut().name, &self.name);
        copy(&mut header.as_old_mut().linkname, &self.link);
        let mut more = Vec::new();
        if self.kind == b'S' && !self.ustar {
            more = self.map(&mut header);
        }
        for (at, byte) in &self.edits {
            header.as_mut_bytes()[usize::from(*at) % 512] = *byte;
        }
        header.set_cksum();
        if self.unsummed {
            header.as_mut_bytes()[150] ^= 1;
        }
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(&more);
        archive.extend_from_slice(&self.data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }

    /// The map of a sparse file: four pieces in the header, more in a block of their own.
    fn map(&self, header: &mut Header) -> Vec<u8> {
        let gnu = header.as_gnu_mut().expect("a GNU header");
        gnu.set_real_size(self.real_size.into());
        let fill = |slots: &mut [tar::GnuSparseHeader], pieces: &[(u32, u16)]| {
            for (slot, (offset, length)) in slots.iter_mut().zip(pieces) {
                slot.set_offset((*offset).into());
                slot.set_length((*length).into());
            }
        };
        fill(&mut gnu.sparse, &self.sparse);
        if self.sparse.len() <= gnu.sparse.len() {
            return Vec::new();
        }
        gnu.set_is_extended(true);
        let mut block = tar::GnuExtSparseHeader::new();
        fill(&mut block.sparse, &self.sparse[4..]);
        block.as_bytes().to_vec()
    }
}

impl Tarball {
    /// The archive's bytes; `outside` is written where the description says `@`.
    pub fn bytes(&self, outside: &str) -> Vec<u8> {
        let mut archive = Vec::new();
        for member in &self.members {
            let mut member = member.clone();
            for name in [&mut member.name, &mut member.link] {
                *name = replace(name, outside);
            }
            member.write(&mut archive);
        }
        archive.extend_from_slice(&self.end);
        archive.truncate(archive.len().saturating_sub(self.cut.into()));
        archive
    }
}

fn replace(name: &[u8], outside: &str) -> Vec<u8> {
    let parts = name.split(|byte| *byte == b'@').collect::<Vec<_>>();
    parts.join(outside.as_bytes())
}

fn copy(field: &mut [u8; 100], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// A path of one to four words, now and then a long one.
pub fn name(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    if u.ratio(1, 60)? {
        let length = *u.choose(&[99, 100, 101, 255, 256, 4096])?;
        return Ok(vec![b'l'; length]);
    }
    let mut path = Vec::new();
    if u.ratio(1, 10)? {
        path.push(b'/');
    }
    for index in 0..u.int_in_range(1..=4)? {
        if index > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(u.choose(&WORDS)?);
    }
    if u.ratio(1, 10)? {
        path.push(b'/');
    }
    Ok(path)
}

fn record(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Vec<u8>)> {
    const XATTRS: [&str; 8] = [
        "user.a",
        "user.b",
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.x",
        "security.capability",
        "system.posix_acl_access",
        "security.selinux",
    ];
    let number = |u: &mut Unstructured<'_>| -> Result<Vec<u8>> {
        let text = *u.choose(&["0", "1", "512", "4294967295", "18446744073709551615", "-1", "x", "2097152"])?;
        Ok(text.as_bytes().to_vec())
    };
    Ok(match u.int_in_range(0..=7)? {
        0 => (b"path".to_vec(), name(u)?),
        1 => (b"linkpath".to_vec(), name(u)?),
        2 => (b"size".to_vec(), number(u)?),
        3 => (u.choose(&[b"uid", b"gid"])?.to_vec(), number(u)?),
        4 => {
            let text = *u.choose(&[
                "1",
                "1.5",
                "-1.25",
                "99999999999",
                "9223372036854775807",
                "1.",
                "-9223372036854775808.1",
            ])?;
            (b"mtime".to_vec(), text.as_bytes().to_vec())
        }
        5 | 6 => (format!("SCHILY.xattr.{}", u.choose(&XATTRS)?).into_bytes(), bytes(u, 40)?),
        _ => (bytes(u, 12)?, bytes(u, 12)?),
    })
}

/// Up to `most` bytes.
pub fn bytes(u: &mut Unstructured<'_>, most: usize) -> Result<Vec<u8>> {
    let length = u.int_in_range(0..=most)?.min(u.len());
    Ok(u.bytes(length)?.to_vec())
}

/// `length key=value\n`; the length counts its own digits.
fn pax(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}
