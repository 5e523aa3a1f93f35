//! The x87 unit and MXCSR, while a guest's state may be in them.

use std::arch::asm;

/// MXCSR as the calling convention wants it: all exceptions masked, rounding to nearest.
const MXCSR: u32 = 0x1F80;

#[repr(C, align(16))]
struct Area([u8; 512]);

/// Runs `f` with the x87 unit and MXCSR as the calling convention wants them, and puts back what was there: see [`crate::Bus`].
pub fn with_own_floats<T>(f: impl FnOnce() -> T) -> T {
    let mut area = Area([0; 512]);
    // SAFETY: FXSAVE writes 512 bytes to an aligned place of that size; the rest sets what a function may expect.
    unsafe {
        asm!("fxsave64 [{area}]", "fninit", "ldmxcsr [{mxcsr}]", area = in(reg) area.0.as_mut_ptr(), mxcsr = in(reg) &MXCSR,
            options(nostack));
    }
    let result = f();
    // SAFETY: the image is that of the FXSAVE above. The XMM registers in it are old: they are declared as changed.
    unsafe {
        asm!("fxrstor64 [{area}]", area = in(reg) area.0.as_ptr(),
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
            out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
            out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack, readonly));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> (u16, u32) {
        let (mut fcw, mut mxcsr) = (0u16, 0u32);
        // SAFETY: both store to local variables of their size.
        unsafe { asm!("fnstcw [{}]", "stmxcsr [{}]", in(reg) &mut fcw, in(reg) &mut mxcsr, options(nostack)) };
        (fcw, mxcsr)
    }

    fn load(fcw: u16, mxcsr: u32) {
        // SAFETY: the caller puts back what the calling convention wants.
        unsafe { asm!("fldcw [{}]", "ldmxcsr [{}]", in(reg) &fcw, in(reg) &mxcsr, options(nostack)) };
    }

    #[test]
    fn a_device_gets_the_hosts_rounding_and_the_guest_its_own_back() {
        let host = control();
        load(0xE7F, 0x7FA1);
        let seen = with_own_floats(control);
        let back = control();
        load(host.0, host.1);
        assert_eq!(seen, (0x37F, 0x1F80));
        assert_eq!(back, (0xE7F, 0x7FA1));
    }
}
