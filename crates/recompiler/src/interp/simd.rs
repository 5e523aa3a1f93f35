use super::Handler;
use iced_x86::Instruction;

pub(super) fn handler(_instruction: &Instruction) -> Option<Handler> {
    None
}
