use super::*;

#[test]
fn an_event_index_is_passed_once() {
    assert!(passed(5, 5, 6));
    assert!(!passed(5, 6, 7));
    assert!(!passed(7, 5, 7));
    assert!(passed(0xFFFF, 0xFFFE, 1));
    assert!(!passed(3, 4, 4));
}

#[test]
fn rings_must_be_aligned_and_in_writable_ram() {
    let region = |address, offset, readonly| hv::Region { address, size: 0x1_0000, offset, readonly };
    let memory = GuestMemory::new(&[region(0, 0, false), region(0x10_0000, 0x1_0000, true)]).unwrap();
    let good = QueueLayout { size: 256, descriptors: 0, driver: 0x2000, device: 0x3000 };
    assert!(Rings::new(&good, &memory).is_ok());
    let wrong = [
        QueueLayout { size: 0, ..good },
        QueueLayout { size: 3, ..good },
        QueueLayout { size: 2048, ..good },
        QueueLayout { descriptors: 8, ..good },
        QueueLayout { descriptors: 0xF010, ..good },
        QueueLayout { driver: 0x2001, ..good },
        QueueLayout { driver: 0xFFFE, ..good },
        QueueLayout { device: 0x3002, ..good },
        QueueLayout { device: 0x10_0000, ..good },
        QueueLayout { device: u64::MAX - 3, ..good },
        QueueLayout { descriptors: 0xC000_0000, ..good },
    ];
    for layout in wrong {
        assert!(Rings::new(&layout, &memory).is_err(), "{layout:x?}");
    }
}
