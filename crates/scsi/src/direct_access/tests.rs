use super::commands::SUPPORTED;
use super::*;
use block::{BlockError, RawFile};
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

const BLOCKS: u64 = 8192;
const SIZE: u64 = BLOCKS * 512;

const INVALID_FIELD: (u8, u8, u8) = (5, 0x24, 0);
const OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);

/// A disk that counts flushes.
struct Probe {
    disk: RawFile,
    flushes: AtomicU32,
}

impl Disk for Probe {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn readonly(&self) -> bool {
        self.disk.readonly()
    }
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), BlockError> {
        self.disk.read(offset, data)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.disk.write(offset, data)
    }
    unsafe fn read_vectored(&self, offset: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.disk.read_vectored(offset, vectors) }
    }
    unsafe fn write_vectored(&self, offset: u64, vectors: &mut [libc::iovec]) -> Result<(), BlockError> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.disk.write_vectored(offset, vectors) }
    }
    fn flush(&self) -> Result<(), BlockError> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        self.disk.flush()
    }
    fn discard(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        self.disk.discard(offset, length)
    }
    fn write_zeroes(&self, offset: u64, length: u64, discard: bool) -> Result<(), BlockError> {
        self.disk.write_zeroes(offset, length, discard)
    }
}

struct Bench {
    unit: DirectAccess,
    file: File,
    probe: Arc<Probe>,
}

impl Bench {
    /// A disk whose block `n` is full of the byte `n`, its reset told.
    fn new() -> Self {
        Self::with(false)
    }

    fn with(readonly: bool) -> Self {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..SIZE).map(|at| (at / 512) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        let disk = RawFile::new(file.try_clone().unwrap(), readonly).unwrap();
        let probe = Arc::new(Probe { disk, flushes: AtomicU32::new(0) });
        let mut bench = Bench { unit: DirectAccess::new(probe.clone(), "S-1".into()).unwrap(), file, probe };
        assert_eq!(bench.fails(&[0x00]), (6, 0x29, 0));
        bench
    }

    /// Sends a command, padded with zeros.
    fn send(&mut self, bytes: &[u8]) -> Result<Work, Sense> {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        self.unit.command(&Cdb::new(&cdb).unwrap(), Sense::NONE)
    }

    fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self.send(bytes) {
            Ok(Work::Answer(data)) => data,
            other => panic!("{bytes:x?} gives {other:?}"),
        }
    }

    fn fails(&mut self, bytes: &[u8]) -> (u8, u8, u8) {
        let sense = self.send(bytes).expect_err(&format!("{bytes:x?}"));
        (sense.key(), sense.code().0, sense.code().1)
    }

    /// Sends a command with its parameter list.
    fn give(&mut self, bytes: &[u8], list: &[u8]) -> Result<(), (u8, u8, u8)> {
        assert_eq!(self.send(bytes), Ok(Work::Parameters(list.len())), "{bytes:x?}");
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        let taken = self.unit.take(&Cdb::new(&cdb).unwrap(), list);
        taken.map_err(|sense| (sense.key(), sense.code().0, sense.code().1))
    }

    /// The first byte of a block in the file.
    fn block(&self, lba: u64) -> u8 {
        let mut data = [0; 512];
        self.file.read_exact_at(&mut data, lba * 512).unwrap();
        assert!(data.iter().all(|byte| *byte == data[0]), "block {lba}");
        data[0]
    }

    fn flushes(&self) -> u32 {
        self.probe.flushes.load(Ordering::SeqCst)
    }
}

fn wide(operation: u8, flags: u8, lba: u64, count: u32) -> Vec<u8> {
    [&[operation, flags][..], &lba.to_be_bytes(), &count.to_be_bytes(), &[0, 0]].concat()
}

fn ten(operation: u8, flags: u8, lba: u32, count: u16) -> Vec<u8> {
    [&[operation, flags][..], &lba.to_be_bytes(), &[0], &count.to_be_bytes(), &[0]].concat()
}

fn span(first: u64, count: u32) -> Span {
    Span { first, count, block: 512 }
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(data[at..at + 4].try_into().unwrap())
}

