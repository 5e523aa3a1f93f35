//! INQUIRY: what a unit is. SPC-4, sections 6.6 and 7.8.

use crate::{Cdb, DeviceType, Sense, Work};

const VENDOR: &[u8; 8] = b"WIRT    ";
/// Characters of a serial number that are told.
const SERIAL_SIZE: usize = 64;

/// Vital product data pages.
const SUPPORTED_PAGES: u8 = 0x00;
const UNIT_SERIAL_NUMBER: u8 = 0x80;
const DEVICE_IDENTIFICATION: u8 = 0x83;

/// What carries the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Packets over ATA.
    Atapi,
    /// A SCSI transport protocol.
    Scsi,
}

/// What a unit tells about itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its serial number, ASCII, by which systems tell it from others: no two in a machine have the same.
    pub serial: String,
    /// What carries its commands.
    pub interface: Interface,
}

impl Identity {
    /// The answer for a unit of a type, with `more` vital product data pages besides those that all have: in the order
    /// of their codes, without headers.
    pub(crate) fn inquiry(
        &self,
        cdb: &Cdb,
        device_type: DeviceType,
        product: &[u8; 16],
        more: &[(u8, Vec<u8>)],
    ) -> Result<Work, Sense> {
        let limit = cdb.u16(3).into();
        let (vital, page) = (cdb.u8(1) & 1 != 0, cdb.u8(2));
        match (vital, page) {
            (false, 0) => Work::answer(self.standard(device_type, product), limit),
            (false, _) => Err(Sense::INVALID_FIELD),
            (true, _) => Work::answer(self.vital(page, device_type, product, more)?, limit),
        }
    }

    fn standard(&self, device_type: DeviceType, product: &[u8; 16]) -> Vec<u8> {
        let removable = match device_type {
            DeviceType::DirectAccess => 0x00,
            DeviceType::MultiMedia => 0x80,
        };
        let (version, format, queuing) = match self.interface {
            // ATAPI version 2, response format 1. SFF-8020i, section 10.8.1.
            Interface::Atapi => (0x00, 0x21, 0x00),
            // SPC-4; hierarchical addresses of units, response format 2; it takes several commands at a time.
            Interface::Scsi => (0x06, 0x12, 0x02),
        };
        let mut data = vec![device_type as u8, removable, version, format, 31, 0, 0, queuing];
        data.extend(VENDOR);
        data.extend(product);
        let mut revision = *b"    ";
        for (place, byte) in revision.iter_mut().zip(env!("CARGO_PKG_VERSION").bytes()) {
            *place = byte;
        }
        data.extend(revision);
        data
    }

    fn vital(
        &self,
        page: u8,
        device_type: DeviceType,
        product: &[u8; 16],
        more: &[(u8, Vec<u8>)],
    ) -> Result<Vec<u8>, Sense> {
        let serial = self.serial.bytes().take(SERIAL_SIZE);
        let body = match page {
            SUPPORTED_PAGES => {
                let codes = [SUPPORTED_PAGES, UNIT_SERIAL_NUMBER, DEVICE_IDENTIFICATION];
                codes.into_iter().chain(more.iter().map(|(code, _)| *code)).collect()
            }
            UNIT_SERIAL_NUMBER => serial.collect(),
            DEVICE_IDENTIFICATION => {
                let identification: Vec<u8> = VENDOR.iter().chain(product).copied().chain(serial).collect();
                // ASCII; of the logical unit, based on the vendor's name.
                [&[0x02, 0x01, 0x00, identification.len() as u8][..], &identification].concat()
            }
            _ => more.iter().find(|(code, _)| *code == page).ok_or(Sense::INVALID_FIELD)?.1.clone(),
        };
        Ok([&[device_type as u8, page][..], &(body.len() as u16).to_be_bytes(), &body].concat())
    }
}
