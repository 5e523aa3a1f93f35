use crate::link::LinkListener;
use crate::{Backend, MAX_FRAME};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The largest snapshot length that programs take.
pub const MAX_SNAPLEN: u32 = 262_144;

/// `magic_number` of files whose time stamps count nanoseconds.
const MAGIC_NANOSECONDS: u32 = 0xA1B2_3C4D;
const VERSION: [u16; 2] = [2, 4];
/// `network`: Ethernet.
const LINKTYPE_ETHERNET: u32 = 1;

/// Writes the frames of both directions to a file as they pass. The format is pcap, with nanoseconds: the Internet-Draft
/// draft-ietf-opsawg-pcap, sections 4 and 5.
///
/// What has passed is in the file before the device's I/O thread sleeps. A write that fails ends the capture, and never
/// the network.
pub struct Capture {
    backend: Arc<dyn Backend>,
    snaplen: usize,
    file: Mutex<Option<BufWriter<File>>>,
}

impl Capture {
    /// Captures what goes through `backend`, of each frame at most `snaplen` bytes: 1 to [`MAX_SNAPLEN`].
    ///
    /// # Errors
    /// When `snaplen` is none, or the beginning of the file cannot be written.
    pub fn new(backend: Arc<dyn Backend>, file: File, snaplen: u32) -> io::Result<Self> {
        if !(1..=MAX_SNAPLEN).contains(&snaplen) {
            return Err(io::Error::other(format!(
                "a capture takes 1 to {MAX_SNAPLEN} bytes of a frame, not {snaplen}"
            )));
        }
        let mut file = BufWriter::with_capacity(1 << 16, file);
        let mut header = MAGIC_NANOSECONDS.to_le_bytes().to_vec();
        header.extend(VERSION.into_iter().flat_map(u16::to_le_bytes));
        // thiszone and sigfigs, which are always 0.
        header.extend([0; 8]);
        header.extend(snaplen.to_le_bytes());
        header.extend(LINKTYPE_ETHERNET.to_le_bytes());
        file.write_all(&header)?;
        file.flush()?;
        Ok(Capture { backend, snaplen: snaplen as usize, file: Mutex::new(Some(file)) })
    }

    /// Notes a frame of `length` bytes, of which there are `frame`.
    fn record(&self, frame: &[u8], length: usize) {
        let mut file = self.file.lock();
        let Some(writer) = &mut *file else { return };
        let frame = &frame[..frame.len().min(length).min(self.snaplen)];
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let fields = [time.as_secs() as u32, time.subsec_nanos(), frame.len() as u32, length.min(MAX_FRAME) as u32];
        let mut header = [0; 16];
        for (bytes, field) in header.chunks_exact_mut(4).zip(fields) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
        if writer.write_all(&header).and_then(|()| writer.write_all(frame)).is_err() {
            abandon(&mut file);
        }
    }

    fn flush(&self) {
        let mut file = self.file.lock();
        if file.as_mut().is_some_and(|writer| writer.flush().is_err()) {
            abandon(&mut file);
        }
    }
}

/// Closes the file without trying again to write what could not be written.
fn abandon(file: &mut Option<BufWriter<File>>) {
    if let Some(writer) = file.take() {
        let _ = writer.into_parts();
    }
}

impl Backend for Capture {
    fn send(&self, frame: &[u8]) {
        self.record(frame, frame.len());
        self.backend.send(frame);
    }

    fn receive(&self, frame: &mut [u8]) -> Option<usize> {
        let length = self.backend.receive(frame)?;
        self.record(frame, length);
        Some(length)
    }

    fn event_fd(&self, receiving: bool) -> Option<RawFd> {
        self.flush();
        self.backend.event_fd(receiving)
    }

    fn is_up(&self) -> bool {
        self.backend.is_up()
    }

    fn watch(&self, listener: LinkListener) {
        self.backend.watch(listener);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    /// Gives one frame of 100 bytes.
    struct Once(Mutex<bool>);

    impl Backend for Once {
        fn send(&self, _frame: &[u8]) {}
        fn receive(&self, frame: &mut [u8]) -> Option<usize> {
            let length = frame.len().min(100);
            frame[..length].fill(0xBB);
            std::mem::take(&mut *self.0.lock()).then_some(100)
        }
    }

    fn word(file: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(file[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn both_directions_are_in_the_file_cut_to_the_snapshot_length() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let once = Arc::new(Once(Mutex::new(true)));
        let capture = Capture::new(once, path.reopen().unwrap(), 60).unwrap();
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
        capture.send(&[0xAA; 20]);
        let mut frame = [0; 200];
        assert_eq!(capture.receive(&mut frame), Some(100));
        assert_eq!(capture.receive(&mut frame), None);
        capture.event_fd(true);
        let file = std::fs::read(path.path()).unwrap();
        assert_eq!(file[..8], [0x4D, 0x3C, 0xB2, 0xA1, 2, 0, 4, 0]);
        assert_eq!([8, 12, 16, 20].map(|at| word(&file, at)), [0, 0, 60, 1]);
        assert!((before..=before + 60).contains(&word(&file, 24)) && word(&file, 28) < 1_000_000_000);
        assert_eq!((word(&file, 32), word(&file, 36), &file[40..60]), (20, 20, &[0xAA; 20][..]));
        assert_eq!((word(&file, 68), word(&file, 72), &file[76..]), (60, 100, &[0xBB; 60][..]));
    }

    #[test]
    fn a_disk_that_is_full_ends_the_capture_and_not_the_network() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(Capture::new(Arc::new(Once(Mutex::new(true))), full, 64).is_err());
        let readonly = File::open("/dev/null").unwrap();
        assert!(Capture::new(Arc::new(Once(Mutex::new(true))), readonly, 64).is_err());
        let capture = Capture {
            backend: Arc::new(Once(Mutex::new(true))),
            snaplen: 64,
            file: Mutex::new(Some(BufWriter::new(OpenOptions::new().write(true).open("/dev/full").unwrap()))),
        };
        capture.send(&[1; 60]);
        capture.event_fd(true);
        assert!(capture.file.lock().is_none());
        capture.send(&[1; 60]);
        assert_eq!(capture.receive(&mut [0; 64]), Some(100));
        for snaplen in [0, MAX_SNAPLEN + 1] {
            let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
            assert!(Capture::new(Arc::new(Once(Mutex::new(true))), null, snaplen).is_err());
        }
    }
}
