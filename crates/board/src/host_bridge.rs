use crate::pci::{Configuration, Identity, PciFunction};
use crate::{AccessSizes, Action, Device};
use hv::{GuestMemory, Region};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where ROM can be shadowed by RAM: option ROMs and the BIOS.
pub const SHADOW_RANGE: RangeInclusive<u64> = 0xC_0000..=0xF_FFFF;
const SHADOW_END: u64 = 0x10_0000;

/// Bytes of firmware that answer below 1 MiB.
const LOW_FIRMWARE: u64 = 0x2_0000;

/// PAM0..PAM6, the programmable attribute maps. 82441FX, section 3.2.13.
const PAM: u8 = 0x59;
const PAM_REGISTERS: usize = 7;

/// No value of the PAM registers.
const UNKNOWN: u64 = u64::MAX;

/// Four bits of a PAM register: reads go to RAM, writes go to RAM.
const READ_ENABLE: u8 = 1 << 0;
const WRITE_ENABLE: u8 = 1 << 1;

/// The parts of [`SHADOW_RANGE`]: first address, and half of a PAM register counted from PAM0's lower.
fn segments() -> impl Iterator<Item = (u64, u64, usize)> {
    // PAM0's lower half does not exist; its upper one is for 64 KiB, all others for 16 KiB.
    (2..14).map(|half| (0xC_0000 + 0x4000 * (half as u64 - 2), 0x4000, half)).chain([(0xF_0000, 0x1_0000, 1)])
}

/// The 82441FX host bridge (8086:1237) at 00:00.0: what guests recognise the board by. Its PAM registers say where
/// between 0xC0000 and 1 MiB RAM answers instead of ROM.
pub struct HostBridge {
    memory: Arc<GuestMemory>,
    firmware: Option<u64>,
    /// The PAM registers, a byte each; [`UNKNOWN`] before they were first looked at.
    pam: AtomicU64,
}

impl HostBridge {
    /// The bridge of a machine with this memory, whose first MiB lies at offset 0 of what is behind it. `firmware`: the
    /// offset of the last 128 KiB of the firmware, which answer below 1 MiB until RAM does. Without
    /// firmware RAM answers from the start.
    pub fn new(memory: Arc<GuestMemory>, firmware: Option<u64>) -> Arc<Self> {
        Arc::new(HostBridge { memory, firmware, pam: AtomicU64::new(UNKNOWN) })
    }

    /// What takes writes to RAM that cannot be read yet; for [`SHADOW_RANGE`].
    pub fn shadow(self: &Arc<Self>) -> Arc<dyn Device> {
        Arc::new(Shadow(self.clone()))
    }

    /// The attributes of half a PAM register.
    fn attributes(&self, half: usize) -> u8 {
        (self.pam.load(Ordering::Relaxed) >> (4 * half)) as u8 & (READ_ENABLE | WRITE_ENABLE)
    }

    /// What answers in [`SHADOW_RANGE`].
    fn regions(&self) -> Vec<Region> {
        let mut regions: Vec<Region> = Vec::new();
        for (address, size, half) in segments() {
            let attributes = self.attributes(half);
            let rom = self.firmware.filter(|_| address >= SHADOW_END - LOW_FIRMWARE);
            let (offset, readonly) = match (attributes & READ_ENABLE != 0, rom) {
                (true, _) => (address, attributes & WRITE_ENABLE == 0),
                (false, Some(firmware)) => (firmware + (address - (SHADOW_END - LOW_FIRMWARE)), true),
                (false, None) => continue,
            };
            match regions.last_mut() {
                Some(last)
                    if last.address + last.size == address
                        && last.offset + last.size == offset
                        && last.readonly == readonly =>
                {
                    last.size += size;
                }
                _ => regions.push(Region { address, size, offset, readonly }),
            }
        }
        regions
    }
}

impl PciFunction for HostBridge {
    fn name(&self) -> &str {
        "host-bridge"
    }

