//! The protocol of the crate's `smp` module, its own source, run by [loom](https://docs.rs/loom) in every order that threads and
//! memory could take (with at most two preemptions a run), against vCPUs that consist of nothing else.

mod sync;

#[allow(dead_code)]
#[path = "../../src/smp/mod.rs"]
mod smp;

use smp::{CodePages, Inside, QUIET, Request, Shared};
use sync::{Arc, AtomicBool, AtomicU32, Ordering, fence};

/// One page of RAM: a word in its first granule, which holds code, and one in the last, which never does.
struct World {
    shared: Shared,
    flag: AtomicBool,
    code: AtomicU32,
    data: AtomicU32,
}

const DATA: u64 = 0xFC0;
const OLD: u32 = 0;
const NEW: u32 = 1;

impl World {
    fn new() -> Arc<World> {
        let [code, data] = [OLD; 2].map(AtomicU32::new);
        Arc::new(World { shared: Shared::new(2, 1), flag: AtomicBool::new(false), code, data })
    }
}

impl CodePages for World {
    fn holds_code(&self, _page: u64) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    fn set(&self, _page: u64) -> bool {
        self.flag.fetch_or(true, Ordering::SeqCst)
    }

    fn clear(&self, _page: u64) {
        self.flag.store(false, Ordering::SeqCst);
    }
}

/// A vCPU with a write TLB of one entry and room for one translation.
struct Cpu {
    id: u32,
    poll: Arc<AtomicU32>,
    world: Arc<World>,
    writes_hit: bool,
    translation: Option<u32>,
}

impl Inside for Cpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn poll(&self) -> &AtomicU32 {
        &self.poll
    }

    fn protect(&mut self, _page: Option<u64>) {
        self.writes_hit = false;
    }
}

impl Cpu {
    fn new(id: u32, world: &Arc<World>) -> Cpu {
        let poll = Arc::new(AtomicU32::new(QUIET));
        world.shared.mailbox(id).attach(std::ptr::from_ref(&*poll));
        Cpu { id, poll, world: world.clone(), writes_hit: false, translation: None }
    }

    /// As `RecompilerVcpu::attend` begins: true when kicked.
    fn attend(&mut self) -> bool {
        self.poll.store(QUIET, Ordering::SeqCst);
        let (requests, kicked) = self.world.shared.mailbox(self.id).enter();
        for request in requests {
            match request {
                Request::Invalidate { .. } => {
                    self.translation = None;
                    self.world.shared.set_granules(self.id, 0, 0);
                }
                Request::Protect { .. } => self.writes_hit = false,
                Request::Everything => unreachable!("so many requests"),
            }
        }
        kicked
    }

    fn fill_tlb(&mut self) {
        let world = self.world.clone();
        self.writes_hit = world.shared.page_free_of_code(self, &*world, 0);
    }

    /// As `Core::physical_write` and `Core::write_view`: new code.
    fn store_code(&mut self) {
        let world = self.world.clone();
        world.code.store(NEW, Ordering::Release);
        if !self.writes_hit {
            world.shared.stored(self, &*world, 0, 4);
        }
    }

    /// As `resolve_memory` for a store to code, of what is taken for data: true when it was stored.
    fn store_beside(&mut self) -> bool {
        let beside = self.world.shared.may_store_beside(self.id, 0, 4);
        if beside {
            self.world.code.store(NEW, Ordering::Release);
        }
        beside
    }

    /// As `Blocks::find`.
    fn translate(&mut self) {
        let world = self.world.clone();
        let bytes = world.code.load(Ordering::Acquire);
        world.shared.register_code(self, &*world, 0, 4);
        if world.code.load(Ordering::Acquire) == bytes {
            self.translation = Some(bytes);
        }
    }

    fn in_a_device(&mut self) {
        let world = self.world.clone();
        world.shared.mailbox(self.id).leave();
        world.shared.come_back(self);
    }

    fn leave(&self) {
        self.world.shared.mailbox(self.id).leave();
    }

    /// All is quiet: a translation is of what is there.
    fn check(&mut self) {
        self.attend();
        if let Some(bytes) = self.translation {
            assert_eq!(bytes, self.world.code.load(Ordering::Acquire), "a stale translation");
        }
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.world.shared.mailbox(self.id).detach();
    }
}

fn model(scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 100_000;
    builder.check(scenario);
}

/// Runs `other` as vCPU 1 while vCPU 0 translates; then neither may have a stale translation.
fn translating_against(prepare: fn(&mut Cpu), other: fn(&mut Cpu)) {
    model(move || {
        let world = World::new();
        let mut cpu = Cpu::new(1, &world);
        prepare(&mut cpu);
        let thread = loom::thread::spawn(move || {
            other(&mut cpu);
            cpu.attend();
            cpu.leave();
            cpu
        });
        let mut cpu = Cpu::new(0, &world);
        cpu.attend();
        cpu.translate();
        cpu.leave();
        let mut other = thread.join().unwrap();
        cpu.check();
        other.check();
    });
}

#[test]
fn code_and_a_store_through_the_tlb_see_each_other() {
    translating_against(
        |cpu| {
            cpu.attend();
            cpu.fill_tlb();
        },
        Cpu::store_code,
    );
}

