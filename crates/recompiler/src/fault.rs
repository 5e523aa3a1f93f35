//! Exceptions on their way to the guest.

/// Vectors of the architecture's exceptions. Intel SDM volume 3A, table 6-1.
pub mod vector {
    #![allow(missing_docs)]
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// An instruction could not complete: the exception that the guest gets. The registers are as before the instruction
/// (but for what the architecture allows to have changed, as in `rep`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Exception vector, 0..=31.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error: Option<u32>,
    /// The linear address of a page fault (CR2); 0 otherwise.
    pub address: u64,
    /// A trap is reported with the instruction completed: RIP already points at the next one (#DB after a
    /// single step, #BP, #OF).
    pub trap: bool,
}

impl Fault {
    /// An exception without an error code.
    pub const fn plain(vector: u8) -> Self {
        Fault { vector, error: None, address: 0, trap: false }
    }

    /// An exception with an error code.
    pub const fn with_error(vector: u8, error: u32) -> Self {
        Fault { vector, error: Some(error), address: 0, trap: false }
    }

    /// #UD.
    pub const UD: Fault = Fault::plain(vector::UD);
    /// #NM.
    pub const NM: Fault = Fault::plain(vector::NM);
    /// #DE.
    pub const DE: Fault = Fault::plain(vector::DE);
    /// #GP(0).
    pub const GP0: Fault = Fault::with_error(vector::GP, 0);
    /// #SS(0).
    pub const SS0: Fault = Fault::with_error(vector::SS, 0);

    /// #GP with a selector as its error code (RPL bits cleared).
    pub const fn gp(selector: u16) -> Self {
        Fault::with_error(vector::GP, selector as u32 & 0xFFFC)
    }

    /// #PF at `address`; `error` as in the Intel SDM volume 3A, section 4.7.
    pub const fn page(address: u64, error: u32) -> Self {
        Fault { vector: vector::PF, error: Some(error), address, trap: false }
    }
}