#[test]
fn a_reset_is_told_once_and_not_to_who_asks_what_it_is() {
    let mut bench = Bench::new();
    assert_eq!(bench.send(&[0x00]), Ok(Work::Done));
    bench.unit.reset();
    assert_eq!(bench.answer(&[0x12, 0, 0, 0, 36]).len(), 36);
    assert_eq!(bench.answer(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16]), [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // REQUEST SENSE tells it in the place of a failure.
    assert_eq!(bench.answer(&[0x03, 0, 0, 0, 18])[..14], [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0]);
    assert_eq!(bench.send(&[0x00]), Ok(Work::Done));
    assert_eq!(bench.answer(&[0x03, 0, 0, 0, 18])[2], 0);
    assert_eq!(bench.fails(&[0x03, 1, 0, 0, 18]), INVALID_FIELD);
}

#[test]
fn it_tells_what_it_is_and_by_what_it_is_told_from_others() {
    let mut bench = Bench::new();
    let data = bench.answer(&[0x12, 0, 0, 0, 255]);
    assert_eq!((data.len(), data[0], data[1], data[2], data[3], data[4], data[7]), (36, 0, 0, 6, 0x12, 31, 2));
    assert_eq!(&data[8..32], b"WIRT    Wirt disk       ");
    assert_eq!(bench.answer(&[0x12, 0, 0, 0, 5]), data[..5]);
    assert_eq!(bench.fails(&[0x12, 0, 0x80, 0, 255]), INVALID_FIELD);
    let page = |bench: &mut Bench, code: u8| bench.answer(&[0x12, 1, code, 1, 0]);
    assert_eq!(page(&mut bench, 0x00), [0, 0, 0, 6, 0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2]);
    assert_eq!(page(&mut bench, 0x80), [&[0, 0x80, 0, 3][..], b"S-1"].concat());
    let identification = page(&mut bench, 0x83);
    assert_eq!(identification[..8], [0, 0x83, 0, 31, 2, 1, 0, 27]);
    assert_eq!(&identification[8..], b"WIRT    Wirt disk       S-1");
    let limits = page(&mut bench, 0xB0);
    assert_eq!((limits.len(), limits[3], limits[4]), (64, 60, 1));
    let values = [8, 20, 24, 28, 32].map(|at| u32_at(&limits, at));
    assert_eq!(values, [1 << 16, 1 << 21, 256, 8, 1 << 31]);
    assert_eq!(u64::from_be_bytes(limits[36..44].try_into().unwrap()), 1 << 18);
    assert_eq!(
        (page(&mut bench, 0xB1)[..6].to_vec(), page(&mut bench, 0xB2)),
        (vec![0, 0xB1, 0, 60, 0, 1], vec![0, 0xB2, 0, 4, 0, 0xE0, 2, 0])
    );
    assert_eq!(bench.fails(&[0x12, 1, 0x86, 1, 0]), INVALID_FIELD);
}

#[test]
fn capacity_is_the_last_block_and_its_size() {
    let mut bench = Bench::new();
    assert_eq!(bench.answer(&[0x25]), [(BLOCKS as u32 - 1).to_be_bytes(), 512u32.to_be_bytes()].concat());
    let data = bench.answer(&[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]);
    assert_eq!((data.len(), u32_at(&data, 4), u32_at(&data, 8)), (32, BLOCKS as u32 - 1, 512));
    assert_eq!(data[12..16], [0, 3, 0x80, 0]);
    assert_eq!(bench.fails(&[0x25, 0, 0, 0, 0, 1]), INVALID_FIELD);
    assert_eq!(bench.fails(&[0x9E, 0x12]), INVALID_FIELD);
    // More blocks than the short form can tell.
    let file = tempfile::tempfile().unwrap();
    file.set_len(3 << 40).unwrap();
    let disk = RawFile::new(file, false).unwrap();
    bench.unit = DirectAccess::new(Arc::new(disk), String::new()).unwrap();
    bench.fails(&[0x00]);
    assert_eq!(u32_at(&bench.answer(&[0x25]), 0), u32::MAX);
    let data = bench.answer(&[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]);
    assert_eq!(data[..8], (6u64 * (1 << 30) - 1).to_be_bytes());
}

#[test]
fn reads_and_writes_name_their_blocks_in_four_forms() {
    let mut bench = Bench::new();
    assert_eq!(bench.send(&[0x08, 0, 1, 2, 0]), Ok(Work::Read(span(258, 256))));
    assert_eq!(bench.send(&[0x08, 0xE0, 1, 2, 3]), Ok(Work::Read(span(258, 3))));
    assert_eq!(bench.send(&ten(0x28, 0, 5, 7)), Ok(Work::Read(span(5, 7))));
    assert_eq!(bench.send(&[0xA8, 0, 0, 0, 0, 5, 0, 0, 0, 7]), Ok(Work::Read(span(5, 7))));
    assert_eq!(bench.send(&wide(0x88, 0, 8191, 1)), Ok(Work::Read(span(8191, 1))));
    let write = |durable| Ok(Work::Write { span: span(5, 7), durable });
    assert_eq!(bench.send(&[0x0A, 0, 0, 5, 7]), write(false));
    assert_eq!([bench.send(&ten(0x2A, 0, 5, 7)), bench.send(&ten(0x2A, 8, 5, 7))], [write(false), write(true)]);
    assert_eq!([bench.send(&wide(0x8A, 0, 5, 7)), bench.send(&wide(0x8A, 8, 5, 7))], [write(false), write(true)]);
    // WRITE AND VERIFY.
    assert_eq!([bench.send(&ten(0x2E, 0, 5, 7)), bench.send(&wide(0x8E, 0, 5, 7))], [write(true), write(true)]);
    assert_eq!([bench.send(&ten(0x28, 0, 8192, 0)), bench.send(&ten(0x2A, 0, 0, 0))], [Ok(Work::Done), Ok(Work::Done)]);
    assert_eq!(bench.flushes(), 0);
    assert_eq!((bench.send(&ten(0x28, 8, 5, 7)), bench.flushes()), (Ok(Work::Read(span(5, 7))), 1));
}

#[test]
fn what_is_not_on_the_disk_or_too_much_is_refused() {
    let mut bench = Bench::new();
    for operation in [0x88, 0x8A, 0x8E, 0x8F, 0x91, 0x93] {
        for (lba, count) in [(BLOCKS, 1), (BLOCKS - 1, 2), (u64::MAX, 1), (1, u32::MAX), (u64::MAX, u32::MAX)] {
            assert_eq!(bench.fails(&wide(operation, 0, lba, count)), OUT_OF_RANGE, "{operation:#x} {lba:#x}");
        }
    }
    for operation in [0x28, 0x2A, 0x2E, 0x2F, 0x35, 0x41] {
        assert_eq!(bench.fails(&ten(operation, 0, u32::MAX, 1)), OUT_OF_RANGE, "{operation:#x}");
    }
    assert_eq!(bench.fails(&[0x08, 0x1F, 0xFF, 0xFF, 0]), OUT_OF_RANGE);
    // Protection information, NACA.
    assert_eq!(bench.fails(&ten(0x28, 0x20, 0, 1)), INVALID_FIELD);
    assert_eq!(bench.fails(&[0x00, 0, 0, 0, 0, 4]), INVALID_FIELD);
    // Variable length, reservations.
    assert_eq!(bench.fails(&[0x5E]), (5, 0x20, 0));
    assert_eq!(bench.fails(&[0x5F]), (5, 0x20, 0));
    let large = tempfile::tempfile().unwrap();
    large.set_len(1 << 40).unwrap();
    bench.unit = DirectAccess::new(Arc::new(RawFile::new(large, false).unwrap()), String::new()).unwrap();
    bench.fails(&[0x00]);
    assert_eq!(bench.send(&wide(0x88, 0, 0, 1 << 16)), Ok(Work::Read(span(0, 1 << 16))));
    for operation in [0x88, 0x8A, 0x8F] {
        assert_eq!(bench.fails(&wide(operation, 0, 0, (1 << 16) + 1)), INVALID_FIELD);
    }
    assert_eq!(bench.fails(&wide(0x93, 1, 0, (1 << 18) + 1)), INVALID_FIELD);
    assert_eq!(bench.fails(&wide(0x93, 1, 0, 0)), INVALID_FIELD);
}

#[test]
fn synchronize_cache_and_the_write_cache_switch_mean_durable() {
    let mut bench = Bench::new();
    assert_eq!([bench.send(&ten(0x35, 0, 0, 0)), bench.send(&wide(0x91, 2, 0, 0))], [Ok(Work::Done), Ok(Work::Done)]);
    assert_eq!(bench.flushes(), 2);
    // MODE SENSE says that the cache is on, and that it may be switched.
    let six = |bench: &mut Bench, code: u8| bench.answer(&[0x1A, 8, code, 0, 255]);
    let page = six(&mut bench, 8);
    assert_eq!((page.len(), page[0], page[2], page[3], page[4], page[5], page[6]), (24, 23, 0x10, 0, 8, 18, 4));
    assert_eq!(six(&mut bench, 0x48)[6..], [&[4][..], &[0; 17]].concat());
    let ten_bytes = bench.answer(&[0x5A, 0, 8, 0, 0, 0, 0, 0, 255]);
    assert_eq!((usize::from(ten_bytes[1]), ten_bytes[7]), (ten_bytes.len() - 2, 8));
    assert_eq!(ten_bytes[8..16], [0, 0, 0x20, 0, 0, 0, 2, 0]);
    // MODE SELECT, without and with the block descriptor.
    let mut list = [&[0; 4][..], &page[4..]].concat();
    list[6] = 0;
    assert_eq!(bench.give(&[0x15, 0x10, 0, 0, 24], &list), Ok(()));
    assert_eq!((bench.flushes(), six(&mut bench, 8)[6], six(&mut bench, 0x88)[6]), (3, 0, 4));
    assert_eq!(bench.send(&ten(0x2A, 0, 5, 7)), Ok(Work::Write { span: span(5, 7), durable: true }));
    assert_eq!(bench.give(&wide(0x93, 0, 9, 1), &[7; 512]), Ok(()));
    assert_eq!((bench.flushes(), bench.block(9)), (4, 7));
    let mut list = ten_bytes.clone();
    list[..2].fill(0);
    assert_eq!(bench.give(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8], &list), Ok(()));
    assert_eq!((bench.flushes(), six(&mut bench, 8)[6]), (4, 4));
    // A reset brings the default.
    bench.unit.write_cache = false;
    bench.unit.reset();
    assert_eq!(bench.fails(&[0x00]), (6, 0x29, 0));
    assert_eq!(six(&mut bench, 8)[6], 4);
}

