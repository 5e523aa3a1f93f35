//! Registers of the 82540EM by offset in base address register 0, and their bits. Intel, *PCI/PCI-X Family of Gigabit
//! Ethernet Controllers Software Developer's Manual* (317453), chapter 13.

#![allow(missing_docs, reason = "the names are the manual's")]

/// Bytes of the range.
pub const SIZE: u32 = 0x2_0000;

pub const CTRL: u32 = 0x0000;
/// The same register once more.
pub const CTRL_DUP: u32 = 0x0004;
pub const STATUS: u32 = 0x0008;
pub const EECD: u32 = 0x0010;
pub const EERD: u32 = 0x0014;
pub const CTRL_EXT: u32 = 0x0018;
pub const MDIC: u32 = 0x0020;
pub const FCAL: u32 = 0x0028;
pub const FCAH: u32 = 0x002C;
pub const FCT: u32 = 0x0030;
pub const VET: u32 = 0x0038;
pub const ICR: u32 = 0x00C0;
pub const ITR: u32 = 0x00C4;
pub const ICS: u32 = 0x00C8;
pub const IMS: u32 = 0x00D0;
pub const IMC: u32 = 0x00D8;
pub const RCTL: u32 = 0x0100;
pub const FCTTV: u32 = 0x0170;
pub const TXCW: u32 = 0x0178;
pub const TCTL: u32 = 0x0400;
pub const TIPG: u32 = 0x0410;
pub const AIT: u32 = 0x0458;
pub const LEDCTL: u32 = 0x0E00;
pub const PBA: u32 = 0x1000;
pub const FCRTL: u32 = 0x2160;
pub const FCRTH: u32 = 0x2168;
/// RDFH, RDFT, RDFHS, RDFTS and RDFPC, 8 bytes apart.
pub const RDFH: u32 = 0x2410;
pub const RDBAL: u32 = 0x2800;
pub const RDBAH: u32 = 0x2804;
pub const RDLEN: u32 = 0x2808;
pub const RDH: u32 = 0x2810;
pub const RDT: u32 = 0x2818;
pub const RDTR: u32 = 0x2820;
pub const RXDCTL: u32 = 0x2828;
pub const RADV: u32 = 0x282C;
pub const RSRPD: u32 = 0x2C00;
pub const TXDMAC: u32 = 0x3000;
/// TDFH, TDFT, TDFHS, TDFTS and TDFPC, 8 bytes apart.
pub const TDFH: u32 = 0x3410;
pub const TDBAL: u32 = 0x3800;
pub const TDBAH: u32 = 0x3804;
pub const TDLEN: u32 = 0x3808;
pub const TDH: u32 = 0x3810;
pub const TDT: u32 = 0x3818;
pub const TIDV: u32 = 0x3820;
pub const TXDCTL: u32 = 0x3828;
pub const TADV: u32 = 0x382C;
pub const TSPMT: u32 = 0x3830;
/// The first of the statistics registers, which reach up to [`STATISTICS_END`].
pub const STATISTICS: u32 = 0x4000;
pub const STATISTICS_END: u32 = 0x4100;
pub const RXCSUM: u32 = 0x5000;
pub const MTA: u32 = 0x5200;
pub const MTA_END: u32 = MTA + 4 * 128;
/// RAL and RAH in turn, 16 of each.
pub const RA: u32 = 0x5400;
pub const RA_END: u32 = RA + 4 * 32;
pub const VFTA: u32 = 0x5600;
pub const VFTA_END: u32 = VFTA + 4 * 128;
pub const WUC: u32 = 0x5800;
pub const WUFC: u32 = 0x5808;
pub const WUS: u32 = 0x5810;
pub const MANC: u32 = 0x5820;
pub const IPAV: u32 = 0x5838;
pub const IP4AT: u32 = 0x5840;
pub const IP6AT: u32 = 0x5880;
pub const WUPL: u32 = 0x5900;
pub const WUPM: u32 = 0x5A00;
pub const FFLT: u32 = 0x5F00;
pub const FFMT: u32 = 0x9000;
pub const FFVT: u32 = 0x9800;

pub mod ctrl {
    pub const FD: u32 = 1 << 0;
    pub const SLU: u32 = 1 << 6;
    pub const SPEED_SHIFT: u32 = 8;
    pub const SPEED_1000: u32 = 2 << SPEED_SHIFT;
    pub const FRCSPD: u32 = 1 << 11;
    pub const FRCDPLX: u32 = 1 << 12;
    pub const RST: u32 = 1 << 26;
    pub const VME: u32 = 1 << 30;
    pub const PHY_RST: u32 = 1 << 31;
}

pub mod status {
    pub const FD: u32 = 1 << 0;
    pub const LU: u32 = 1 << 1;
    pub const SPEED_SHIFT: u32 = 6;
    pub const ASDV_SHIFT: u32 = 8;
    pub const MTXCKOK: u32 = 1 << 10;
}

pub mod ctrl_ext {
    pub const EE_RST: u32 = 1 << 13;
}

pub mod mdic {
    pub const REGADD_SHIFT: u32 = 16;
    pub const PHYADD_SHIFT: u32 = 21;
    pub const OP_WRITE: u32 = 1 << 26;
    pub const OP_READ: u32 = 2 << 26;
    pub const OP: u32 = 3 << 26;
    pub const READY: u32 = 1 << 28;
    pub const INTERRUPT: u32 = 1 << 29;
    pub const ERROR: u32 = 1 << 30;
}

/// Bits of ICR, ICS, IMS and IMC.
pub mod cause {
    pub const TXDW: u32 = 1 << 0;
    pub const TXQE: u32 = 1 << 1;
    pub const LSC: u32 = 1 << 2;
    pub const RXDMT0: u32 = 1 << 4;
    pub const RXT0: u32 = 1 << 7;
    pub const MDAC: u32 = 1 << 9;
    /// All that there are.
    pub const ALL: u32 = 0x0001_FEDF;
}

pub mod rctl {
    pub const EN: u32 = 1 << 1;
    pub const SBP: u32 = 1 << 2;
    pub const UPE: u32 = 1 << 3;
    pub const MPE: u32 = 1 << 4;
    pub const LPE: u32 = 1 << 5;
    pub const LBM: u32 = 3 << 6;
    pub const RDMTS_SHIFT: u32 = 8;
    pub const MO_SHIFT: u32 = 12;
    pub const BAM: u32 = 1 << 15;
    pub const BSIZE_SHIFT: u32 = 16;
    pub const VFE: u32 = 1 << 18;
    pub const CFIEN: u32 = 1 << 19;
    pub const CFI: u32 = 1 << 20;
    pub const BSEX: u32 = 1 << 25;
    pub const SECRC: u32 = 1 << 26;
}

pub mod tctl {
    pub const EN: u32 = 1 << 1;
    pub const PSP: u32 = 1 << 3;
}

pub mod rxcsum {
    pub const PCSS: u32 = 0xFF;
    pub const IPOFLD: u32 = 1 << 8;
    pub const TUOFLD: u32 = 1 << 9;
    pub const IPV6OFL: u32 = 1 << 10;
}

pub mod rah {
    pub const AV: u32 = 1 << 31;
    pub const ASEL: u32 = 3 << 16;
}
