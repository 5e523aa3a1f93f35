use crate::checksum::{add, sum};
use crate::mac::Way;
use crate::receive::Loopback;
use crate::register::{cause, ctrl, tctl};
use crate::worker::Shared;
use board::{StateReader, StateWriter};

/// Bytes of the largest packet. Manual, table 3-9.
pub(crate) const MAX_PACKET: usize = 16288;
/// Bytes that TCTL.PSP pads a frame to: 64 with the frame check sequence.
const MIN_FRAME: usize = 60;
/// Bytes of an Ethernet header.
const ETHERNET_HEADER: usize = 14;

/// Bits of TDESC.CMD or DCMD.
const CMD_EOP: u8 = 1 << 0;
/// In legacy descriptors: insert a checksum.
const CMD_IC: u8 = 1 << 2;
/// In extended ones: TCP segmentation.
const CMD_TSE: u8 = 1 << 2;
const CMD_RS: u8 = 1 << 3;
const CMD_DEXT: u8 = 1 << 5;
const CMD_VLE: u8 = 1 << 6;
/// Bits of TUCMD.
const TUCMD_TCP: u8 = 1 << 0;
const TUCMD_IP: u8 = 1 << 1;
/// DTYP of a data descriptor.
const DTYP_DATA: u8 = 1;
/// Bits of POPTS.
const POPTS_IXSM: u8 = 1 << 0;
const POPTS_TXSM: u8 = 1 << 1;
/// Bit of the status.
const STATUS_DD: u8 = 1 << 0;

const TCP_FIN_PSH: u8 = 0x09;

/// A transmit descriptor as it was read, once. Manual, sections 3.3.3 to 3.3.7.
#[derive(Clone, Copy)]
struct Descriptor([u8; 16]);

/// The three kinds.
enum Kind {
    Legacy,
    Context,
    Data,
}

impl Descriptor {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    fn command(&self) -> u8 {
        self.0[11]
    }

    fn kind(&self) -> Kind {
        match self.0[10] >> 4 {
            _ if self.command() & CMD_DEXT == 0 => Kind::Legacy,
            DTYP_DATA => Kind::Data,
            _ => Kind::Context,
        }
    }

    fn address(&self) -> u64 {
        u64::from(self.u32(0)) | u64::from(self.u32(4)) << 32
    }

    /// Bytes in the buffer: a null address has none.
    fn length(&self) -> u32 {
        match self.kind() {
            _ if self.address() == 0 => 0,
            Kind::Legacy => u32::from(self.u16(8)),
            Kind::Context => 0,
            Kind::Data => self.u32(8) & 0xF_FFFF,
        }
    }

    /// POPTS of a data descriptor; CSS of a legacy one.
    fn options(&self) -> u8 {
        self.0[13]
    }

    /// CSO of a legacy descriptor.
    fn checksum_offset(&self) -> u8 {
        self.0[10]
    }

    fn special(&self) -> u16 {
        self.u16(14)
    }
}

/// Where checksums begin, belong and end, and how to cut TCP segments. Manual, section 3.3.6.
#[derive(Clone, Copy)]
struct Context([u8; 16]);

impl Context {
    fn raw(&self) -> Descriptor {
        Descriptor(self.0)
    }

    fn ip_start(&self) -> usize {
        usize::from(self.0[0])
    }

    fn ip_offset(&self) -> usize {
        usize::from(self.0[1])
    }

    fn ip_end(&self) -> usize {
        usize::from(self.raw().u16(2))
    }

    fn tcp_start(&self) -> usize {
        usize::from(self.0[4])
    }

    fn tcp_offset(&self) -> usize {
        usize::from(self.0[5])
    }

    fn tcp_end(&self) -> usize {
        usize::from(self.raw().u16(6))
    }

    /// PAYLEN: bytes behind the headers of the whole packet.
    fn payload(&self) -> u32 {
        self.raw().u32(8) & 0xF_FFFF
    }

    fn is_tcp(&self) -> bool {
        self.0[11] & TUCMD_TCP != 0
    }

    fn is_ipv4(&self) -> bool {
        self.0[11] & TUCMD_IP != 0
    }

    /// HDRLEN.
    fn header(&self) -> usize {
        usize::from(self.0[13])
    }

    /// MSS: payload of a segment.
    fn segment(&self) -> usize {
        usize::from(self.raw().u16(14))
    }

    /// Bytes of a full frame.
    fn full(&self) -> usize {
        self.header() + self.segment()
    }

