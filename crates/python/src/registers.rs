use hv::{CpuState, DescriptorTable, MpState, Segment};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

const GPRS: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
const SCALARS: [&str; 10] = ["rip", "rflags", "cr0", "cr2", "cr3", "cr4", "cr8", "xcr0", "efer", "apic_base"];

/// A register of [`SCALARS`].
fn scalar<'a>(state: &'a mut CpuState, name: &str) -> Option<&'a mut u64> {
    Some(match name {
        "rip" => &mut state.rip,
        "rflags" => &mut state.rflags,
        "cr0" => &mut state.cr0,
        "cr2" => &mut state.cr2,
        "cr3" => &mut state.cr3,
        "cr4" => &mut state.cr4,
        "cr8" => &mut state.cr8,
        "xcr0" => &mut state.xcr0,
        "efer" => &mut state.efer,
        "apic_base" => &mut state.apic_base,
        _ => return GPRS.iter().position(|gpr| *gpr == name).map(|index| &mut state.gpr[index]),
    })
}

fn segment<'a>(state: &'a mut CpuState, name: &str) -> Option<&'a mut Segment> {
    match name {
        "tr" => Some(&mut state.tr),
        "ldtr" => Some(&mut state.ldtr),
        _ => SEGMENTS.iter().position(|segment| *segment == name).map(|index| &mut state.segments[index]),
    }
}

fn table<'a>(state: &'a mut CpuState, name: &str) -> Option<&'a mut DescriptorTable> {
    match name {
        "gdtr" => Some(&mut state.gdtr),
        "idtr" => Some(&mut state.idtr),
        _ => None,
    }
}

/// The registers by name: integers, segments as (selector, base, limit, access), tables as (base, limit).
pub fn to_python<'py>(py: Python<'py>, state: &CpuState) -> PyResult<Bound<'py, PyDict>> {
    let mut state = state.clone();
    let registers = PyDict::new(py);
    for name in GPRS.into_iter().chain(SCALARS) {
        registers.set_item(name, scalar(&mut state, name).copied())?;
    }
    for name in SEGMENTS.into_iter().chain(["tr", "ldtr"]) {
        let row = segment(&mut state, name).map(|s| (s.selector, s.base, s.limit, s.access));
        registers.set_item(name, row)?;
    }
    for name in ["gdtr", "idtr"] {
        registers.set_item(name, table(&mut state, name).map(|t| (t.base, t.limit)))?;
    }
    registers.set_item("halted", state.mp_state == MpState::Halted)?;
    Ok(registers)
}

/// New values of registers, checked before they are carried to a vCPU's thread.
pub struct Changes {
    scalars: Vec<(String, u64)>,
    segments: Vec<(String, Segment)>,
    tables: Vec<(String, DescriptorTable)>,
    halted: Option<bool>,
}

impl Changes {
    /// Reads what [`to_python`] gives, or a part of it.
    pub fn from_python(values: &Bound<'_, PyDict>) -> PyResult<Self> {
        let mut changes = Changes { scalars: Vec::new(), segments: Vec::new(), tables: Vec::new(), halted: None };
        let mut known = CpuState::reset();
        for (name, value) in values {
            let name: String = name.extract()?;
            if scalar(&mut known, &name).is_some() {
                changes.scalars.push((name, value.extract()?));
            } else if segment(&mut known, &name).is_some() {
                let (selector, base, limit, access) = value.extract()?;
                changes.segments.push((name, Segment { selector, base, limit, access }));
            } else if table(&mut known, &name).is_some() {
                let (base, limit) = value.extract()?;
                changes.tables.push((name, DescriptorTable { base, limit }));
            } else if name == "halted" {
                changes.halted = Some(value.is_truthy()?);
            } else {
                return Err(PyKeyError::new_err(format!("there is no register {name}")));
            }
        }
        Ok(changes)
    }

    /// Puts the values into a state.
    pub fn apply(&self, state: &mut CpuState) {
        for (name, value) in &self.scalars {
            if let Some(place) = scalar(state, name) {
                *place = *value;
            }
        }
        for (name, value) in &self.segments {
            if let Some(place) = segment(state, name) {
                *place = *value;
            }
        }
        for (name, value) in &self.tables {
            if let Some(place) = table(state, name) {
                *place = *value;
            }
        }
        match self.halted {
            Some(true) => state.mp_state = MpState::Halted,
            // A vCPU that waits to be started is not halted, and goes on waiting.
            Some(false) if state.mp_state == MpState::Halted => state.mp_state = MpState::Runnable,
            Some(false) | None => {}
        }
    }
}
