//! Registers behind BAR 5, and their bits. AHCI 1.3.1, chapter 3.

/// Bytes of the range.
pub(crate) const SIZE: u32 = 0x1000;
/// Where the ports' registers begin, and how far they are apart.
pub(crate) const PORTS: u64 = 0x100;
pub(crate) const PORT_SIZE: u64 = 0x80;

/// Offsets of the generic host control registers.
pub(crate) mod global {
    pub const CAP: u64 = 0x00;
    pub const GHC: u64 = 0x04;
    pub const IS: u64 = 0x08;
    pub const PI: u64 = 0x0C;
    pub const VS: u64 = 0x10;
}

/// Host capabilities.
pub(crate) mod cap {
    pub const S64A: u32 = 1 << 31;
    pub const SNCQ: u32 = 1 << 30;
    pub const SCLO: u32 = 1 << 24;
    /// Interface speed: 3 Gbit/s.
    pub const ISS_GEN2: u32 = 2 << 20;
    /// AHCI only, no legacy mode.
    pub const SAM: u32 = 1 << 18;
    /// Several DRQ blocks of PIO commands are one data FIS.
    pub const PMD: u32 = 1 << 15;
    /// Number of command slots, less one.
    pub const NCS_32: u32 = 31 << 8;
}

/// Global host control.
pub(crate) mod ghc {
    pub const AE: u32 = 1 << 31;
    pub const IE: u32 = 1 << 1;
    pub const HR: u32 = 1 << 0;
}

/// AHCI 1.3.1.
pub(crate) const VERSION: u32 = 0x0001_0301;

/// Offsets of a port's registers.
pub(crate) mod port {
    pub const CLB: u64 = 0x00;
    pub const CLBU: u64 = 0x04;
    pub const FB: u64 = 0x08;
    pub const FBU: u64 = 0x0C;
    pub const IS: u64 = 0x10;
    pub const IE: u64 = 0x14;
    pub const CMD: u64 = 0x18;
    pub const TFD: u64 = 0x20;
    pub const SIG: u64 = 0x24;
    pub const SSTS: u64 = 0x28;
    pub const SCTL: u64 = 0x2C;
    pub const SERR: u64 = 0x30;
    pub const SACT: u64 = 0x34;
    pub const CI: u64 = 0x38;
}

/// Alignment of the command list and of the received FIS structure.
pub(crate) const CLB_MASK: u64 = !0x3FF;
pub(crate) const FB_MASK: u64 = !0xFF;

/// Port interrupt status and enable.
pub(crate) mod interrupt {
    pub const TFES: u32 = 1 << 30;
    pub const HBFS: u32 = 1 << 29;
    pub const IFS: u32 = 1 << 27;
    pub const OFS: u32 = 1 << 24;
    /// Shows SERR.DIAG.N.
    pub const PRCS: u32 = 1 << 22;
    /// Shows SERR.DIAG.X.
    pub const PCS: u32 = 1 << 6;
    pub const DPS: u32 = 1 << 5;
    pub const SDBS: u32 = 1 << 3;
    pub const DSS: u32 = 1 << 2;
    pub const PSS: u32 = 1 << 1;
    pub const DHRS: u32 = 1 << 0;
    /// What can be latched.
    pub const LATCHED: u32 = TFES | HBFS | IFS | OFS | DPS | SDBS | DSS | PSS | DHRS;
    /// What can be enabled.
    pub const ALL: u32 = 0xFDC0_00FF;
}

/// Port command and status.
pub(crate) mod cmd {
    pub const ST: u32 = 1 << 0;
    /// There is neither staggered spin-up nor cold presence detection, so both are always set.
    pub const SUD: u32 = 1 << 1;
    pub const POD: u32 = 1 << 2;
    pub const CLO: u32 = 1 << 3;
    pub const FRE: u32 = 1 << 4;
    pub const CCS_SHIFT: u32 = 8;
    pub const FR: u32 = 1 << 14;
    pub const CR: u32 = 1 << 15;
    pub const ATAPI: u32 = 1 << 24;
    pub const DLAE: u32 = 1 << 25;
    /// What holds what was written.
    pub const HELD: u32 = ST | FRE | ATAPI | DLAE;
}

/// SSTS: a device that talks, at 3 Gbit/s, in its active state; or the interface is off.
pub(crate) const SSTS_ACTIVE: u32 = 0x123;
pub(crate) const SSTS_OFFLINE: u32 = 0x004;

/// SCTL: device detection, and all that can be written.
pub(crate) const SCTL_DET: u32 = 0xF;
pub(crate) const SCTL_DET_RESET: u32 = 1;
pub(crate) const SCTL_DET_OFFLINE: u32 = 4;
pub(crate) const SCTL_BITS: u32 = 0xFFF;

/// SERR: the device was exchanged; the link came or went; a rule of the protocol was broken.
pub(crate) const SERR_DIAG_X: u32 = 1 << 26;
pub(crate) const SERR_DIAG_N: u32 = 1 << 16;
pub(crate) const SERR_ERR_P: u32 = 1 << 10;

/// TFD's status while there is no device.
pub(crate) const STATUS_NO_DEVICE: u8 = 0x7F;
/// SIG before a device has told its signature.
pub(crate) const SIG_NONE: u32 = 0xFFFF_FFFF;