    /// Whether packets can be cut by this: there is a payload, a frame fits, and the headers that are changed in each
    /// lie within those that are repeated.
    fn can_segment(&self) -> bool {
        let ip = self.ip_start() + if self.is_ipv4() { 20 } else { 40 };
        let tcp = self.tcp_start() + if self.is_tcp() { 20 } else { 8 };
        self.segment() > 0 && self.full() <= MAX_PACKET && ip.max(tcp) <= self.header()
    }
}

/// A packet on its way from the guest.
struct Packet {
    /// Its bytes so far; in segmentation the headers, and the payload of the segment so far.
    data: Vec<u8>,
    /// The first descriptor: what holds for the whole packet is said there. `None` before it.
    first: Option<Descriptor>,
    /// The context as it was then.
    context: Context,
    /// Segments sent already, and the payload in them.
    segments: u32,
    sent: u32,
    /// It is too long, unreadable or cut by nonsense: dropped at its end.
    broken: bool,
}

impl Packet {
    fn new() -> Self {
        let context = Context([0; 16]);
        Packet { data: Vec::new(), first: None, context, segments: 0, sent: 0, broken: false }
    }

    fn clear(&mut self) {
        let data = std::mem::take(&mut self.data);
        *self = Packet { data, ..Packet::new() };
        self.data.clear();
    }

    /// Whether it is cut into segments.
    fn is_segmented(&self) -> bool {
        self.first.is_some_and(|first| matches!(first.kind(), Kind::Data) && first.command() & CMD_TSE != 0)
    }
}

/// A descriptor that is being served.
struct Pending {
    /// Where it lies.
    address: u64,
    descriptor: Descriptor,
    /// Bytes of its buffer that were taken.
    done: u32,
}

/// The transmitter: owned by the I/O thread.
pub(crate) struct Transmitter {
    /// The contexts for checksums and for segmentation, which are kept apart. Manual, section 3.5.
    checksums: Context,
    segmentation: Context,
    packet: Packet,
    pending: Option<Pending>,
    /// A frame as it is sent.
    frame: Vec<u8>,
}

impl Transmitter {
    pub fn new() -> Self {
        let none = Context([0; 16]);
        Transmitter { checksums: none, segmentation: none, packet: Packet::new(), pending: None, frame: Vec::new() }
    }

    /// Forgets a packet that was begun. Contexts stay.
    pub fn abandon(&mut self) {
        self.packet.clear();
        self.pending = None;
    }

    /// Serves descriptors, at most `budget` of these and of frames together; true when there are more.
    pub fn run(&mut self, shared: &Shared, loopback: &mut Loopback, mut budget: u32) -> bool {
        let mut causes = 0;
        let more = loop {
            if budget == 0 {
                break true;
            }
            let Some(mut pending) = self.pending.take().or_else(|| fetch(shared)) else { break false };
            budget -= 1;
            if !self.serve(shared, &mut pending, loopback, &mut budget) {
                self.pending = Some(pending);
                break true;
            }
            let descriptor = pending.descriptor;
            if descriptor.command() & CMD_RS != 0 {
                // The byte beside the status is the driver's own.
                let value = u16::from_le_bytes([STATUS_DD, descriptor.options()]);
                let _ = shared.memory.store_u16(pending.address + 12, value);
                causes |= cause::TXDW;
            }
            let mut registers = shared.registers.lock();
            registers.transmit.advance();
            if registers.transmit.available() == 0 {
                causes |= cause::TXQE;
            }
        };
        if causes != 0 {
            shared.registers.lock().raise(causes);
        }
        more
    }

    /// Serves a descriptor; false when the budget for frames ended it early.
    fn serve(&mut self, shared: &Shared, pending: &mut Pending, loopback: &mut Loopback, budget: &mut u32) -> bool {
        let descriptor = pending.descriptor;
        if let Kind::Context = descriptor.kind() {
            let context =
                if descriptor.command() & CMD_TSE != 0 { &mut self.segmentation } else { &mut self.checksums };
            *context = Context(descriptor.0);
            return true;
        }
        if self.packet.first.is_none() {
            self.begin(descriptor);
        }
        while pending.done < descriptor.length() && !self.packet.broken {
            if *budget == 0 {
                return false;
            }
            self.take(shared, pending);
            let packet = &self.packet;
            if packet.is_segmented() && packet.data.len() == packet.context.full() {
                *budget -= 1;
                let payload = packet.context.segment() as u32;
                let last = packet.sent.saturating_add(payload) >= packet.context.payload();
                self.send(shared, descriptor, last, loopback);
                self.packet.data.truncate(self.packet.context.header());
                self.packet.segments = self.packet.segments.wrapping_add(1);
                self.packet.sent = self.packet.sent.wrapping_add(payload);
            }
        }
        if descriptor.command() & CMD_EOP != 0 {
            self.end(shared, descriptor, loopback);
        }
        true
    }

