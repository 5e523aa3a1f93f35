use super::rig::*;
use crate::uhci::schedule::Barren;
use crate::{Response, Token};

#[test]
fn a_queue_advances_breadth_or_depth_first() {
    for (depth, asked) in [(0, 1), (VF, 3)] {
        let (mut rig, device) = Rig::scripted();
        device.answer([Response::Ack, Response::Ack, Response::Ack]);
        for index in 0..3 {
            let link = if index == 2 { END } else { (TDS + 0x20 * (index + 1)) | depth };
            rig.td(index, link, ACTIVE, token(OUT, 1, 2, 0, 4));
        }
        rig.put(QUEUE, &[END, TDS]);
        rig.frame();
        assert_eq!(device.asked.lock().len(), asked);
        rig.frame();
        rig.frame();
        assert_eq!(rig.word(QUEUE + 4), END);
        assert_eq!(rig.controller.registers()[6], 3, "frames");
        assert_eq!([0, 1, 2].map(|index| rig.control(index)), [3; 3], "4 bytes each");
        assert_eq!(device.asked.lock()[0].0, Token { address: 1, endpoint: 2 });
    }
}

#[test]
fn a_nak_stays_active_and_does_not_count() {
    let (mut rig, _) = Rig::scripted();
    rig.td(0, END, ACTIVE | IOC | errors(1), token(IN, 1, 1, 0, 8));
    rig.put(QUEUE, &[END, TDS]);
    for _ in 0..10 {
        rig.frame();
    }
    assert_eq!(rig.control(0), ACTIVE | IOC | errors(1) | NAK);
    assert_eq!((rig.word(QUEUE + 4), rig.read(2)), (TDS, 0));
    assert!(!rig.controller.interrupt());
}

#[test]
fn timeouts_are_counted_down_to_a_stall_or_not_at_all() {
    let (mut rig, device) = Rig::scripted();
    rig.td(0, END, ACTIVE | IOC | errors(3), token(IN, 1, 1, 0, 8));
    rig.td(1, END, ACTIVE | errors(0), token(IN, 1, 1, 0, 8));
    rig.put(QUEUE, &[(QUEUE + 0x20) | Q, TDS, 0, 0, 0, 0, 0, 0, END, TDS + 0x20]);
    device.answer(vec![Response::Silence; 6]);
    rig.frame();
    assert_eq!(rig.control(0), ACTIVE | IOC | errors(2) | TIMEOUT);
    assert!(!rig.controller.interrupt());
    rig.frame();
    rig.frame();
    assert_eq!(rig.control(0), IOC | TIMEOUT | STALLED | 0x7FF);
    assert_eq!(rig.word(QUEUE + 4), TDS, "the queue stands");
    assert_eq!(rig.read(2), 3, "USBINT by IOC, and an error");
    assert_eq!(rig.control(1), ACTIVE | TIMEOUT);
    rig.write(2, 3);
    assert_eq!((rig.read(2), rig.controller.interrupt()), (0, false));
}

#[test]
fn a_stall_and_a_babble_halt_the_queue() {
    for (answer, expected) in [(Response::Stall, STALLED), (data(&[0; 9], false), STALLED | BABBLE)] {
        let (mut rig, device) = Rig::scripted();
        device.answer([answer]);
        rig.td(0, END, ACTIVE | errors(3), token(IN, 1, 1, 0, 8));
        rig.put(QUEUE, &[END, TDS]);
        rig.put(DATA, &[0x5555_5555; 3]);
        rig.frame();
        assert_eq!(rig.control(0), expected | errors(3) | 0x7FF);
        assert_eq!((rig.word(QUEUE + 4), rig.read(2)), (TDS, 2));
        assert_eq!(rig.word(DATA), 0x5555_5555, "nothing is written");
        rig.frame();
        assert_eq!(device.asked.lock().len(), 1);
    }
}