#[test]
fn mode_parameters_that_make_no_sense_change_nothing() {
    let mut bench = Bench::new();
    let caching = |flags: u8, other: u8| [&[8, 18, flags][..], &[0; 16], &[other]].concat();
    let wrong = Err((5, 0x26, 0));
    let short = Err((5, 0x1A, 0));
    let cases = [
        ([&[0; 4][..], &caching(0, 1)].concat(), wrong),
        ([&[0; 4][..], &caching(1, 0)].concat(), wrong),
        ([&[0; 4][..], &[8, 17], &[0; 17]].concat(), wrong),
        ([&[0; 4][..], &[9, 0]].concat(), wrong),
        ([&[0; 4][..], &[0x48, 18], &[0; 18]].concat(), wrong),
        ([&[0; 4][..], &caching(0, 0)[..19]].concat(), short),
        ([&[0; 4][..], &caching(0, 0), &[8]].concat(), short),
        ([0, 0, 0, 8].to_vec(), short),
        ([&[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 2, 0][..], &caching(0, 0)].concat(), wrong),
        ([&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 4, 0][..], &caching(0, 0)].concat(), wrong),
        (vec![0; 3], short),
    ];
    for (list, expected) in cases {
        assert_eq!(bench.give(&[0x15, 0x10, 0, 0, list.len() as u8], &list), expected, "{list:x?}");
        assert!(bench.unit.write_cache);
    }
    // To be saved; the vendor's format; nothing at all.
    assert_eq!([bench.fails(&[0x15, 0x11, 0, 0, 24]), bench.fails(&[0x15, 0, 0, 0, 24])], [INVALID_FIELD; 2]);
    assert_eq!(bench.send(&[0x15, 0x10]), Ok(Work::Done));
    // Saved values, an unknown page, a subpage.
    assert_eq!(bench.fails(&[0x1A, 0, 0xC8, 0, 255]), (5, 0x39, 0));
    assert_eq!([bench.fails(&[0x1A, 0, 2, 0, 255]), bench.fails(&[0x1A, 0, 8, 1, 255])], [INVALID_FIELD; 2]);
    let all = bench.answer(&[0x1A, 0, 0x3F, 0xFF, 255]);
    assert_eq!((all.len(), all[12], all[24], all[44]), (4 + 8 + 12 + 20 + 12, 1, 8, 10));
}

