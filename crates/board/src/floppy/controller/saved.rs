//! The controller's state for a snapshot. What is read may be hostile.

use super::{Controller, DSR_PRECOMPENSATION, LONGEST_RESULT, PERPENDICULAR_DRIVES, PERPENDICULAR_GAP, Phase, RATE};
use crate::floppy::command::{Command, LONGEST};
use crate::floppy::drive::Drive;
use crate::floppy::execution::Execution;
use crate::{StateReader, StateWriter};

impl Controller {
    /// Writes the state, while no work on an image is on its way.
    pub fn save(&self, writer: &mut StateWriter) {
        let [rates, load] = self.specified;
        let bytes = [self.dor, self.tdr, self.precompensation, self.rate, rates, load, self.configured];
        let more = [self.precompensation_track, self.last, self.perpendicular, self.turn];
        bytes.into_iter().chain(more).chain(self.cylinders).for_each(|byte| writer.u8(byte));
        for flag in [self.locked, self.reset_ended, self.told] {
            writer.u8(flag.into());
        }
        for st0 in self.seeking.iter().chain(&self.sensed) {
            writer.blob(st0.as_slice());
        }
        for drive in &self.drives {
            let (position, changed) = drive.as_ref().map_or((0, false), Drive::mechanics);
            writer.u8(position);
            writer.u8(changed.into());
        }
        match &self.phase {
            Phase::Command { bytes, length } => {
                writer.u8(0);
                writer.blob(&bytes[..*length]);
            }
            Phase::Result { bytes, length, next, interrupts } => {
                writer.u8(1);
                writer.blob(&bytes[*next..*length]);
                writer.u8((*interrupts && *next == 0).into());
            }
            Phase::Execution(execution) => {
                writer.u8(2);
                execution.save(writer);
            }
        }
    }

    /// Reads what [`Controller::save`] wrote; after an error the state is as after power-on.
    pub fn load(&mut self, reader: &mut StateReader) -> Result<(), String> {
        self.power_on();
        self.load_state(reader).inspect_err(|_| self.power_on())
    }

    fn load_state(&mut self, reader: &mut StateReader) -> Result<(), String> {
        (self.dor, self.tdr) = (reader.u8()?, reader.u8()? & 3);
        (self.precompensation, self.rate) = (reader.u8()? & DSR_PRECOMPENSATION, reader.u8()? & RATE);
        self.specified = [reader.u8()?, reader.u8()?];
        (self.configured, self.precompensation_track) = (reader.u8()? & 0x7F, reader.u8()?);
        (self.last, self.perpendicular) = (reader.u8()?, reader.u8()? & (PERPENDICULAR_DRIVES | PERPENDICULAR_GAP));
        self.turn = reader.u8()?;
        self.cylinders = [reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?];
        (self.locked, self.reset_ended, self.told) = (reader.bool()?, reader.bool()?, reader.bool()?);
        for st0 in self.seeking.iter_mut().chain(&mut self.sensed) {
            *st0 = match *reader.blob()? {
                [] => None,
                [byte] => Some(byte),
                _ => return Err(reader.invalid("a drive has two states")),
            };
        }
        for drive in &mut self.drives {
            let (position, changed) = (reader.u8()?, reader.bool()?);
            if let Some(drive) = drive {
                drive.set_mechanics(position, changed);
            }
        }
        match reader.u8()? {
            0 => {
                let saved = reader.blob()?;
                let needed = saved.first().map_or(Some(1), |first| Command::decode(*first).map(|found| found.1));
                if needed.is_none_or(|needed| saved.len() >= needed) {
                    return Err(reader.invalid("a command is longer than it can be"));
                }
                let mut bytes = [0; LONGEST];
                bytes[..saved.len()].copy_from_slice(saved);
                self.phase = Phase::Command { bytes, length: saved.len() };
            }
            1 => {
                let result = reader.blob()?;
                if !(1..=LONGEST_RESULT).contains(&result.len()) {
                    return Err(reader.invalid("a result is longer than it can be"));
                }
                self.begin_result(result, reader.bool()?);
            }
            2 => {
                let drives = &mut self.drives;
                let disk = |unit: u8| drives.get_mut(usize::from(unit))?.as_mut()?.content();
                self.phase = Phase::Execution(Box::new(Execution::load(reader, disk)?));
            }
            _ => return Err(reader.invalid("its phase is unknown")),
        }
        Ok(())
    }
}
