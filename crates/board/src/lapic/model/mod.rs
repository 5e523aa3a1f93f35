//! The acceptance logic, its own source, run by [loom](https://docs.rs/loom) in every order that threads could take (with
//! at most three preemptions a run): no interrupt is lost, and a processor that sleeps is woken.

mod sync;

#[allow(dead_code, clippy::duplicate_mod)]
#[path = "../acceptance.rs"]
mod acceptance;

use acceptance::{Acceptance, Pins};
use hv::Pending;
use loom::sync::{Arc, Condvar, Mutex};

struct Processor {
    acceptance: Acceptance,
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Pins for Processor {
    fn external(&self) -> bool {
        false
    }

    fn interrupt(&self) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Processor {
    fn new() -> Arc<Processor> {
        Arc::new(Processor { acceptance: Acceptance::new(), woken: Mutex::new(false), changed: Condvar::new() })
    }

    fn post(&self, vector: u8) {
        self.acceptance.post(vector, false, self);
    }

    /// As a vCPU in HLT: looks at the pending word, or sleeps until somebody interrupts it.
    fn wait(&self) {
        while !self.acceptance.pending().contains(Pending::INTR) {
            let mut woken = self.woken.lock().unwrap();
            while !*woken {
                woken = self.changed.wait(woken).unwrap();
            }
            *woken = false;
        }
    }

    /// Takes interrupts until all `vectors` were taken, with a handler for each.
    fn serve(&self, mut vectors: Vec<u8>) {
        while !vectors.is_empty() {
            self.wait();
            let Some(vector) = self.acceptance.acknowledge(self) else { continue };
            vectors.retain(|&expected| expected != vector);
            self.acceptance.end();
            self.acceptance.priority_changed(self);
        }
    }

    fn set_tpr(&self, value: u8) {
        self.acceptance.set_tpr(value);
        self.acceptance.priority_changed(self);
    }
}

fn model(scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 100_000;
    builder.check(scenario);
}

#[test]
fn two_interrupts_of_different_classes_are_taken() {
    model(|| {
        let processor = Processor::new();
        let sender = processor.clone();
        let thread = loom::thread::spawn(move || {
            sender.post(0x21);
            sender.post(0x31);
        });
        processor.serve(vec![0x21, 0x31]);
        thread.join().unwrap();
    });
}

#[test]
fn an_interrupt_that_comes_while_the_priority_is_high_is_taken_when_it_falls() {
    model(|| {
        let processor = Processor::new();
        let sender = processor.clone();
        let thread = loom::thread::spawn(move || sender.post(0x21));
        processor.set_tpr(0x30);
        processor.set_tpr(0);
        processor.serve(vec![0x21]);
        thread.join().unwrap();
    });
}

#[test]
fn two_senders_and_a_handler_lose_nothing() {
    model(|| {
        let processor = Processor::new();
        let senders: Vec<_> = [0x21, 0x31]
            .into_iter()
            .map(|vector| {
                let sender = processor.clone();
                loom::thread::spawn(move || sender.post(vector))
            })
            .collect();
        processor.serve(vec![0x21, 0x31]);
        senders.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