    /// Begins a packet with its first descriptor.
    fn begin(&mut self, descriptor: Descriptor) {
        self.packet.first = Some(descriptor);
        let segmented = self.packet.is_segmented();
        self.packet.context = if segmented { self.segmentation } else { self.checksums };
        self.packet.broken = segmented && !self.packet.context.can_segment();
    }

    /// Takes bytes of a buffer into the packet: all, or as many as the segment lacks.
    fn take(&mut self, shared: &Shared, pending: &mut Pending) {
        let packet = &mut self.packet;
        let held = packet.data.len();
        let left = (pending.descriptor.length() - pending.done) as usize;
        let limit = if packet.is_segmented() { packet.context.full() } else { MAX_PACKET };
        let count = left.min(limit - held);
        let address = pending.descriptor.address().checked_add(u64::from(pending.done));
        packet.data.resize(held + count, 0);
        let read = address.is_some_and(|address| shared.memory.read(address, &mut packet.data[held..]).is_ok());
        pending.done += count as u32;
        packet.broken = !read || !packet.is_segmented() && count < left;
    }

    /// Ends a packet with its last descriptor.
    fn end(&mut self, shared: &Shared, descriptor: Descriptor, loopback: &mut Loopback) {
        let packet = &self.packet;
        if !packet.is_segmented() {
            if !packet.broken {
                self.send(shared, descriptor, true, loopback);
            }
        } else {
            let header = packet.context.header();
            // A payload that ended with a full segment has left the headers alone here.
            let sound = !packet.broken && packet.data.len() >= header;
            if sound && (packet.data.len() > header || packet.segments == 0) {
                self.send(shared, descriptor, true, loopback);
            }
            shared.registers.lock().statistics.segmented(sound);
        }
        self.packet.clear();
    }

    /// Sends what the packet holds as one frame. `last`: of its segments.
    fn send(&mut self, shared: &Shared, descriptor: Descriptor, last: bool, loopback: &mut Loopback) {
        let Self { packet, frame, .. } = self;
        let Some(first) = packet.first else { return };
        if packet.data.len() < ETHERNET_HEADER {
            return;
        }
        frame.clear();
        frame.extend_from_slice(&packet.data);
        if packet.is_segmented() {
            fix_headers(frame, packet, first.options(), last);
        }
        insert_checksums(frame, packet, first, descriptor);
        // Segments are tagged as the first descriptor says, whole packets as the last one does.
        let tagging = if packet.is_segmented() { first } else { descriptor };
        let way = {
            let mut registers = shared.registers.lock();
            if registers.ctrl & ctrl::VME != 0 && tagging.command() & CMD_VLE != 0 {
                let [a, b] = registers.vlan_type.to_be_bytes();
                let [c, d] = tagging.special().to_be_bytes();
                frame.splice(12..12, [a, b, c, d]);
            }
            if registers.tctl & tctl::PSP != 0 && frame.len() < MIN_FRAME {
                frame.resize(MIN_FRAME, 0);
            }
            let way = registers.way();
            if way != Way::Down {
                registers.statistics.sent(frame);
            }
            way
        };
        match way {
            Way::Cable => shared.backend.send(frame),
            Way::Loopback => loopback.push(frame),
            Way::Down => {}
        }
    }

    pub fn save(&self, writer: &mut StateWriter) {
        let Packet { data, first, context, segments, sent, broken } = &self.packet;
        for context in [&self.checksums, &self.segmentation, context] {
            writer.blob(&context.0);
        }
        writer.blob(first.as_ref().map_or(&[], |first| &first.0));
        writer.blob(data);
        writer.u32(*segments);
        writer.u32(*sent);
        writer.u8(u8::from(*broken));
        match &self.pending {
            Some(Pending { address, descriptor, done }) => {
                writer.blob(&descriptor.0);
                writer.u64(*address);
                writer.u32(*done);
            }
            None => writer.blob(&[]),
        }
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        fn raw(reader: &mut StateReader) -> Result<Option<[u8; 16]>, String> {
            match reader.blob()? {
                [] => Ok(None),
                bytes => bytes.try_into().map(Some).map_err(|_| reader.invalid("a descriptor of another size")),
            }
        }
        let mut context = || raw(reader).map(|context| Context(context.unwrap_or_default()));
        let (checksums, segmentation, of_packet) = (context()?, context()?, context()?);
        let packet = Packet {
            context: of_packet,
            first: raw(reader)?.map(Descriptor),
            data: reader.blob()?.to_vec(),
            segments: reader.u32()?,
            sent: reader.u32()?,
            broken: reader.bool()?,
        };
        let limit = match packet.is_segmented() {
            true if !packet.broken && !packet.context.can_segment() => 0,
            true if !packet.broken => packet.context.full() - 1,
            _ => MAX_PACKET,
        };
        if packet.data.len() > limit || packet.first.is_none() && !packet.data.is_empty() {
            return Err(reader.invalid("a packet that is longer than one can be"));
        }
        let pending = match raw(reader)?.map(Descriptor) {
            Some(descriptor) => Some(Pending { descriptor, address: reader.u64()?, done: reader.u32()? }),
            None => None,
        };
        if pending
            .as_ref()
            .is_some_and(|pending| pending.done > pending.descriptor.length() || pending.address % 16 != 0)
        {
            return Err(reader.invalid("a descriptor of which more was sent than there is"));
        }
        Ok(Transmitter { checksums, segmentation, packet, pending, frame: Vec::new() })
    }
}

