//! Processor models: how much of the host's processor a guest is shown.

use crate::Error;

/// What CPUID shows to a guest. The levels are those of the x86-64 psABI, section 3.1.1: a guest that was started on one
/// runs on every host that has it. They limit the instructions of user programs; what only systems use (paging, MSRs,
/// timers) and mere hints (ERMS) are shown at every level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuModel {
    /// All that the host's processor and the accelerator have in common.
    Host,
    /// SSE4.2, POPCNT and CMPXCHG16B, and nothing beyond.
    V2,
    /// And AVX2, BMI1, BMI2, F16C, FMA, LZCNT and MOVBE.
    V3,
    /// And AVX-512 F, BW, CD, DQ and VL.
    V4,
}

/// Feature bits of user instructions, by the registers of CPUID that have them. Intel SDM volume 2A, "CPUID"; AMD APM
/// volume 3, appendix E.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Leaf 1, ECX.
    pub leaf1_ecx: u32,
    /// Leaf 7, EBX.
    pub leaf7_ebx: u32,
    /// Leaf 7, ECX.
    pub leaf7_ecx: u32,
    /// Leaf 7, EDX.
    pub leaf7_edx: u32,
    /// Leaf 0x8000_0001, ECX.
    pub extended_ecx: u32,
    /// Leaf 0x8000_0001, EDX.
    pub extended_edx: u32,
}

const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let mut mask = 0;
    let mut index = 0;
    while index < N {
        mask |= 1 << numbers[index];
        index += 1;
    }
    mask
}

/// SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; LAHF and SAHF.
const V2: Features = Features {
    leaf1_ecx: bits([0, 9, 13, 19, 20, 23]),
    leaf7_ebx: 0,
    leaf7_ecx: 0,
    leaf7_edx: 0,
    extended_ecx: bits([0]),
    extended_edx: 0,
};
/// FMA, MOVBE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT.
const V3: Features =
    Features { leaf1_ecx: bits([12, 22, 28, 29]), leaf7_ebx: bits([3, 5, 8]), extended_ecx: bits([5]), ..V2.none() };
/// AVX-512 F, DQ, CD, BW, VL.
const V4: Features = Features { leaf7_ebx: bits([16, 17, 28, 30, 31]), ..V2.none() };
/// Instructions of no level. Leaf 1: PCLMULQDQ, AES, RDRAND. Leaf 7, EBX: HLE, RTM, MPX, RDSEED, ADX, AVX512_IFMA,
/// CLFLUSHOPT, CLWB, AVX512PF, AVX512ER, SHA; ECX: PREFETCHWT1, AVX512_VBMI, WAITPKG, AVX512_VBMI2, GFNI, VAES,
/// VPCLMULQDQ, AVX512_VNNI, AVX512_BITALG, AVX512_VPOPCNTDQ, KL, CLDEMOTE, MOVDIRI, MOVDIR64B, ENQCMD; EDX: AVX512_4VNNIW,
/// AVX512_4FMAPS, AVX512_VP2INTERSECT, SERIALIZE, AVX512_FP16. Leaf 0x8000_0001: SSE4A, misaligned SSE, PREFETCHW, XOP,
/// FMA4, TBM, MONITORX; MMX extensions, 3DNow! extensions, 3DNow!.
const BEYOND: Features = Features {
    leaf1_ecx: bits([1, 25, 30]),
    leaf7_ebx: bits([4, 11, 14, 18, 19, 21, 23, 24, 26, 27, 29]),
    leaf7_ecx: bits([0, 1, 5, 6, 8, 9, 10, 11, 12, 14, 23, 25, 27, 28, 29]),
    leaf7_edx: bits([2, 3, 8, 14, 23]),
    extended_ecx: bits([6, 7, 8, 11, 16, 21, 29]),
    extended_edx: bits([22, 30, 31]),
};

impl Features {
    const fn none(self) -> Features {
        Features { leaf1_ecx: 0, leaf7_ebx: 0, leaf7_ecx: 0, leaf7_edx: 0, extended_ecx: 0, extended_edx: 0 }
    }

    fn combine(self, other: Features, with: impl Fn(u32, u32) -> u32) -> Features {
        Features {
            leaf1_ecx: with(self.leaf1_ecx, other.leaf1_ecx),
            leaf7_ebx: with(self.leaf7_ebx, other.leaf7_ebx),
            leaf7_ecx: with(self.leaf7_ecx, other.leaf7_ecx),
            leaf7_edx: with(self.leaf7_edx, other.leaf7_edx),
            extended_ecx: with(self.extended_ecx, other.extended_ecx),
            extended_edx: with(self.extended_edx, other.extended_edx),
        }
    }