#[test]
fn code_and_a_store_that_fills_the_tlb_see_each_other() {
    translating_against(
        |cpu| _ = cpu.attend(),
        |cpu| {
            cpu.fill_tlb();
            cpu.store_code();
        },
    );
}

#[test]
fn a_flag_left_over_is_cleared_only_where_no_code_is() {
    translating_against(
        |cpu| {
            cpu.attend();
            cpu.world.set(0);
        },
        |cpu| {
            cpu.fill_tlb();
            cpu.store_code();
        },
    );
}

#[test]
fn a_store_behind_a_device_access_sees_what_was_asked_meanwhile() {
    translating_against(
        |cpu| {
            cpu.attend();
            cpu.fill_tlb();
        },
        |cpu| {
            cpu.in_a_device();
            cpu.store_code();
        },
    );
}

#[test]
fn code_and_a_store_beside_other_code_see_each_other() {
    translating_against(
        |cpu| {
            cpu.attend();
            cpu.world.clone().shared.register_code(cpu, &*cpu.world.clone(), DATA, 4);
        },
        |cpu| {
            if !cpu.store_beside() {
                cpu.store_code();
            }
            // Another store replaces the announcement.
            let shared = &cpu.world.shared;
            assert!(!shared.may_store_beside(1, DATA, 4), "own code was registered there");
            cpu.world.data.store(1, Ordering::Release);
        },
    );
}

#[test]
fn code_and_a_store_by_the_interpreter_see_each_other() {
    translating_against(
        |cpu| {
            cpu.attend();
            cpu.world.clone().shared.register_code(cpu, &*cpu.world.clone(), DATA, 4);
        },
        Cpu::store_code,
    );
}

#[test]
fn code_and_a_device_see_each_other() {
    model(|| {
        let world = World::new();
        let device = world.clone();
        let thread = loom::thread::spawn(move || {
            device.code.store(NEW, Ordering::Relaxed);
            // As `GuestMemory::written`.
            fence(Ordering::SeqCst);
            if device.holds_code(0) {
                device.shared.written_by_device(0, 4);
            }
        });
        let mut cpu = Cpu::new(0, &world);
        cpu.attend();
        cpu.translate();
        cpu.leave();
        thread.join().unwrap();
        cpu.check();
    });
}

#[test]
fn two_vcpus_translate_and_change_each_others_code() {
    model(|| {
        let world = World::new();
        let body = |id: u32, world: Arc<World>| {
            move || {
                let mut cpu = Cpu::new(id, &world);
                cpu.attend();
                cpu.translate();
                cpu.fill_tlb();
                cpu.store_code();
                cpu.attend();
                cpu.leave();
                cpu
            }
        };
        let thread = loom::thread::spawn(body(1, world.clone()));
        let mut cpu = body(0, world)();
        let mut other = thread.join().unwrap();
        cpu.check();
        other.check();
    });
}

#[test]
fn a_kick_and_an_interrupt_wake_a_vcpu_that_halts() {
    model(|| {
        let world = World::new();
        let pending = Arc::new(AtomicBool::new(false));
        let (sender, posted) = (world.clone(), pending.clone());
        let mut cpu = Cpu::new(0, &world);
        let thread = loom::thread::spawn(move || {
            posted.store(true, Ordering::SeqCst);
            sender.shared.mailbox(0).interrupt();
            sender.shared.mailbox(0).kick();
        });
        // As `RecompilerVcpu::attend` in HLT.
        let mut interrupted = false;
        loop {
            let kicked = cpu.attend();
            interrupted |= pending.load(Ordering::SeqCst);
            if kicked {
                break;
            }
            world.shared.mailbox(0).sleep(&cpu.poll);
        }
        assert!(interrupted, "the interrupt came before the kick");
        thread.join().unwrap();
    });
}

#[test]
fn nobody_sees_half_of_what_is_done_exclusively() {
    model(|| {
        let world = World::new();
        let add = |world: &World| {
            let sum = world.data.load(Ordering::Relaxed) + 1;
            world.data.store(sum, Ordering::Relaxed);
        };
        let theirs = world.clone();
        let thread = loom::thread::spawn(move || {
            let mut cpu = Cpu::new(1, &theirs);
            cpu.attend();
            add(&theirs);
            cpu.in_a_device();
            add(&theirs);
            cpu.attend();
            cpu.leave();
        });
        let mut cpu = Cpu::new(0, &world);
        cpu.attend();
        let shared = &world.shared;
        shared.exclusive(&mut cpu, || add(&world));
        cpu.leave();
        thread.join().unwrap();
        assert_eq!(world.data.load(Ordering::Relaxed), 3);
    });
}

#[test]
fn two_that_want_to_be_alone_and_translate_do_not_wait_for_each_other() {
    model(|| {
        let world = World::new();
        let body = |id: u32, world: Arc<World>| {
            move || {
                let mut cpu = Cpu::new(id, &world);
                cpu.attend();
                world.shared.exclusive(&mut cpu, || {
                    let sum = world.data.load(Ordering::Relaxed) + 1;
                    world.data.store(sum, Ordering::Relaxed);
                });
                if id == 1 {
                    cpu.translate();
                }
                cpu.leave();
            }
        };
        let thread = loom::thread::spawn(body(1, world.clone()));
        body(0, world.clone())();
        thread.join().unwrap();
        assert_eq!(world.data.load(Ordering::Relaxed), 2);
    });
}
