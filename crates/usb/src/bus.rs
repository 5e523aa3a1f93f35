use board::{StateReader, StateWriter};

/// How fast a device signals. USB 2.0, section 7.1.5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// 1.5 Mbit/s: packets of at most 8 bytes.
    Low,
    /// 12 Mbit/s.
    Full,
}

/// Whom a transaction is for. USB 2.0, section 8.4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Device address, 0..=127; 0 is that of a device which was given none.
    pub address: u8,
    /// Endpoint number, 0..=15.
    pub endpoint: u8,
}

/// What the host sends. `toggle` tells DATA1 from DATA0. USB 2.0, section 8.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction<'a> {
    /// SETUP with its DATA0 packet.
    Setup(&'a [u8]),
    /// OUT with its data packet.
    Out {
        /// The packet.
        data: &'a [u8],
        /// Its sequence bit.
        toggle: bool,
    },
    /// IN: the device is to send a packet.
    In,
}

/// What a device answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Nothing: the packet was not for it, or damaged.
    Silence,
    /// It took the packet.
    Ack,
    /// It has nothing to send or no room, for now.
    Nak,
    /// It cannot do what is asked, or the endpoint is halted.
    Stall,
    /// A packet, which the host acknowledges. At most the endpoint's packet size.
    Data {
        /// The packet.
        data: Vec<u8>,
        /// Its sequence bit.
        toggle: bool,
    },
}

/// How a device calls its host controller: it has something to say from now on. Called without the device's locks.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// A USB device, as its port sees it.
///
/// All but [`UsbDevice::name`] and [`UsbDevice::speed`] is called under the controller's lock: a device's own lock comes
/// behind it.
pub trait UsbDevice: Send + Sync {
    /// A short name for error messages.
    fn name(&self) -> &str;

    /// Its speed, always the same.
    fn speed(&self) -> Speed;

    /// The device is plugged in, and can wake its controller. Called once, without the controller's lock.
    fn connect(&self, wake: Wake);

    /// One transaction on the bus; what is for another address gets [`Response::Silence`]. `frame` counts the frames of
    /// the bus: milliseconds.
    fn transact(&self, token: Token, transaction: Transaction, frame: u64) -> Response;

    /// Whether it has more to send on endpoints other than 0.
    fn has_report(&self) -> bool;

    /// The frame from which on it has something to send even if nothing happens, which it does not wake its controller for.
    fn next_report(&self) -> Option<u64>;

    /// The host signals a reset: the device forgets its address and configuration. USB 2.0, section 9.1.1.3.
    fn bus_reset(&self);

    /// Whether the host lets it end the bus's sleep. USB 2.0, section 9.1.1.6.
    fn may_wake_host(&self) -> bool;

    /// Power goes off and on, with the machine's reset.
    fn reset(&self);

    /// Appends the state for a snapshot.
    fn save(&self, writer: &mut StateWriter);

    /// Takes what [`UsbDevice::save`] wrote. The bytes may be hostile.
    ///
    /// # Errors
    /// One sentence that says what is wrong with the state.
    fn load(&self, reader: &mut StateReader) -> Result<(), String>;
}
