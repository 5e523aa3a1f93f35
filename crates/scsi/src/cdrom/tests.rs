//! What differs from ATAPI, whose tests are `crates/ata/tests/cdrom.rs`.

use super::*;
use ::block::RawFile;
use proptest::prelude::*;

const BLOCKS: u64 = 400;

fn disc(blocks: u64) -> Arc<dyn Disk> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(blocks * CD_BLOCK).unwrap();
    Arc::new(RawFile::new(file, true).unwrap())
}

fn drive(interface: Interface) -> (Cdrom, Arc<Medium>) {
    let medium = Medium::new(Some(disc(BLOCKS)));
    (Cdrom::new(medium.clone(), "CD-1".into(), interface), medium)
}

fn send(drive: &mut Cdrom, bytes: &[u8]) -> Result<Work, Sense> {
    let mut cdb = [0; 12];
    cdb[..bytes.len()].copy_from_slice(bytes);
    drive.command(&Cdb::new(&cdb).unwrap(), Sense::NONE)
}

fn answer(drive: &mut Cdrom, bytes: &[u8]) -> Vec<u8> {
    match send(drive, bytes) {
        Ok(Work::Answer(data)) => data,
        other => panic!("{bytes:x?} gives {other:?}"),
    }
}

#[test]
fn the_interface_shows_in_what_a_drive_tells() {
    let (mut scsi, _) = drive(Interface::Scsi);
    let (mut atapi, _) = drive(Interface::Atapi);
    let inquiry = [0x12, 0, 0, 0, 96];
    assert_eq!(answer(&mut scsi, &inquiry)[..5], [5, 0x80, 6, 0x12, 31]);
    assert_eq!(answer(&mut atapi, &inquiry)[..5], [5, 0x80, 0, 0x21, 31]);
    let core = [0x46, 2, 0, 1, 0, 0, 0, 0, 64];
    assert_eq!((answer(&mut scsi, &core)[15], answer(&mut atapi, &core)[15]), (1, 2));
    assert_eq!(answer(&mut scsi, &[0x12, 1, 0x80, 0, 96]), [&[5, 0x80, 0, 4][..], b"CD-1"].concat());
    assert_eq!(answer(&mut scsi, &[0x12, 1, 0, 0, 96]), [5, 0, 0, 3, 0, 0x80, 0x83]);
    assert_eq!(answer(&mut scsi, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0]).len(), 16);
}

#[test]
fn a_reset_is_told_over_scsi_alone() {
    let (mut atapi, _) = drive(Interface::Atapi);
    assert_eq!(send(&mut atapi, &[0x00]), Ok(Work::Done));
    let (mut scsi, medium) = drive(Interface::Scsi);
    assert_eq!([send(&mut scsi, &[0x00]), send(&mut scsi, &[0x00])], [Err(Sense::RESET), Ok(Work::Done)]);
    medium.set_locked(true);
    scsi.reset();
    // Who asks for sense data is told, and it is told with that.
    assert_eq!((answer(&mut scsi, &[0x03, 0, 0, 0, 18])[12], medium.locked()), (0x29, false));
    assert_eq!(send(&mut scsi, &[0x00]), Ok(Work::Done));
    medium.exchange(Some(disc(7)));
    let told = [(); 3].map(|()| send(&mut scsi, &[0x00]));
    assert_eq!(told, [Err(Sense::TRAY_OPEN), Err(Sense::MEDIUM_CHANGED), Ok(Work::Done)]);
    // What happened before the power came on is no news.
    medium.exchange(Some(disc(8)));
    scsi.power_on();
    assert_eq!([send(&mut scsi, &[0x00]), send(&mut scsi, &[0x00])], [Err(Sense::RESET), Ok(Work::Done)]);
}

#[test]
fn a_read_is_bounded_where_its_data_come_at_once() {
    let read = [0xA8, 0, 0, 0, 0, 0, 0, 0, 0x40, 1];
    for (interface, bounded) in [(Interface::Scsi, true), (Interface::Atapi, false)] {
        let mut drive = Cdrom::new(Medium::new(Some(disc(1 << 20))), String::new(), interface);
        let _ = send(&mut drive, &[0x00]);
        let span = Span { first: 0, count: 0x4001, block: 2048 };
        let expected = if bounded { Err(Sense::INVALID_FIELD) } else { Ok(Work::Read(span)) };
        assert_eq!(send(&mut drive, &read), expected);
        assert_eq!(
            send(&mut drive, &[0x28, 0, 0, 0, 0, 9, 0, 0, 2]),
            Ok(Work::Read(Span { first: 9, count: 2, ..span }))
        );
        let parts = CdParts::asked(0xF8).unwrap();
        let read_cd = [0xBE, 0, 0, 0, 0, 9, 0, 0, 2, 0xF8];
        assert_eq!(send(&mut drive, &read_cd), Ok(Work::ReadParts(parts, Span { first: 9, count: 2, ..span })));
    }
}

proptest! {
    /// Whatever the command is, and whatever happens to the disc: work stays on it, and nothing panics.
    #[test]
    fn random_commands_stay_on_the_disc(
        commands in prop::collection::vec((prop::collection::vec(any::<u8>(), 12), 0u8..8, 0u64..2000), 1..60),
    ) {
        const CODES: [u8; 26] = [
            0x00, 0x03, 0x12, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x2B, 0x42, 0x43, 0x46, 0x4A, 0x51, 0x52, 0x5A, 0xA0, 0xA8,
            0xAD, 0xB9, 0xBB, 0xBD, 0xBE, 0x28, 0xA8, 0xBE,
        ];
        for interface in [Interface::Scsi, Interface::Atapi] {
            let (mut drive, medium) = drive(interface);
            let mut size = BLOCKS;
            for (bytes, kind, blocks) in &commands {
                let mut bytes = bytes.clone();
                match kind {
                    0 => {
                        size = *blocks;
                        medium.exchange((size > 0).then(|| disc(size)));
                    }
                    1 => {}
                    _ => {
                        bytes[0] = CODES[usize::from(bytes[0]) % CODES.len()];
                        bytes[2..4].fill(0);
                        bytes[6..8].fill(0);
                    }
                }
                let Some(cdb) = Cdb::new(&bytes) else { continue };
                match drive.command(&cdb, Sense::NONE) {
                    Ok(Work::Read(span) | Work::ReadParts(_, span)) => {
                        prop_assert!(span.count > 0 && span.first + u64::from(span.count) <= size);
                    }
                    Ok(Work::Answer(data)) => prop_assert!(data.len() <= 2052),
                    Ok(Work::Done) | Err(_) => {}
                    Ok(other) => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