#[test]
fn a_short_packet_stops_the_queue_where_it_is_asked_to() {
    for (spd, element, status) in [(0, END, 0), (SPD, TDS, 1)] {
        let (mut rig, device) = Rig::scripted();
        device.answer([data(&[1, 2, 3], true)]);
        rig.td(0, END, ACTIVE | spd, token(IN, 1, 1, 1, 8));
        rig.put(QUEUE, &[END, TDS]);
        rig.frame();
        assert_eq!((rig.control(0), rig.word(QUEUE + 4), rig.read(2)), (spd | 2, element, status));
        assert_eq!(rig.bytes(DATA), [1, 2, 3, 0]);
        assert_eq!(rig.controller.interrupt(), spd != 0);
        rig.write(4, 7);
        assert!(!rig.controller.interrupt(), "short packets have an enable of their own");
    }
}

#[test]
fn a_packet_that_was_sent_before_is_dropped() {
    let (mut rig, device) = Rig::scripted();
    device.answer([data(&[1], true), data(&[2], false)]);
    rig.td(0, END, ACTIVE, token(IN, 1, 1, 0, 8));
    rig.put(QUEUE, &[END, TDS]);
    rig.frame();
    assert_eq!((rig.control(0), rig.word(DATA)), (ACTIVE, 0));
    rig.frame();
    assert_eq!((rig.control(0), rig.word(DATA)), (0, 2));
}

#[test]
fn isochronous_descriptors_are_passed_in_any_case() {
    let (mut rig, device) = Rig::scripted();
    device.answer([Response::Silence, Response::Nak, data(&[7; 5], true)]);
    for index in 0..3 {
        let link = if index == 2 { QUEUE | Q } else { TDS + 0x20 * (index + 1) };
        rig.td(index, link, ACTIVE | IOS, token(IN, 1, 3, 0, 64));
    }
    rig.td(3, END, ACTIVE, token(OUT, 1, 0, 0, 0));
    device.answer([Response::Ack]);
    rig.put(QUEUE, &[END, TDS + 0x60]);
    rig.put(FRAME_LIST, &[TDS]);
    rig.frame();
    let expected = [IOS | TIMEOUT | 0x7FF, IOS | NAK | 0x7FF, IOS | 4, 0x7FF];
    assert_eq!([0, 1, 2, 3].map(|index| rig.control(index)), expected);
}

#[test]
fn an_inactive_descriptor_interrupts_and_ends_its_queue() {
    let (mut rig, device) = Rig::scripted();
    rig.td(0, (TDS + 0x20) | VF, IOC, token(OUT, 1, 0, 0, 0));
    rig.td(1, END, ACTIVE, token(OUT, 1, 0, 0, 0));
    rig.put(QUEUE, &[END, TDS]);
    rig.frame();
    assert_eq!((rig.read(2), device.asked.lock().len()), (1, 0));
    assert!(rig.controller.interrupt());
    rig.write(4, 0xB);
    assert!(!rig.controller.interrupt());
}

#[test]
fn loops_of_queues_use_the_frame_and_end() {
    let (mut rig, device) = Rig::scripted();
    // Ten packets of 64 bytes behind a queue that has nothing, in a loop that does not lead back to the start.
    for index in 0..40 {
        rig.td(index, TDS + 0x20 * (index + 1), ACTIVE, token(OUT, 1, 1, 0, 64));
    }
    rig.td(40, END, ACTIVE, token(OUT, 1, 1, 0, 64));
    rig.put(QUEUE, &[(QUEUE + 0x20) | Q, END, 0, 0, 0, 0, 0, 0, (QUEUE + 0x40) | Q, END, 0, 0, 0, 0, 0, 0]);
    rig.put(QUEUE + 0x40, &[(QUEUE + 0x20) | Q, TDS]);
    device.answer(vec![Response::Ack; 100]);
    rig.frame();
    // 12000 bits a frame: 19 packets of 616.
    assert_eq!(device.asked.lock().len(), 19);
    for _ in 0..3 {
        rig.frame();
    }
    assert_eq!((rig.word(QUEUE + 0x44), device.asked.lock().len()), (END, 41));
    // A loop in which all is refused is gone through once a frame.
    rig.td(0, END, ACTIVE, token(IN, 1, 1, 0, 8));
    rig.put(QUEUE + 0x44, &[TDS]);
    device.answers.lock().clear();
    device.asked.lock().clear();
    rig.frame();
    assert!((1..=3).contains(&device.asked.lock().len()));
    // And so is a descriptor that leads to itself.
    rig.td(0, TDS, 0, 0);
    rig.put(FRAME_LIST + 4 * u32::from(rig.read(6)), &[TDS]);
    rig.frame();
    assert_eq!(rig.read(2), 0);
}

