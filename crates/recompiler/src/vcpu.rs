//! One vCPU: the loop around translated code and the interpreter.

use crate::state::Core;
use hv::{CpuState, Error, Exit, Kick, Vcpu};
use std::sync::Arc;

/// A virtual processor of the recompiler.
pub struct RecompilerVcpu {
    core: Box<Core>,
    kick: Arc<dyn Kick>,
}

impl RecompilerVcpu {
    pub(crate) fn new(core: Box<Core>, kick: Arc<dyn Kick>) -> Result<Self, Error> {
        Ok(RecompilerVcpu { core, kick })
    }
}

impl Vcpu for RecompilerVcpu {
    fn run(&mut self) -> Result<Exit, Error> {
        Ok(Exit::Halted)
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kick.clone()
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        Ok(CpuState::reset())
    }

    fn set_state(&mut self, _state: &CpuState) -> Result<(), Error> {
        Ok(())
    }

    fn translate(&mut self, linear: u64) -> Option<u64> {
        self.core.peek_translate(linear)
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