#[test]
fn blocks_are_given_back_or_nothing_is() {
    let mut bench = Bench::new();
    let list = |ranges: &[(u64, u32)]| {
        let size = ranges.len() as u16 * 16;
        let ranges =
            ranges.iter().map(|(first, count)| [&first.to_be_bytes()[..], &count.to_be_bytes(), &[0; 4]].concat());
        let ranges: Vec<u8> = ranges.flatten().collect();
        [&(size + 6).to_be_bytes()[..], &size.to_be_bytes(), &[0; 4], &ranges].concat()
    };
    let unmap = |size: usize| [0x42, 0, 0, 0, 0, 0, 0, (size >> 8) as u8, size as u8];
    let give = |bench: &mut Bench, list: &[u8]| bench.give(&unmap(list.len()), list);
    assert_eq!(give(&mut bench, &list(&[(16, 8), (5000, 0), (8184, 8)])), Ok(()));
    assert_eq!([15, 16, 23, 24, 8183, 8184, 8191].map(|lba| bench.block(lba)), [15, 0, 0, 24, 0xF7, 0, 0]);
    assert_eq!(give(&mut bench, &list(&[(32, 8), (8185, 8)])), Err(OUT_OF_RANGE));
    assert_eq!(give(&mut bench, &list(&[(32, 8), (u64::MAX, 1)])), Err(OUT_OF_RANGE));
    assert_eq!(bench.block(32), 32);
    assert_eq!(give(&mut bench, &list(&[(32, 1); 257])), Err((5, 0x26, 0)));
    assert_eq!(give(&mut bench, &list(&[(0, u32::MAX); 2])), Err((5, 0x26, 0)));
    // The list ends before its ranges do; a header alone; less.
    assert_eq!(give(&mut bench, &list(&[(40, 8), (48, 8)])[..39]), Ok(()));
    assert_eq!([40, 47, 48].map(|lba| bench.block(lba)), [0, 0, 48]);
    assert_eq!(give(&mut bench, &list(&[])), Ok(()));
    assert_eq!(give(&mut bench, &[0; 7]), Err((5, 0x1A, 0)));
    assert_eq!(bench.send(&unmap(0)), Ok(Work::Done));
    assert_eq!(bench.fails(&[0x42, 1]), INVALID_FIELD);
}