/// Takes the next descriptor of the ring, when there is one that can be read.
fn fetch(shared: &Shared) -> Option<Pending> {
    let address = {
        let registers = shared.registers.lock();
        // Around a ring whose tail is outside of it, hardware would go for ever.
        if !registers.transmitting() || !registers.transmit.ends() {
            return None;
        }
        registers.transmit.next()?
    };
    let mut bytes = [0; 16];
    shared.memory.read(address, &mut bytes).ok()?;
    Some(Pending { address, descriptor: Descriptor(bytes), done: 0 })
}

/// Makes the headers of the whole packet those of one segment. Manual, section 3.5.9. [`Context::can_segment`] holds, and
/// the headers are there.
fn fix_headers(frame: &mut [u8], packet: &Packet, options: u8, last: bool) {
    let context = &packet.context;
    let (ip, tcp, length) = (context.ip_start(), context.tcp_start(), frame.len());
    if context.is_ipv4() {
        put(frame, ip + 2, (length - ip) as u16);
        let identification = get(frame, ip + 4).wrapping_add(packet.segments as u16);
        put(frame, ip + 4, identification);
    } else {
        // The manual's sum counts the header itself, which IPv6 does not.
        put(frame, ip + 4, (length - ip - 40) as u16);
    }
    if context.is_tcp() {
        let sequence = u32::from(get(frame, tcp + 4)) << 16 | u32::from(get(frame, tcp + 6));
        let sequence = sequence.wrapping_add(packet.sent);
        put(frame, tcp + 4, (sequence >> 16) as u16);
        put(frame, tcp + 6, sequence as u16);
        if !last {
            frame[tcp + 13] &= !TCP_FIN_PSH;
        }
    } else {
        put(frame, tcp + 4, (length - tcp) as u16);
    }
    // The driver has put the pseudo-header's sum there, for want of lengths without them.
    let field = context.tcp_offset();
    if options & POPTS_TXSM != 0 && field + 2 <= length {
        let with_length = add(get(frame, field), (length - tcp) as u16);
        put(frame, field, with_length);
    }
}

/// Inserts the checksums that the descriptors ask for. Manual, sections 3.3.3.1, 3.3.7.3 and 3.5.
fn insert_checksums(frame: &mut [u8], packet: &Packet, first: Descriptor, last: Descriptor) {
    match first.kind() {
        Kind::Legacy if last.command() & CMD_IC != 0 => {
            insert(frame, usize::from(first.options()), usize::from(first.checksum_offset()), 0, false);
        }
        Kind::Data => {
            let context = &packet.context;
            if first.options() & POPTS_IXSM != 0 {
                insert(frame, context.ip_start(), context.ip_offset(), context.ip_end(), false);
            }
            if first.options() & POPTS_TXSM != 0 {
                let (start, offset, end) = (context.tcp_start(), context.tcp_offset(), context.tcp_end());
                insert(frame, start, offset, end, !context.is_tcp());
            }
        }
        _ => {}
    }
}

/// Inserts the checksum of bytes `start..=end`, up to the last where `end` is 0, at `offset`; nothing where these are not
/// in the frame. In UDP, 0 means that there is none (`udp`).
fn insert(frame: &mut [u8], start: usize, offset: usize, end: usize, udp: bool) {
    let end = if end == 0 || end >= frame.len() { frame.len() } else { end + 1 };
    if start >= end || offset + 2 > frame.len() {
        return;
    }
    let checksum = !sum(&frame[start..end]);
    put(frame, offset, if udp && checksum == 0 { 0xFFFF } else { checksum });
}

fn get(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
