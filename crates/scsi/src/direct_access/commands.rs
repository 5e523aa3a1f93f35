//! The commands of a disk. SBC-3, chapter 5; SPC-4, chapter 6.

use super::{BLOCK_SIZE, DirectAccess, PHYSICAL_EXPONENT, PIECE, pages};
use crate::unit::Span;
use crate::{Cdb, Sense, Work, mode};

/// Every command there is: operation code, service action, and for each further byte the bits that mean something: the
/// usage map of REPORT SUPPORTED OPERATION CODES. SPC-4, section 6.35.3.
pub(super) const SUPPORTED: [(u8, Option<u8>, &[u8]); 32] = [
    (0x00, None, &[0, 0, 0, 0, CONTROL]),
    (0x03, None, &[0, 0, 0, 0xFF, CONTROL]),
    (0x08, None, &[0x1F, 0xFF, 0xFF, 0xFF, CONTROL]),
    (0x0A, None, &[0x1F, 0xFF, 0xFF, 0xFF, CONTROL]),
    (0x12, None, &[0x01, 0xFF, 0xFF, 0xFF, CONTROL]),
    (0x15, None, &[0x11, 0, 0, 0xFF, CONTROL]),
    (0x1A, None, &[0x08, 0xFF, 0xFF, 0xFF, CONTROL]),
    (0x1B, None, &[0x01, 0, 0, 0xF7, CONTROL]),
    (0x25, None, &[0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0x01, CONTROL]),
    (0x28, None, &[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, CONTROL]),
    (0x2A, None, &[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, CONTROL]),
    (0x2B, None, &[0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, CONTROL]),
    (0x2E, None, &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, CONTROL]),
    (0x2F, None, &[0x12, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, CONTROL]),
    (0x35, None, &[0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, CONTROL]),
    (0x41, None, &[0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, CONTROL]),
    (0x42, None, &[0, 0, 0, 0, 0, 0, 0xFF, 0xFF, CONTROL]),
    (0x55, None, &[0x11, 0, 0, 0, 0, 0, 0xFF, 0xFF, CONTROL]),
    (0x5A, None, &[0x08, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF, CONTROL]),
    (0x88, None, &[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0x8A, None, &[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0x8E, None, &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0x8F, None, &[0x12, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0x91, None, &[0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0x93, None, &[0x09, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0x9E, Some(READ_CAPACITY_16), &[0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0xA0, None, &[0, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0xA3, Some(REPORT_OPERATIONS), &[0x0C, 0x87, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0xA8, None, &[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0xAA, None, &[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0xAE, None, &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
    (0xAF, None, &[0x12, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, CONTROL]),
];

/// Nothing of the control byte.
const CONTROL: u8 = 0;
const READ_CAPACITY_16: u8 = 0x10;
const REPORT_OPERATIONS: u8 = 0x0C;

/// Forced unit access.
const FUA: u8 = 1 << 3;

impl DirectAccess {
    /// Carries out a command that no attention stands against.
    pub(super) fn execute(&mut self, cdb: &Cdb) -> Result<Work, Sense> {
        let done = |()| Work::Done;
        match (cdb.operation(), cdb.action()) {
            // TEST UNIT READY.
            (0x00, _) => self.ready().map(done),
            // READ(6), (10), (16), (12).
            (0x08 | 0x28 | 0x88 | 0xA8, _) => self.read(cdb),
            // WRITE in the same forms, then WRITE AND VERIFY.
            (0x0A | 0x2A | 0x8A | 0xAA | 0x2E | 0x8E | 0xAE, _) => self.write(cdb),
            // VERIFY.
            (0x2F | 0x8F | 0xAF, _) => self.verify(cdb),
            // MODE SELECT(6) and (10).
            (0x15 | 0x55, _) => Ok(parameters(mode::select_size(cdb)?)),
            // MODE SENSE(6) and (10).
            (0x1A | 0x5A, _) => {
                let header = mode::Header {
                    medium_type: 0,
                    device_specific: pages::device_specific(self.disk.readonly()),
                    descriptor: Some(pages::descriptor(self.blocks)),
                };
                mode::sense(cdb, &header, &pages::modes(&self.caching_page()))
            }
            // START STOP UNIT.
            (0x1B, _) => self.start_stop(cdb.u8(4)).map(done),
            // READ CAPACITY(10).
            (0x25, _) if cdb.u32(2) == 0 => {
                self.ready()?;
                let last = u32::try_from(self.blocks - 1).unwrap_or(u32::MAX);
                Work::answer([last, BLOCK_SIZE].map(u32::to_be_bytes).concat(), 8)
            }
            // SEEK(10), which old firmware sends.
            (0x2B, _) => {
                self.ready()?;
                self.check(cdb.u32(2).into(), 1).map(done)
            }
            // SYNCHRONIZE CACHE(10) and (16): all of it.
            (0x35 | 0x91, _) => {
                self.ready()?;
                let (first, count) = cdb.blocks();
                self.check(first, count.into())?;
                self.flush().map(done)
            }
            // WRITE SAME(10) and (16).
            (0x41 | 0x93, _) => self.want_write_same(cdb),
            // UNMAP, without anchors.
            (0x42, _) if cdb.u8(1) & 1 == 0 => {
                self.writable()?;
                Ok(parameters(cdb.u16(7).into()))
            }
            (0x9E, READ_CAPACITY_16) => {
                self.ready()?;
                Work::answer(self.capacity(), cdb.u32(10) as usize)
            }
            (0xA3, REPORT_OPERATIONS) => report_operations(cdb),
            (0x25 | 0x42 | 0x9E | 0xA3, _) => Err(Sense::INVALID_FIELD),
            // Reservations among them: there is but one initiator.
            _ => Err(Sense::INVALID_OPERATION),
        }
    }

    fn read(&self, cdb: &Cdb) -> Result<Work, Sense> {
        self.ready()?;
        refuse_protection(cdb)?;
        let Some(span) = self.span(cdb)? else { return Ok(Work::Done) };
        // What is read by force is on the medium.
        if cdb.operation() != 0x08 && cdb.u8(1) & FUA != 0 && !self.disk.readonly() {
            self.flush()?;
        }
        Ok(Work::Read(span))
    }

    fn write(&self, cdb: &Cdb) -> Result<Work, Sense> {
        self.writable()?;
        refuse_protection(cdb)?;
        let Some(span) = self.span(cdb)? else { return Ok(Work::Done) };
        let forced = match cdb.operation() {
            0x0A => false,
            0x2A | 0x8A | 0xAA => cdb.u8(1) & FUA != 0,
            _ => true,
        };
        Ok(Work::Write { span, durable: forced || !self.write_cache })
    }

    fn verify(&self, cdb: &Cdb) -> Result<Work, Sense> {
        self.ready()?;
        refuse_protection(cdb)?;
        let span = self.span(cdb)?;
        // BYTCHK: with nothing, or with all the bytes that the initiator gives.
        match (cdb.u8(1) >> 1 & 3, span) {
            (0, Some(span)) => self.read_through(span).map(|()| Work::Done),
            (1, Some(span)) => Ok(Work::Compare(span)),
            (0 | 1, None) => Ok(Work::Done),
            _ => Err(Sense::INVALID_FIELD),
        }
    }

    /// Reads blocks and forgets them.
    fn read_through(&self, span: Span) -> Result<(), Sense> {
        let mut piece = vec![0; PIECE.min(span.size() as usize)];
        let mut at = 0;
        while at < span.size() {
            let size = piece.len().min((span.size() - at) as usize);
            let offset = span.offset() + at;
            self.disk.read(offset, &mut piece[..size]).map_err(Sense::of_read)?;
            at += size as u64;
        }
        Ok(())
    }

    /// SBC-3, section 5.25.
    fn start_stop(&mut self, how: u8) -> Result<(), Sense> {
        let (power_condition, load_eject, no_flush, start) = (how >> 4, how & 2 != 0, how & 4 != 0, how & 1 != 0);
        match power_condition {
            0 if load_eject => return Err(Sense::INVALID_FIELD),
            0 => {
                if !start && !no_flush {
                    self.flush()?;
                }
                self.stopped = !start;
            }
            // Active, idle, standby, who controls them: whichever it is, the next command is carried out.
            0x1..=0x3 | 0x7 | 0xA | 0xB => {}
            _ => return Err(Sense::INVALID_FIELD),
        }
        Ok(())
    }

    /// READ CAPACITY(16). SBC-3, section 5.16.2.
    fn capacity(&self) -> Vec<u8> {
        let mut data = vec![0; 32];
        data[..8].copy_from_slice(&(self.blocks - 1).to_be_bytes());
        data[8..12].copy_from_slice(&BLOCK_SIZE.to_be_bytes());
        data[13] = PHYSICAL_EXPONENT;
        // Blocks can be given back; what is then read is not told.
        data[14] = u8::from(!self.disk.readonly()) << 7;
        data
    }

    pub(super) fn caching_page(&self) -> [u8; pages::CACHING_SIZE] {
        pages::caching(self.write_cache)
    }
}

/// Work that wants a parameter list, unless that is empty.
pub(super) fn parameters(size: usize) -> Work {
    if size == 0 { Work::Done } else { Work::Parameters(size) }
}

/// Nothing has protection information.
pub(super) fn refuse_protection(cdb: &Cdb) -> Result<(), Sense> {
    let short = matches!(cdb.operation(), 0x08 | 0x0A);
    if short || cdb.u8(1) >> 5 == 0 { Ok(()) } else { Err(Sense::INVALID_FIELD) }
}

/// REPORT SUPPORTED OPERATION CODES. SPC-4, section 6.35.
fn report_operations(cdb: &Cdb) -> Result<Work, Sense> {
    let (options, with_timeouts) = (cdb.u8(2) & 7, cdb.u8(2) & 1 << 7 != 0);
    let (code, action) = (cdb.u8(3), cdb.u16(4));
    let limit = cdb.u32(6) as usize;
    // Time-outs: there are none to be told.
    let timeouts: &[u8] = if with_timeouts { &[0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] } else { &[] };
    if options == 0 {
        let mut list = Vec::new();
        for (code, action, usage) in SUPPORTED {
            let flags = u8::from(action.is_some()) | u8::from(with_timeouts) << 1;
            list.extend([code, 0, 0, action.unwrap_or(0), 0, flags, 0, usage.len() as u8 + 1]);
            list.extend(timeouts);
        }
        return Work::answer([&(list.len() as u32).to_be_bytes()[..], &list].concat(), limit);
    }
    let mut named = SUPPORTED.into_iter().filter(|(named, ..)| *named == code).peekable();
    let has_actions = named.peek().is_some_and(|(_, action, _)| action.is_some());
    let known = named.peek().is_some();
    let found = named.find(|(_, own, _)| match options {
        1 => own.is_none(),
        _ => own.map_or(action == 0, |own| u16::from(own) == action),
    });
    match options {
        // With the code alone, or with a service action, whichever it is that this code has.
        1 if has_actions => return Err(Sense::INVALID_FIELD),
        2 if known && !has_actions => return Err(Sense::INVALID_FIELD),
        1..=3 => {}
        _ => return Err(Sense::INVALID_FIELD),
    }
    let data = match found {
        Some((code, _, usage)) => {
            let flags = 0x03 | u8::from(with_timeouts) << 7;
            [&[0, flags, 0, usage.len() as u8 + 1, code], usage, timeouts].concat()
        }
        // Not supported.
        None => vec![0, 0x01, 0, 0],
    };
    Work::answer(data, limit)
}