#[test]
fn what_is_outside_of_memory_is_a_system_error() {
    let outside = RAM as u32;
    type Spoil = fn(&Rig);
    let cases: [Spoil; 6] = [
        |rig| rig.put(FRAME_LIST, &[RAM as u32 | Q]),
        |rig| rig.put(FRAME_LIST, &[0xFFFF_FFF0]),
        |rig| rig.put(QUEUE, &[END, RAM as u32]),
        |rig| rig.put(TDS + 12, &[RAM as u32 - 4]),
        |rig| rig.put(TDS + 8, &[token(IN, 1, 1, 0, 8), 0xFFFF_FFFC]),
        |rig| rig.put(TDS, &[0xFEC0_0000 | VF]),
    ];
    for (index, spoil) in cases.into_iter().enumerate() {
        let (mut rig, device) = Rig::scripted();
        device.answer([data(&[9; 8], false)]);
        rig.td(0, END, ACTIVE, token(OUT, 1, 1, 0, 8));
        rig.put(QUEUE, &[END, TDS]);
        if index == 5 {
            device.answers.lock().clear();
            device.answer([Response::Ack]);
        }
        spoil(&rig);
        rig.write(4, 0);
        rig.frame();
        assert_eq!(rig.read(2), 8 | HALTED, "case {index}");
        assert_eq!((rig.read(0), rig.controller.interrupt()), (0, true));
        rig.write(2, 8);
        assert!(!rig.controller.interrupt());
    }
    let (mut rig, _) = Rig::scripted();
    rig.write(0x0A, (outside >> 16) as u16);
    rig.frame();
    assert_eq!(rig.read(2), 8 | HALTED);
}

#[test]
fn packets_and_lengths_that_are_none_are_a_process_error() {
    let strange = [token(0, 1, 1, 0, 8), token(0xA5, 1, 1, 0, 8), token(IN, 1, 1, 0, 1281), token(OUT, 1, 1, 0, 0x7FF)];
    for token in strange {
        let (mut rig, _) = Rig::scripted();
        rig.td(0, END, ACTIVE, token);
        rig.put(QUEUE, &[END, TDS]);
        rig.frame();
        assert_eq!((rig.read(2), rig.controller.interrupt()), (0x10 | HALTED, true), "{token:#x}");
    }
    let (mut rig, device) = Rig::scripted();
    rig.td(0, END, ACTIVE, token(OUT, 1, 1, 0, 1280));
    rig.put(QUEUE, &[END, TDS]);
    device.answer([Response::Ack]);
    rig.frame();
    assert_eq!((rig.control(0), device.asked.lock()[0].1.len()), (0x4FF, 1280));
}

#[test]
fn frames_made_up_for_together_miss_nothing() {
    let (mut rig, device) = Rig::scripted();
    // A tree: each frame leads to one of two queues, both to a third. All are asked in vain.
    let (odd, common) = (QUEUE + 0x20, QUEUE + 0x40);
    for (index, queue) in [QUEUE, odd, common].into_iter().enumerate() {
        let link = if queue == common { END } else { common | Q };
        let td = rig.td(index as u32, END, ACTIVE, token(IN, 1, index as u32 + 1, 0, 8));
        rig.put(queue, &[link, td]);
    }
    for frame in (1..1024).step_by(2) {
        rig.put(FRAME_LIST + 4 * frame, &[odd | Q]);
    }
    let asked = |device: &Scripted| device.asked.lock().drain(..).map(|(token, _)| token.endpoint).collect::<Vec<_>>();
    let mut barren = Barren::default();
    for _ in 0..8 {
        rig.controller.run_frame(&rig.memory, &mut barren);
    }
    assert_eq!((asked(&device), rig.read(6)), (vec![1, 3, 2], 8));
    // The last to be asked answers the first time after that: what waits before it is asked again, too.
    rig.put(FRAME_LIST + 4 * 8, &[TDS + 0x60]);
    rig.td(3, END, ACTIVE, token(OUT, 1, 4, 0, 0));
    device.answer([Response::Ack]);
    for _ in 0..4 {
        rig.controller.run_frame(&rig.memory, &mut barren);
    }
    assert_eq!(asked(&device), [4, 2, 3, 1]);
}