    fn and(self, other: Features) -> Features {
        self.combine(other, |one, other| one | other)
    }

    /// Whether all of `other`'s bits are set.
    fn has(self, other: Features) -> bool {
        self.combine(other, |one, other| other & !one) == Features::default()
    }
}

impl CpuModel {
    /// The models and their names.
    pub const NAMES: [(&str, CpuModel); 4] = [
        ("host", CpuModel::Host),
        ("x86-64-v2", CpuModel::V2),
        ("x86-64-v3", CpuModel::V3),
        ("x86-64-v4", CpuModel::V4),
    ];

    /// The model of a name; `None` when there is none.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, model)| *model)
    }

    /// `offered` as the model shows it, when that is all a machine could have.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when something is missing that the model promises. `who` offers, for the sentence.
    pub fn limit(self, offered: Features, who: &str) -> Result<Features, Error> {
        let (name, promised) = match self {
            CpuModel::Host => return Ok(offered),
            CpuModel::V2 => ("x86-64-v2", V2),
            CpuModel::V3 => ("x86-64-v3", V2.and(V3)),
            CpuModel::V4 => ("x86-64-v4", V2.and(V3).and(V4)),
        };
        if !offered.has(promised) {
            let lower = [(V2.and(V3), "x86-64-v3"), (V2, "x86-64-v2")];
            let instead = lower.iter().find(|(level, _)| offered.has(*level)).map(|(_, name)| format!("{name} or "));
            return Err(Error::Unavailable(format!(
                "{who} has not all features of {name}: use {}host",
                instead.unwrap_or_default()
            )));
        }
        let user = V2.and(V3).and(V4).and(BEYOND);
        Ok(offered
            .combine(user.combine(promised, |user, promised| user & !promised), |offered, hidden| offered & !hidden))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Features = Features {
        leaf1_ecx: u32::MAX,
        leaf7_ebx: u32::MAX,
        leaf7_ecx: u32::MAX,
        leaf7_edx: u32::MAX,
        extended_ecx: u32::MAX,
        extended_edx: u32::MAX,
    };

    #[test]
    fn a_level_is_itself_on_every_host_that_has_it() {
        for (_, model) in CpuModel::NAMES.into_iter().skip(1) {
            let shown = model.limit(ALL, "all").unwrap();
            assert_eq!(model.limit(shown, "itself").unwrap(), shown);
            assert_ne!(shown, ALL);
        }
        assert_eq!(CpuModel::Host.limit(ALL, "all").unwrap(), ALL);
        let v2 = CpuModel::V2.limit(ALL, "all").unwrap();
        let v3 = CpuModel::V3.limit(ALL, "all").unwrap();
        assert_eq!(v3.combine(v2, |v3, v2| v3 & !v2), V3);
        // SMEP, SMAP, ERMS, UMIP, XSAVE, FSRM, NX are no level's business.
        assert_eq!(v2.leaf7_ebx & bits([7, 9, 20]), bits([7, 9, 20]));
        assert_eq!((v2.leaf7_ecx >> 2 & 1, v2.leaf1_ecx >> 26 & 1, v2.leaf7_edx >> 4 & 1), (1, 1, 1));
        assert_eq!(v2.extended_edx >> 20 & 1, 1);
    }

    #[test]
    fn what_the_host_lacks_is_refused_and_the_best_it_has_named() {
        let said = |offered, model: CpuModel| model.limit(offered, "this processor").unwrap_err().to_string();
        let v3 = CpuModel::V3.limit(ALL, "all").unwrap();
        assert_eq!(said(v3, CpuModel::V4), "this processor has not all features of x86-64-v4: use x86-64-v3 or host");
        assert_eq!(said(V2, CpuModel::V3), "this processor has not all features of x86-64-v3: use x86-64-v2 or host");
        assert_eq!(said(V2.none(), CpuModel::V2), "this processor has not all features of x86-64-v2: use host");
    }

    #[test]
    fn names_are_the_psabis() {
        assert_eq!(CpuModel::from_name("x86-64-v3"), Some(CpuModel::V3));
        assert_eq!(CpuModel::from_name("x86-64-v1"), None);
    }
}
