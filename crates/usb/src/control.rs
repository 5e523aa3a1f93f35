use crate::bus::{Response, Transaction};
use board::{StateReader, StateWriter};

/// Packet size of endpoint 0: what every speed allows.
pub(crate) const MAX_PACKET: usize = 8;
/// The most data a request may bring. Announcements of more are refused before a byte of it is taken.
const MAX_OUT: u16 = 64;
/// No answer to a request is longer.
const MAX_IN: usize = 512;

/// A request as its SETUP packet has it. USB 2.0, section 9.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Setup {
    /// bmRequestType: bit 7 device to host, bits 5 and 6 the type, bits 0 to 4 the recipient.
    pub request_type: u8,
    /// bRequest.
    pub request: u8,
    /// wValue.
    pub value: u16,
    /// wIndex.
    pub index: u16,
    /// wLength: bytes of the data stage, at most.
    pub length: u16,
}

impl Setup {
    fn new(packet: [u8; 8]) -> Self {
        let [request_type, request, v0, v1, i0, i1, l0, l1] = packet;
        let word = |low, high| u16::from_le_bytes([low, high]);
        Setup { request_type, request, value: word(v0, v1), index: word(i0, i1), length: word(l0, l1) }
    }

    fn packet(&self) -> [u8; 8] {
        let ([v0, v1], [i0, i1]) = (self.value.to_le_bytes(), self.index.to_le_bytes());
        let [l0, l1] = self.length.to_le_bytes();
        [self.request_type, self.request, v0, v1, i0, i1, l0, l1]
    }

    fn is_read(&self) -> bool {
        self.request_type & 0x80 != 0 && self.length != 0
    }
}

/// A request that the device does not know or cannot do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Does requests: those that read when their SETUP packet comes, those that write when their data is complete and the host
/// asks for the status. The answer to one that writes is empty.
pub(crate) type Request<'a> = &'a mut dyn FnMut(&Setup, &[u8]) -> Result<Vec<u8>, Refused>;

/// Endpoint 0: control transfers. USB 2.0, section 8.5.3.
#[derive(Debug, Default)]
pub(crate) struct ControlPipe {
    stage: Stage,
    setup: Setup,
    /// What is on its way, to the host or from it.
    data: Vec<u8>,
    /// How much of it the host has.
    sent: usize,
    /// The sequence bit of the next data packet.
    toggle: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing but SETUP is awaited; all else is refused.
    #[default]
    Idle,
    /// Data goes to the host, until it asks for no more.
    In,
    /// Data comes from the host, until it asks for the status.
    Out,
}

impl ControlPipe {
    pub fn transact(&mut self, transaction: Transaction, request: Request) -> Response {
        match (transaction, self.stage) {
            (Transaction::Setup(packet), _) => match packet.try_into() {
                Ok(packet) => self.begin(Setup::new(packet), request),
                Err(_) => Response::Silence,
            },
            (Transaction::In, Stage::In) => self.send(),
            (Transaction::In, Stage::Out) => self.finish_write(request),
            // The status of a request that reads; it may come before all was read.
            (Transaction::Out { .. }, Stage::In) => {
                *self = ControlPipe::default();
                Response::Ack
            }
            (Transaction::Out { data, toggle }, Stage::Out) => self.receive(data, toggle),
            (_, Stage::Idle) => Response::Stall,
        }
    }

    /// A SETUP packet begins a transfer whatever was before, and is always acknowledged.
    fn begin(&mut self, setup: Setup, request: Request) -> Response {
        *self = ControlPipe { setup, toggle: true, ..ControlPipe::default() };
        if setup.is_read() {
            if let Ok(mut data) = request(&setup, &[]) {
                data.truncate(usize::from(setup.length));
                (self.data, self.stage) = (data, Stage::In);
            }
        } else if setup.length <= MAX_OUT {
            self.stage = Stage::Out;
        }
        Response::Ack
    }

    /// The next packet; an empty one where the host expects more than there is.
    fn send(&mut self) -> Response {
        let rest = &self.data[self.sent..];
        let data = rest[..rest.len().min(MAX_PACKET)].to_vec();
        self.sent += data.len();
        let toggle = self.toggle;
        self.toggle = !toggle;
        Response::Data { data, toggle }
    }

    /// A packet of data. One with the sequence bit of the last is that again, and is acknowledged alone.
    fn receive(&mut self, data: &[u8], toggle: bool) -> Response {
        if data.len() > MAX_PACKET {
            return Response::Silence;
        }
        if toggle != self.toggle {
            return Response::Ack;
        }
        if self.data.len() + data.len() > usize::from(self.setup.length) {
            *self = ControlPipe::default();
            return Response::Stall;
        }
        self.data.extend_from_slice(data);
        self.toggle = !toggle;
        Response::Ack
    }

    /// Does a request that writes, unless some of its data is missing.
    fn finish_write(&mut self, request: Request) -> Response {
        let ControlPipe { setup, data, .. } = std::mem::take(self);
        if data.len() == usize::from(setup.length) && request(&setup, &data).is_ok() {
            Response::Data { data: Vec::new(), toggle: true }
        } else {
            Response::Stall
        }
    }

    pub fn save(&self, writer: &mut StateWriter) {
        writer.u8(match self.stage {
            Stage::Idle => 0,
            Stage::In => 1,
            Stage::Out => 2,
        });
        writer.blob(&self.setup.packet());
        writer.blob(&self.data);
        writer.u16(self.sent as u16);
        writer.u8(self.toggle.into());
    }

    pub fn load(reader: &mut StateReader) -> Result<Self, String> {
        let stage = match reader.u8()? {
            0 => Stage::Idle,
            1 => Stage::In,
            2 => Stage::Out,
            other => return Err(reader.invalid(&format!("stage {other} of a control transfer"))),
        };
        let Ok(packet) = reader.blob()?.try_into() else {
            return Err(reader.invalid("a SETUP packet that has not 8 bytes"));
        };
        let setup = Setup::new(packet);
        let data = reader.blob()?.to_vec();
        let (sent, toggle) = (usize::from(reader.u16()?), reader.bool()?);
        let most = match stage {
            Stage::Idle => 0,
            Stage::In => MAX_IN.min(usize::from(setup.length)),
            Stage::Out => usize::from(setup.length.min(MAX_OUT)),
        };
        if data.len() > most || sent > data.len() || stage == Stage::Out && setup.length > MAX_OUT {
            return Err(reader.invalid("the data of a control transfer"));
        }
        Ok(ControlPipe { stage, setup, data, sent, toggle })
    }
}
