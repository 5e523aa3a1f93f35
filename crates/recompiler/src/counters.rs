//! What a vCPU counts for `wirt run --accel-stats`. Translated code counts nothing itself: counters are kept where Rust
//! runs anyway.

use crate::fault::vector;
use iced_x86::Mnemonic;

/// Mnemonics shown of those that are interpreted in place.
const SHOWN: usize = 10;

/// The counters of one vCPU.
#[derive(Default)]
pub struct Counters {
    /// Page walks for data read, data written and instructions fetched.
    pub walks: [u64; 3],
    /// Stores to pages that hold translated code.
    pub stores_beside_code: u64,
    /// Accesses of translated code across a page's end, or not aligned as they have to be.
    pub split: u64,
    /// Instructions that the dispatcher interpreted.
    pub interpreted: u64,
    /// Times translated code was left, by reason (`translate::stubs::exit`).
    pub exits: [u64; 4],
    /// Indirect jumps that the jump table of their view did not know, but the one behind it did.
    pub far_jumps: u64,
    /// Exceptions delivered, by vector.
    pub faults: [u64; 32],
    /// External interrupts delivered.
    pub interrupts: u64,
    /// TLB flushes: of everything, of all but global pages, of one page.
    pub flushes: [u64; 3],
    /// Times that jump tables and links were emptied after a change of mappings.
    pub code_flushes: u64,
    /// Instructions that the interpreter ran in the middle of translated code, by mnemonic; empty before the first.
    in_place: Vec<u64>,
}

impl Counters {
    /// Counts an instruction that is interpreted in the middle of translated code.
    #[inline]
    pub fn interpreted_in_place(&mut self, mnemonic: Mnemonic) {
        if self.in_place.is_empty() {
            self.in_place = vec![0; Mnemonic::values().len()];
        }
        self.in_place[mnemonic as usize] += 1;
    }

    /// The counters by name; those of one kind are called `kind.name`.
    pub fn listed(&self) -> Vec<(String, u64)> {
        let [read, write, fetch] = self.walks;
        let [all, local, page] = self.flushes;
        let [dispatch, link, poll, indirect] = self.exits;
        let page_faults = self.faults[usize::from(vector::PF)];
        let in_place: u64 = self.in_place.iter().sum();
        let mut listed: Vec<(String, u64)> = [
            ("interpreted", self.interpreted),
            ("interpreted-in-place", in_place),
            ("interrupts", self.interrupts),
            ("miss.read", read),
            ("miss.write", write),
            ("miss.fetch", fetch),
            ("miss.beside-code", self.stores_beside_code),
            ("miss.split", self.split),
            ("flush.all", all),
            ("flush.local", local),
            ("flush.page", page),
            ("flush.code", self.code_flushes),
            ("exit.dispatch", dispatch),
            ("exit.link", link),
            ("exit.poll", poll),
            ("exit.indirect", indirect),
            ("exit.far-jump", self.far_jumps),
            ("fault.page", page_faults),
            ("fault.other", self.faults.iter().sum::<u64>() - page_faults),
        ]
        .map(|(name, count)| (name.to_string(), count))
        .into();
        let mut mnemonics: Vec<(u64, Mnemonic)> =
            self.in_place.iter().copied().zip(Mnemonic::values()).filter(|(count, _)| *count > 0).collect();
        mnemonics.sort_by_key(|(count, mnemonic)| (std::cmp::Reverse(*count), *mnemonic as u32));
        let shown = mnemonics.into_iter().take(SHOWN);
        listed.extend(shown.map(|(count, mnemonic)| (format!("in-place.{mnemonic:?}").to_lowercase(), count)));
        listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_mnemonics_are_listed_first() {
        let mut counters = Counters::default();
        let often = Mnemonic::values().skip(1).take(12).zip(1..);
        often.for_each(|(mnemonic, times)| (0..times).for_each(|_| counters.interpreted_in_place(mnemonic)));
        counters.faults[14] = 3;
        counters.faults[6] = 2;
        let listed = counters.listed();
        let count = |name| listed.iter().find(|(known, _)| known == name).map(|(_, count)| *count);
        assert_eq!(count("interpreted-in-place"), Some((1..=12).sum()));
        assert_eq!((count("fault.page"), count("fault.other")), (Some(3), Some(2)));
        let in_place: Vec<u64> =
            listed.iter().filter(|(name, _)| name.starts_with("in-place.")).map(|(_, count)| *count).collect();
        assert_eq!(in_place, (3..=12).rev().collect::<Vec<u64>>());
    }
}
