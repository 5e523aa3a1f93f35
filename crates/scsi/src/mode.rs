//! Mode parameters: headers, block descriptors, pages. SPC-4, section 7.5.

use crate::{Cdb, Sense, Work};

const ALL_PAGES: u8 = 0x3F;
const ALL_SUBPAGES: u8 = 0xFF;

/// What of a page is asked for, in the top bits of MODE SENSE's byte 2.
const CHANGEABLE: u8 = 1;
const DEFAULT: u8 = 2;
const SAVED: u8 = 3;

/// Bytes of a block descriptor in its short form.
const DESCRIPTOR_SIZE: usize = 8;

/// A mode page, without its code and length.
pub(crate) struct Page<'a> {
    pub code: u8,
    pub current: &'a [u8],
    pub default: &'a [u8],
    /// Bits that an initiator may change; none where it is empty.
    pub changeable: &'a [u8],
}

impl<'a> Page<'a> {
    /// A page none of whose bits can be changed.
    pub fn fixed(code: u8, content: &'a [u8]) -> Self {
        Page { code, current: content, default: content, changeable: &[] }
    }
}

/// What MODE SENSE tells besides pages.
pub(crate) struct Header {
    pub medium_type: u8,
    pub device_specific: u8,
    pub descriptor: Option<[u8; DESCRIPTOR_SIZE]>,
}

/// MODE SENSE(6) or, by its operation code, MODE SENSE(10).
pub(crate) fn sense(cdb: &Cdb, header: &Header, all: &[Page]) -> Result<Work, Sense> {
    let (wanted, values, subpage) = (cdb.u8(2) & 0x3F, cdb.u8(2) >> 6, cdb.u8(3));
    if values == SAVED {
        return Err(Sense::NOTHING_SAVED);
    }
    if !matches!(subpage, 0 | ALL_SUBPAGES) {
        return Err(Sense::INVALID_FIELD);
    }
    let mut pages = Vec::new();
    for page in all.iter().filter(|page| wanted == ALL_PAGES || page.code == wanted) {
        pages.extend([page.code, page.current.len() as u8]);
        match values {
            CHANGEABLE => pages.extend((0..page.current.len()).map(|at| page.changeable.get(at).copied().unwrap_or(0))),
            DEFAULT => pages.extend(page.default),
            _ => pages.extend(page.current),
        }
    }
    if pages.is_empty() {
        return Err(Sense::INVALID_FIELD);
    }
    let disable_descriptors = cdb.u8(1) & 1 << 3 != 0;
    let descriptor = header.descriptor.filter(|_| !disable_descriptors);
    let descriptor = descriptor.as_ref().map_or(&[][..], |bytes| bytes);
    let Header { medium_type, device_specific, .. } = *header;
    let size = descriptor.len() + pages.len();
    if cdb.operation() == 0x1A {
        let head = [size as u8 + 3, medium_type, device_specific, descriptor.len() as u8];
        return Work::answer([&head[..], descriptor, &pages].concat(), cdb.u8(4).into());
    }
    let head = [0, size as u8 + 6, medium_type, device_specific, 0, 0, 0, descriptor.len() as u8];
    Work::answer([&head[..], descriptor, &pages].concat(), cdb.u16(7).into())
}

/// How many bytes of parameters MODE SELECT(6) or (10) brings: standard pages that are not to be saved.
pub(crate) fn select_size(cdb: &Cdb) -> Result<usize, Sense> {
    let (page_format, save) = (cdb.u8(1) & 1 << 4 != 0, cdb.u8(1) & 1 != 0);
    let size = if cdb.operation() == 0x15 { usize::from(cdb.u8(4)) } else { usize::from(cdb.u16(7)) };
    if page_format && !save || size == 0 { Ok(size) } else { Err(Sense::INVALID_FIELD) }
}

/// Takes apart what MODE SELECT brings, and checks it against the block descriptor and the pages there are. Gives each
/// page that is there with its new content, once all of them are good.
pub(crate) fn select<'a>(
    cdb: &Cdb,
    list: &'a [u8],
    descriptor: [u8; DESCRIPTOR_SIZE],
    all: &[Page],
) -> Result<Vec<(u8, &'a [u8])>, Sense> {
    let (header_size, descriptors) = match (cdb.operation(), list) {
        (0x15, [_, _, _, descriptors, ..]) => (4, usize::from(*descriptors)),
        (0x55, [_, _, _, _, _, _, high, low, ..]) => (8, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => return Err(Sense::LIST_LENGTH),
    };
    let rest = list.get(header_size..).ok_or(Sense::LIST_LENGTH)?;
    let (given, mut rest) = rest.split_at_checked(descriptors).ok_or(Sense::LIST_LENGTH)?;
    // A number of blocks of zero, or as many as there are, and their size, change nothing.
    match given {
        [] => {}
        [blocks @ .., _, s0, s1, s2] if blocks.len() == 4 => {
            let same = blocks == &descriptor[..4] || blocks == [0; 4];
            if !same || [*s0, *s1, *s2] != descriptor[5..] {
                return Err(Sense::INVALID_PARAMETER);
            }
        }
        _ => return Err(Sense::INVALID_PARAMETER),
    }
    let mut changes = Vec::new();
    while let [code, size, content @ ..] = rest {
        let (new, after) = content.split_at_checked(usize::from(*size)).ok_or(Sense::LIST_LENGTH)?;
        let page = all.iter().find(|page| page.code == *code).ok_or(Sense::INVALID_PARAMETER)?;
        let may = |at: usize| page.changeable.get(at).copied().unwrap_or(0);
        let differs = |(at, (new, old)): (usize, (&u8, &u8))| (new ^ old) & !may(at) != 0;
        if new.len() != page.current.len() || new.iter().zip(page.current).enumerate().any(differs) {
            return Err(Sense::INVALID_PARAMETER);
        }
        changes.push((*code, new));
        rest = after;
    }
    if rest.is_empty() { Ok(changes) } else { Err(Sense::LIST_LENGTH) }
}
