use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::{Arc, Weak};
use vga::Vga;

/// The card of the moment: each reset makes another. Nobody here keeps a machine's memory alive.
type Card = Arc<Mutex<Weak<Vga>>>;

/// The far end of a VGA card: what a monitor would be.
#[pyclass(frozen, module = "wirt._core")]
pub struct Screen {
    card: Card,
}

impl Screen {
    /// Shows this card from now on.
    pub fn connect(&self, card: &Arc<Vga>) {
        *self.card.lock() = Arc::downgrade(card);
    }
}

#[pymethods]
impl Screen {
    #[new]
    fn new() -> Self {
        Screen { card: Card::default() }
    }

    fn open_frame(&self) -> Frame {
        Frame { card: self.card.clone(), picture: Mutex::default() }
    }

    fn text(&self, py: Python<'_>) -> Option<String> {
        let card = self.card.lock().upgrade()?;
        py.detach(|| card.text())
    }
}

/// One viewer's picture of a screen.
#[pyclass(frozen, module = "wirt._core")]
pub struct Frame {
    card: Card,
    picture: Mutex<Picture>,
}

#[derive(Default)]
struct Picture {
    /// The card it is of.
    of: Weak<Vga>,
    frame: vga::Frame,
}

impl Frame {
    /// Does something with the picture: its pixels as 0x00RRGGBB line by line, how many a line has, and lines.
    pub fn with_pixels<R>(&self, what: impl FnOnce(&[u32], usize, usize) -> R) -> R {
        let picture = self.picture.lock();
        let frame = &picture.frame;
        what(&frame.pixels, frame.width as usize, frame.height as usize)
    }
}

#[pymethods]
impl Frame {
    #[getter]
    fn width(&self, py: Python<'_>) -> u32 {
        py.detach(|| self.picture.lock().frame.width)
    }

    #[getter]
    fn height(&self, py: Python<'_>) -> u32 {
        py.detach(|| self.picture.lock().frame.height)
    }

    #[getter]
    fn pixels<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes: Vec<u8> = py
            .detach(|| self.with_pixels(|pixels, _, _| pixels.iter().flat_map(|pixel| pixel.to_le_bytes()).collect()));
        PyBytes::new(py, &bytes)
    }

    fn update(&self, py: Python<'_>) -> Vec<(u32, u32, u32, u32)> {
        py.detach(|| {
            let Some(card) = self.card.lock().upgrade() else { return Vec::new() };
            let mut picture = self.picture.lock();
            if !Weak::ptr_eq(&picture.of, &Arc::downgrade(&card)) {
                *picture = Picture { of: Arc::downgrade(&card), frame: vga::Frame::new() };
            }
            let changes = card.update(&mut picture.frame);
            changes.into_iter().map(|area| (area.x, area.y, area.width, area.height)).collect()
        })
    }
}
