//! Translations of pages that no RAM is behind, which the TLB has no place for: registers of devices.

use super::{Kind, Translation};
use crate::tlb::View;

/// Pages that are kept, by their numbers.
const KEPT: usize = 8;

/// No tag: there are fewer views.
const NOTHING: u64 = u64::MAX;

#[derive(Clone, Copy)]
struct Kept {
    /// Linear address of the page, and the view.
    tag: u64,
    found: Translation,
}

/// A few translations of one vCPU.
pub struct DevicePages([Kept; KEPT]);

impl Default for DevicePages {
    fn default() -> Self {
        let found = Translation { physical: 0, writable: false, global: false, page_size: 4096 };
        DevicePages([Kept { tag: NOTHING, found }; KEPT])
    }
}

fn slot(linear: u64) -> usize {
    (linear >> 12) as usize % KEPT
}

fn tag(view: View, linear: u64) -> u64 {
    linear & !0xFFF | view as u64
}

impl DevicePages {
    /// What an access found before, when it is allowed to now.
    #[inline]
    pub fn lookup(&self, view: View, linear: u64, kind: Kind) -> Option<Translation> {
        let kept = &self.0[slot(linear)];
        let allowed = match kind {
            Kind::Read => true,
            Kind::Write => kept.found.writable,
            Kind::Fetch => false,
        };
        let found = Translation { physical: kept.found.physical | linear & 0xFFF, ..kept.found };
        (kept.tag == tag(view, linear) && allowed).then_some(found)
    }

    /// Keeps what an access of data found.
    pub fn keep(&mut self, view: View, linear: u64, found: Translation) {
        let found = Translation { physical: found.physical & !0xFFF, ..found };
        self.0[slot(linear)] = Kept { tag: tag(view, linear), found };
    }

    /// Drops everything, or everything but global pages.
    pub fn flush(&mut self, keep_global: bool) {
        self.0.iter_mut().filter(|kept| !(keep_global && kept.found.global)).for_each(|kept| kept.tag = NOTHING);
    }

    /// Drops one linear page.
    pub fn flush_page(&mut self, linear: u64) {
        let kept = &mut self.0[slot(linear)];
        if (kept.tag ^ linear) >> 12 == 0 {
            kept.tag = NOTHING;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0xFEE0_0000;

    fn kept(writable: bool, global: bool) -> DevicePages {
        let mut pages = DevicePages::default();
        pages.keep(
            View::Supervisor,
            PAGE + 0x300,
            Translation { physical: PAGE + 0x1300, writable, global, page_size: 4096 },
        );
        pages
    }

    fn physical(pages: &DevicePages, view: View, linear: u64, kind: Kind) -> Option<u64> {
        pages.lookup(view, linear, kind).map(|found| found.physical)
    }

    #[test]
    fn a_page_is_found_for_what_was_allowed_and_nobody_else() {
        let pages = kept(false, false);
        assert_eq!(physical(&pages, View::Supervisor, PAGE + 0xB0, Kind::Read), Some(PAGE + 0x10B0));
        assert_eq!(physical(&pages, View::Supervisor, PAGE + 0xB0, Kind::Write), None);
        assert_eq!(physical(&pages, View::Supervisor, PAGE + 0xB0, Kind::Fetch), None);
        assert_eq!(physical(&pages, View::User, PAGE + 0xB0, Kind::Read), None);
        assert_eq!(physical(&pages, View::Supervisor, PAGE + 0x1000, Kind::Read), None);
        assert_eq!(physical(&pages, View::Supervisor, PAGE + (KEPT as u64) * 4096, Kind::Read), None);
        assert_eq!(physical(&kept(true, false), View::Supervisor, PAGE, Kind::Write), Some(PAGE + 0x1000));
        assert_eq!(physical(&DevicePages::default(), View::User, 0, Kind::Read), None);
        assert_eq!(physical(&DevicePages::default(), View::User, u64::MAX, Kind::Read), None);
    }

    #[test]
    fn flushes_drop_what_they_name() {
        let found = |pages: &DevicePages| physical(pages, View::Supervisor, PAGE, Kind::Read).is_some();
        for (keep_global, global, stays) in
            [(false, false, false), (false, true, false), (true, false, false), (true, true, true)]
        {
            let mut pages = kept(true, global);
            pages.flush(keep_global);
            assert_eq!(found(&pages), stays, "{keep_global} {global}");
        }
        let mut pages = kept(true, true);
        pages.flush_page(PAGE + 0x1000);
        pages.flush_page(PAGE + (KEPT as u64) * 4096);
        assert!(found(&pages));
        pages.flush_page(PAGE + 0xFFF);
        assert!(!found(&pages));
    }
}