#[test]
fn a_block_is_written_over_and_over() {
    let mut bench = Bench::new();
    let mut block = [0xAB; 512];
    assert_eq!(bench.give(&wide(0x93, 0, 100, 300), &block), Ok(()));
    assert_eq!([99, 100, 399, 400].map(|lba| bench.block(lba)), [99, 0xAB, 0xAB, 0x90]);
    // Zeros, that may or may not be given back, with a block of them or without.
    assert_eq!(bench.give(&ten(0x41, 8, 150, 8), &[0; 512]), Ok(()));
    assert_eq!(bench.give(&ten(0x41, 0, 160, 8), &[0; 512]), Ok(()));
    assert_eq!(bench.send(&wide(0x93, 9, 170, 8)), Ok(Work::Done));
    assert_eq!([149, 150, 157, 158, 160, 167, 168].map(|lba| bench.block(lba)), [0xAB, 0, 0, 0xAB, 0, 0, 0xAB]);
    assert_eq!([169, 170, 177, 178].map(|lba| bench.block(lba)), [0xAB, 0, 0, 0xAB]);
    // What is not zero is not given back.
    block[511] = 1;
    assert_eq!(bench.give(&wide(0x93, 8, 200, 1), &block), Ok(()));
    let mut back = [0; 512];
    bench.file.read_exact_at(&mut back, 200 * 512).unwrap();
    assert_eq!(back, block);
    for flags in [1, 2, 4, 0x10, 0x20] {
        assert_eq!(bench.fails(&ten(0x41, flags, 0, 1)), INVALID_FIELD, "{flags:#x}");
    }
}