    fn configuration(&self) -> Configuration {
        let mut configuration = Configuration::new(Identity {
            vendor: 0x8086,
            device: 0x1237,
            revision: 2,
            class: [0x06, 0x00, 0x00],
            // SeaBIOS reads fw_cfg files only on a board with this subsystem.
            subsystem_vendor: 0x1AF4,
            subsystem: 0x1100,
        });
        // 82441FX, section 3.2: PMC configuration, DRAM timing and control; PAM0..PAM6; SMRAM (0x72).
        configuration.set_writable(0x50, &[0xFF; 9]);
        configuration.set_writable(PAM, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        configuration.set_writable(0x60, &[0xFF; 8]);
        configuration.set(0x72, &[0x02]);
        configuration.set_writable(0x72, &[0x78]);
        if self.firmware.is_none() {
            configuration.set(PAM, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        }
        configuration
    }

    fn config_changed(&self, configuration: &Configuration) {
        let mut pam = [0; 8];
        configuration.read(PAM, &mut pam[..PAM_REGISTERS]);
        let pam = u64::from_le_bytes(pam);
        if self.pam.swap(pam, Ordering::Relaxed) == pam || self.memory.size() < SHADOW_END {
            return;
        }
        // Fails where an accelerator cannot follow, which ends the guest there, and in no other way: these regions lie in
        // the first MiB and in the firmware.
        let shadow = *SHADOW_RANGE.start()..SHADOW_END;
        let _ = self.memory.remap(&[shadow], &self.regions());
    }
}

/// Takes writes where reads still find ROM.
struct Shadow(Arc<HostBridge>);

impl Device for Shadow {
    fn name(&self) -> &str {
        "shadow-ram"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 8 }
    }

    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let address = SHADOW_RANGE.start() + offset;
        let segment = segments().find(|(first, size, _)| (*first..first + size).contains(&address));
        if segment.is_some_and(|(_, _, half)| self.0.attributes(half) == WRITE_ENABLE) {
            // The bus keeps an access within the range, so it lies in the first MiB.
            let _ = self.0.memory.write_backing(address, data);
        }
        Action::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRMWARE: u64 = 0x10_0000;

    fn bridge(firmware: Option<u64>) -> (Arc<GuestMemory>, Arc<HostBridge>, Configuration) {
        let ram = |address, size| Region { address, size, offset: address, readonly: false };
        let regions = [ram(0, 0xA_0000), ram(0xC_0000, 0x4_0000)];
        let memory = Arc::new(GuestMemory::with_size(&regions, FIRMWARE + LOW_FIRMWARE).unwrap());
        memory.write_backing(FIRMWARE, &[0xB1; LOW_FIRMWARE as usize]).unwrap();
        let bridge = HostBridge::new(memory.clone(), firmware);
        let configuration = bridge.configuration();
        bridge.config_changed(&configuration);
        (memory, bridge, configuration)
    }

    fn byte(memory: &GuestMemory, address: u64) -> Option<u8> {
        let mut data = [0];
        memory.read(address, &mut data).ok().map(|()| data[0])
    }

    #[test]
    fn without_firmware_ram_answers_from_the_start() {
        let (memory, _, _) = bridge(None);
        memory.write(0xC_0000, &[1; 0x4_0000]).unwrap();
        assert_eq!(memory.layout().regions().len(), 2);
    }

    #[test]
    fn firmware_answers_until_ram_does() {
        let (memory, bridge, mut configuration) = bridge(Some(FIRMWARE));
        assert_eq!([0xD_FFFF, 0xE_0000, 0xF_FFFF].map(|at| byte(&memory, at)), [None, Some(0xB1), Some(0xB1)]);
        assert!(memory.write(0xF_0000, &[1]).is_err());
        let mut set = |register: u8, value: u8| {
            configuration.write(register, &[value]);
            bridge.config_changed(&configuration);
        };
        // PAM0: the BIOS segment, writable and readable; PAM5: 0xE0000 read-only, 0xE4000 as before.
        set(0x59, 0x30);
        memory.write(0xF_1234, &[7]).unwrap();
        assert_eq!([0xF_1234, 0xE_FFFF].map(|at| byte(&memory, at)), [Some(7), Some(0xB1)]);
        set(0x5E, 0x01);
        assert_eq!([0xE_0000, 0xE_3FFF, 0xE_4000].map(|at| byte(&memory, at)), [Some(0), Some(0), Some(0xB1)]);
        assert!(memory.write(0xE_0000, &[1]).is_err());
        // PAM1: option ROMs.
        set(0x5A, 0x33);
        memory.write(0xC_7FFF, &[9]).unwrap();
        assert_eq!([0xC_7FFF, 0xC_8000].map(|at| byte(&memory, at)), [Some(9), None]);
        // Back to ROM, and RAM keeps what it had.
        set(0x59, 0x00);
        assert_eq!(byte(&memory, 0xF_1234), Some(0xB1));
        set(0x59, 0x10);
        assert_eq!(byte(&memory, 0xF_1234), Some(7));
    }

    #[test]
    fn ram_can_be_filled_while_rom_is_read() {
        let (memory, bridge, mut configuration) = bridge(Some(FIRMWARE));
        let shadow = bridge.shadow();
        let _ = shadow.write(0x3_0010, &[5]);
        configuration.write(0x59, &[0x20]);
        bridge.config_changed(&configuration);
        let _ = shadow.write(0x3_0011, &[6]);
        assert_eq!(byte(&memory, 0xF_0011), Some(0xB1));
        configuration.write(0x59, &[0x10]);
        bridge.config_changed(&configuration);
        assert_eq!([0xF_0010, 0xF_0011].map(|at| byte(&memory, at)), [Some(0), Some(6)]);
    }
}
