//! Which interrupts have come, and which of them the processor may be given. Intel SDM volume 3A, section 11.8.
//!
//! Interrupts are posted from any thread without a lock. [`Acceptance::update`] says why none is lost.

use super::sync::{AtomicU8, AtomicU32, SeqCst, WORDS};
use hv::Pending;

/// A set of vectors that any thread may change.
pub(super) struct Vectors(pub(super) [AtomicU32; WORDS]);

impl Vectors {
    fn new() -> Self {
        Vectors(std::array::from_fn(|_| AtomicU32::new(0)))
    }

    fn set(&self, vector: u8) {
        self.0[usize::from(vector >> 5)].fetch_or(1 << (vector & 31), SeqCst);
    }

    fn clear(&self, vector: u8) {
        self.0[usize::from(vector >> 5)].fetch_and(!(1 << (vector & 31)), SeqCst);
    }

    fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)].load(SeqCst) & 1 << (vector & 31) != 0
    }

    fn highest(&self) -> Option<u8> {
        self.0.iter().enumerate().rev().find_map(|(index, word)| {
            let word = word.load(SeqCst);
            (word != 0).then(|| (index as u32 * 32 + word.ilog2()) as u8)
        })
    }

    fn clear_all(&self) {
        self.0.iter().for_each(|word| word.store(0, SeqCst));
    }
}

/// What surrounds the acceptance logic.
pub(super) trait Pins {
    /// Whether an interrupt waits whose vector does not come through IRR: ExtINT.
    fn external(&self) -> bool;
    /// Makes the processor look at the pending word.
    fn interrupt(&self);
}

/// IRR, ISR, TMR, the priorities, and the word that tells the processor of all that is pending.
pub(super) struct Acceptance {
    pending: AtomicU32,
    /// Processor priority as of the last change of TPR or ISR.
    ppr: AtomicU8,
    tpr: AtomicU8,
    pub(super) irr: Vectors,
    pub(super) isr: Vectors,
    pub(super) tmr: Vectors,
}

impl Acceptance {
    pub(super) fn new() -> Self {
        Acceptance {
            pending: AtomicU32::new(0),
            ppr: AtomicU8::new(0),
            tpr: AtomicU8::new(0),
            irr: Vectors::new(),
            isr: Vectors::new(),
            tmr: Vectors::new(),
        }
    }

    /// No vectors, priority 0. What is pending stays: see [`Self::priority_changed`].
    pub(super) fn clear(&self) {
        self.tpr.store(0, SeqCst);
        for vectors in [&self.irr, &self.isr, &self.tmr] {
            vectors.clear_all();
        }
    }

    pub(super) fn pending(&self) -> Pending {
        Pending::from_bits_retain(self.pending.load(SeqCst))
    }

    /// Takes bits out of the pending word and tells whether one of them was set.
    pub(super) fn take(&self, what: Pending) -> bool {
        self.pending.fetch_and(!what.bits(), SeqCst) & what.bits() != 0
    }

    pub(super) fn tpr(&self) -> u8 {
        self.tpr.load(SeqCst)
    }

    /// Sets TPR and returns what it was. [`Self::priority_changed`] is to follow.
    pub(super) fn set_tpr(&self, value: u8) -> u8 {
        self.tpr.swap(value, SeqCst)
    }

    pub(super) fn ppr(&self) -> u8 {
        self.ppr.load(SeqCst)
    }

    /// The highest vector in IRR that beats the processor priority.
    fn highest_deliverable(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (vector >> 4 > self.ppr() >> 4).then_some(vector)
    }

    fn deliverable(&self, pins: &impl Pins) -> bool {
        pins.external() || self.highest_deliverable().is_some()
    }

    /// Sets bits of the pending word and interrupts the processor when they were not all set: then true.
    pub(super) fn raise(&self, what: Pending, pins: &impl Pins) -> bool {
        let news = self.pending.fetch_or(what.bits(), SeqCst) & what.bits() != what.bits();
        if news {
            pins.interrupt();
        }
        news
    }

    /// Brings [`Pending::INTR`] in line with what can be delivered. Any thread may call this.
    ///
    /// No interrupt is lost, because all accesses are sequentially consistent and two rules hold: whoever makes the
    /// condition true (sets an IRR bit, lowers PPR, raises LINT0) evaluates it afterwards and sets INTR; and whoever
    /// clears INTR evaluates the condition afterwards and sets INTR again. A poster and a processor that lowers its
    /// priority each write first and read then, so at least one of them sees both. A clearer that overtakes a
    /// setter's INTR also sees what the setter wrote before. INTR may be set for a moment with nothing deliverable:
    /// [`Self::acknowledge`] then returns `None`, and the processor looks at the pending word again before it sleeps,
    /// since an INTR that never fell does not interrupt it anew.
    pub(super) fn update(&self, pins: &impl Pins) {
        if self.deliverable(pins) {
            self.raise(Pending::INTR, pins);
        } else if self.pending().contains(Pending::INTR) {
            self.take(Pending::INTR);
            if self.deliverable(pins) {
                self.raise(Pending::INTR, pins);
            }
        }
    }

    /// Recomputes PPR after a change of TPR or ISR. Section 11.8.3.1.
    pub(super) fn priority_changed(&self, pins: &impl Pins) {
        let tpr = self.tpr();
        let in_service = self.isr.highest().unwrap_or(0);
        let ppr = if tpr >> 4 >= in_service >> 4 { tpr } else { in_service & 0xF0 };
        self.ppr.store(ppr, SeqCst);
        self.update(pins);
    }

    /// A fixed interrupt comes.
    pub(super) fn post(&self, vector: u8, level: bool, pins: &impl Pins) {
        // Read and set only when it has to change: a vector is nearly always the one or the other.
        if self.tmr.contains(vector) != level {
            if level { self.tmr.set(vector) } else { self.tmr.clear(vector) }
        }
        self.irr.set(vector);
        if vector >> 4 > self.ppr() >> 4 {
            self.raise(Pending::INTR, pins);
        }
    }

    /// The processor takes the highest vector, if it may take one.
    pub(super) fn acknowledge(&self, pins: &impl Pins) -> Option<u8> {
        let vector = self.highest_deliverable();
        if let Some(vector) = vector {
            self.irr.clear(vector);
            self.isr.set(vector);
        }
        self.priority_changed(pins);
        vector
    }

    /// Ends the highest interrupt in service: its vector, and whether it was level-triggered. Section 11.8.5.
    /// [`Self::priority_changed`] is to follow.
    pub(super) fn end(&self) -> Option<(u8, bool)> {
        let vector = self.isr.highest()?;
        self.isr.clear(vector);
        Some((vector, self.tmr.contains(vector)))
    }
}