#[test]
fn verify_reads_or_compares() {
    let mut bench = Bench::new();
    assert_eq!(bench.send(&ten(0x2F, 0, 0, 8192)), Ok(Work::Done));
    assert_eq!(bench.send(&wide(0x8F, 2, 5, 7)), Ok(Work::Compare(span(5, 7))));
    assert_eq!([bench.fails(&ten(0x2F, 4, 5, 7)), bench.fails(&ten(0x2F, 6, 5, 7))], [INVALID_FIELD; 2]);
    bench.file.set_len(4096 * 512).unwrap();
    assert_eq!(bench.send(&ten(0x2F, 0, 0, 4096)), Ok(Work::Done));
    assert_eq!(bench.fails(&ten(0x2F, 0, 0, 4097)), (3, 0x11, 0));
}

#[test]
fn a_stopped_disk_waits_for_its_start() {
    let mut bench = Bench::new();
    assert_eq!((bench.send(&[0x1B]), bench.flushes()), (Ok(Work::Done), 1));
    for command in [&[0x00][..], &ten(0x28, 0, 0, 1), &ten(0x2A, 0, 0, 1), &ten(0x35, 0, 0, 0), &[0x25]] {
        assert_eq!(bench.fails(command), (2, 4, 2));
    }
    assert_eq!(bench.answer(&[0x12, 0, 0, 0, 36]).len(), 36);
    assert_eq!([bench.send(&[0x1B, 0, 0, 0, 1]), bench.send(&[0x00])], [Ok(Work::Done), Ok(Work::Done)]);
    assert_eq!([bench.send(&[0x1B, 0, 0, 0, 0x30]), bench.send(&[0x00])], [Ok(Work::Done), Ok(Work::Done)]);
    assert_eq!([bench.fails(&[0x1B, 0, 0, 0, 2]), bench.fails(&[0x1B, 0, 0, 0, 0xF0])], [INVALID_FIELD; 2]);
}

#[test]
fn a_read_only_disk_says_so_and_is_not_written() {
    let mut bench = Bench::with(true);
    assert_eq!(bench.answer(&[0x1A, 0, 0x3F, 0, 255])[2], 0x90);
    for command in
        [ten(0x2A, 0, 0, 1), vec![0x0A, 0, 0, 0, 1], wide(0x93, 9, 0, 1), ten(0x41, 0, 0, 1), ten(0x42, 0, 0, 24)]
    {
        assert_eq!(bench.fails(&command), (7, 0x27, 0), "{command:x?}");
    }
    assert_eq!(bench.send(&ten(0x28, 8, 0, 1)), Ok(Work::Read(span(0, 1))));
    assert_eq!(bench.answer(&[0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32])[14], 0);
}

#[test]
fn a_disk_that_has_grown_is_another_unit_attention() {
    let mut bench = Bench::new();
    bench.file.set_len(2 * SIZE).unwrap();
    bench.unit.resize(Arc::new(RawFile::new(bench.file.try_clone().unwrap(), false).unwrap())).unwrap();
    assert_eq!(bench.fails(&ten(0x28, 0, BLOCKS as u32, 1)), (6, 0x2A, 9));
    assert_eq!(bench.send(&ten(0x28, 0, BLOCKS as u32, 1)), Ok(Work::Read(span(BLOCKS, 1))));
    bench.file.set_len(100).unwrap();
    let none = Arc::new(RawFile::new(bench.file.try_clone().unwrap(), false).unwrap());
    assert!(bench.unit.resize(none.clone()).is_err() && DirectAccess::new(none, String::new()).is_err());
    assert_eq!(bench.unit.blocks, 2 * BLOCKS);
}

