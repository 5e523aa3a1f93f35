//! Descriptors of a device with one configuration, which is one HID interface with one interrupt endpoint. USB 2.0,
//! section 9.6; HID, section 6.2.1.

/// Descriptor types. USB 2.0, table 9-5; HID, section 7.1.
pub(crate) mod kind {
    pub const DEVICE: u8 = 1;
    pub const CONFIGURATION: u8 = 2;
    pub const STRING: u8 = 3;
    pub const INTERFACE: u8 = 4;
    pub const ENDPOINT: u8 = 5;
    pub const HID: u8 = 0x21;
    pub const REPORT: u8 = 0x22;
}

/// QEMU's tablet and keyboard have these, and systems know them by it: systemd lets them suspend, for example.
const VENDOR: u16 = 0x0627;
const PRODUCT: u16 = 0x0001;
/// bcdUSB: 1.1. bcdDevice: 1.0. bcdHID: 1.11.
const USB_VERSION: u16 = 0x0110;
const DEVICE_VERSION: u16 = 0x0100;
const HID_VERSION: u16 = 0x0111;

const STRING_MANUFACTURER: u8 = 1;
const STRING_PRODUCT: u8 = 2;
const MANUFACTURER: &str = "Wirt";
const ENGLISH_US: u16 = 0x0409;

/// The one configuration.
pub(crate) const CONFIGURATION: u8 = 1;
/// Attributes of the configuration: reserved and 1; it can wake the host.
const REMOTE_WAKEUP: u8 = 1 << 7 | 1 << 5;
/// Current in units of 2 mA.
const MAX_POWER: u8 = 50;
const CLASS_HID: u8 = 3;

/// bEndpointAddress of the interrupt endpoint: 1, to the host.
pub(crate) const INTERRUPT_IN: u8 = 0x81;
const ATTRIBUTES_INTERRUPT: u8 = 3;
/// Packet size of the interrupt endpoint.
pub(crate) const INTERRUPT_PACKET: u8 = 8;
/// How often the host is to ask, in ms: the most often that it may ask a device of low speed.
const INTERVAL: u8 = 10;

/// What tells one such device from another.
pub struct Description {
    /// Its name, at most 126 characters.
    pub product: &'static str,
    /// bInterfaceSubClass: 1 when a BIOS can use it.
    pub subclass: u8,
    /// bInterfaceProtocol: what it is to a BIOS.
    pub protocol: u8,
    /// How its reports are made up.
    pub report_descriptor: &'static [u8],
}

impl Description {
    /// The descriptor that GET_DESCRIPTOR asks for, `value` being its wValue.
    pub fn get(&self, value: u16) -> Option<Vec<u8>> {
        let [index, kind] = value.to_le_bytes();
        match (kind, index) {
            (kind::DEVICE, 0) => Some(self.device()),
            (kind::CONFIGURATION, 0) => Some(self.configuration()),
            (kind::STRING, 0) => Some(with_header(kind::STRING, &ENGLISH_US.to_le_bytes())),
            (kind::STRING, STRING_MANUFACTURER) => Some(string(MANUFACTURER)),
            (kind::STRING, STRING_PRODUCT) => Some(string(self.product)),
            (kind::HID, 0) => Some(self.hid()),
            (kind::REPORT, 0) => Some(self.report_descriptor.to_vec()),
            _ => None,
        }
    }

    fn device(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(USB_VERSION.to_le_bytes());
        // The class is the interface's.
        body.extend([0, 0, 0, crate::control::MAX_PACKET as u8]);
        for word in [VENDOR, PRODUCT, DEVICE_VERSION] {
            body.extend(word.to_le_bytes());
        }
        // No serial number, one configuration.
        body.extend([STRING_MANUFACTURER, STRING_PRODUCT, 0, 1]);
        with_header(kind::DEVICE, &body)
    }

    fn configuration(&self) -> Vec<u8> {
        let interface = [0, 0, 1, CLASS_HID, self.subclass, self.protocol, 0];
        let endpoint = [INTERRUPT_IN, ATTRIBUTES_INTERRUPT, INTERRUPT_PACKET, 0, INTERVAL];
        let parts = [with_header(kind::INTERFACE, &interface), self.hid(), with_header(kind::ENDPOINT, &endpoint)];
        let [low, high] = (9 + parts.iter().map(Vec::len).sum::<usize>() as u16).to_le_bytes();
        let head = with_header(kind::CONFIGURATION, &[low, high, 1, CONFIGURATION, 0, REMOTE_WAKEUP, MAX_POWER]);
        [head, parts.concat()].concat()
    }

    fn hid(&self) -> Vec<u8> {
        let [low, high] = (self.report_descriptor.len() as u16).to_le_bytes();
        let [version_low, version_high] = HID_VERSION.to_le_bytes();
        with_header(kind::HID, &[version_low, version_high, 0, 1, kind::REPORT, low, high])
    }
}

fn string(text: &str) -> Vec<u8> {
    let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    with_header(kind::STRING, &units)
}

fn with_header(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[body.len() as u8 + 2, kind], body].concat()
}

/// Items of report descriptors: prefixes with the size of their data. HID, section 6.2.2; the data of main items are their
/// flags, the usages are those of the *HID Usage Tables* 1.12.
pub(crate) mod item {
    pub const INPUT: u8 = 0x81;
    pub const OUTPUT: u8 = 0x91;
    pub const COLLECTION: u8 = 0xA1;
    pub const END_COLLECTION: u8 = 0xC0;
    pub const USAGE_PAGE: u8 = 0x05;
    pub const LOGICAL_MINIMUM: u8 = 0x15;
    pub const LOGICAL_MAXIMUM: u8 = 0x25;
    pub const LOGICAL_MAXIMUM_2: u8 = 0x26;
    pub const PHYSICAL_MINIMUM: u8 = 0x35;
    pub const PHYSICAL_MAXIMUM: u8 = 0x45;
    pub const PHYSICAL_MAXIMUM_2: u8 = 0x46;
    pub const REPORT_SIZE: u8 = 0x75;
    pub const REPORT_COUNT: u8 = 0x95;
    pub const USAGE: u8 = 0x09;
    pub const USAGE_MINIMUM: u8 = 0x19;
    pub const USAGE_MAXIMUM: u8 = 0x29;

    pub const APPLICATION: u8 = 1;
    pub const PHYSICAL: u8 = 0;
    /// Main item flags.
    pub const ARRAY: u8 = 0;
    pub const CONSTANT: u8 = 1;
    pub const VARIABLE: u8 = 2;
    pub const RELATIVE: u8 = 4;

    pub const GENERIC_DESKTOP: u8 = 1;
    pub const KEYBOARD_PAGE: u8 = 7;
    pub const LED_PAGE: u8 = 8;
    pub const BUTTON_PAGE: u8 = 9;

    pub const POINTER: u8 = 0x01;
    pub const MOUSE: u8 = 0x02;
    pub const KEYBOARD: u8 = 0x06;
    pub const X: u8 = 0x30;
    pub const Y: u8 = 0x31;
    pub const WHEEL: u8 = 0x38;
}