#[test]
fn the_commands_reported_are_those_there_are() {
    let mut bench = Bench::new();
    let mut known = Vec::new();
    let all = bench.answer(&[0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 0x10, 0]);
    assert_eq!(u32_at(&all, 0) as usize, all.len() - 4);
    for entry in all[4..].chunks_exact(8) {
        known.push(entry[0]);
        let action = if entry[5] & 1 != 0 { entry[3] } else { 0 };
        let one = bench.answer(&[0xA3, 0x0C, 3, entry[0], 0, action, 0, 0, 1, 0]);
        assert_eq!((one[1], one[3], one[4]), (3, entry[7], entry[0]));
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (entry[0], action);
        assert_eq!((one.len() - 4, Cdb::new(&cdb[..entry[7].into()]).is_some()), (entry[7].into(), true));
        assert_ne!(bench.send(&cdb), Err(Sense::INVALID_OPERATION), "{:#x}", entry[0]);
        bench.unit.stopped = false;
    }
    assert_eq!(known.len(), SUPPORTED.len());
    for code in (0..0x60).chain(0x80..0xC0).filter(|code| !known.contains(code)) {
        assert_eq!(bench.fails(&[code]), (5, 0x20, 0), "{code:#x}");
        assert_eq!(bench.answer(&[0xA3, 0x0C, 1, code, 0, 0, 0, 0, 1, 0]), [0, 1, 0, 0]);
    }
    // With time-outs; of a code that has service actions, and of one that has none.
    assert_eq!(bench.answer(&[0xA3, 0x0C, 0x80, 0, 0, 0, 0, 0, 0x10, 0]).len(), 4 + SUPPORTED.len() * 20);
    assert_eq!(bench.answer(&[0xA3, 0x0C, 0x82, 0x9E, 0, 0x10, 0, 0, 1, 0])[1], 0x83);
    for (options, code) in [(1, 0x9E), (2, 0x28), (4, 0x28)] {
        assert_eq!(bench.fails(&[0xA3, 0x0C, options, code, 0, 0, 0, 0, 1, 0]), INVALID_FIELD);
    }
    assert_eq!(bench.fails(&[0xA3, 0x0D]), INVALID_FIELD);
}

#[test]
fn a_state_is_taken_by_a_disk_of_the_same_size() {
    let mut bench = Bench::new();
    (bench.unit.write_cache, bench.unit.stopped) = (false, true);
    let mut writer = StateWriter::new(1);
    bench.unit.save(&mut writer);
    let state = writer.finish();
    let mut other = Bench::new();
    let mut load = |state: &[u8]| other.unit.load(&mut StateReader::new("disk", state, 1).unwrap());
    load(&state).unwrap();
    for length in 4..state.len() {
        assert!(load(&state[..length]).is_err());
    }
    let mut damaged = state.clone();
    damaged[4] ^= 1;
    assert!(load(&damaged).unwrap_err().contains("another size"));
    assert_eq!((other.unit.write_cache, other.unit.stopped), (false, true));
}

proptest! {
    /// Whatever the command and its parameters are: work stays on the disk and within its bounds, and nothing panics.
    #[test]
    fn random_commands_stay_on_the_disk(
        commands in prop::collection::vec((0..SUPPORTED.len() + 4, prop::collection::vec(any::<u8>(), 16), 0u8..4), 1..40),
        list in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut bench = Bench::new();
        for (index, mut bytes, small) in commands {
            if let Some((code, action, _)) = SUPPORTED.get(index) {
                bytes[0] = *code;
                bytes[1] = action.unwrap_or(bytes[1] & 0x1B);
                bytes[15] = 0;
            }
            // Small numbers are likelier to be on the disk.
            if small > 0 {
                bytes[2..8].fill(0);
                bytes[10..13].fill(0);
            }
            let Some(cdb) = Cdb::new(&bytes) else { continue };
            match bench.unit.command(&cdb, Sense::NONE) {
                Ok(Work::Read(span) | Work::Compare(span) | Work::Write { span, .. }) => {
                    prop_assert!(span.offset() + span.size() <= SIZE && (1..=1 << 16).contains(&span.count));
                }
                Ok(Work::Parameters(size)) => {
                    prop_assert!((1..=crate::MAX_PARAMETERS).contains(&size));
                    let _ = bench.unit.take(&cdb, &list);
                }
                Ok(Work::Answer(data)) => prop_assert!(data.len() < 1 << 10),
                Ok(Work::Done) | Err(_) => {}
                Ok(other) => prop_assert!(false, "{:?}", other),
            }
            let _ = bench.unit.take(&cdb, &list);
        }
        prop_assert_eq!(bench.file.metadata().unwrap().len(), SIZE);
    }
}
