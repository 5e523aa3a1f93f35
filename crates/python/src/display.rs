use crate::screen::Frame;
use display::{CHALLENGE_SIZE, Image};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

/// A VNC client's pixel format, and the encodings in it.
#[pyclass(frozen, module = "wirt._core")]
pub struct PixelFormat {
    format: display::PixelFormat,
}

/// Left, top, width, height.
type Area = (usize, usize, usize, usize);

#[pymethods]
impl PixelFormat {
    #[new]
    fn new(data: [u8; 16]) -> PyResult<Self> {
        let format = display::PixelFormat::parse(&data).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(PixelFormat { format })
    }

    #[getter]
    fn true_colour(&self) -> bool {
        self.format.true_colour()
    }

    fn raw<'py>(&self, frame: &Bound<'py, PyAny>, area: Area) -> PyResult<Bound<'py, PyBytes>> {
        let colours = Colours::copy(frame, area)?;
        let py = frame.py();
        Ok(PyBytes::new(py, &py.detach(|| display::raw(colours.image(), &self.format))))
    }

    fn zrle<'py>(&self, frame: &Bound<'py, PyAny>, area: Area) -> PyResult<Bound<'py, PyBytes>> {
        let colours = Colours::copy(frame, area)?;
        let py = frame.py();
        Ok(PyBytes::new(py, &py.detach(|| display::zrle(colours.image(), &self.format))))
    }

    fn tight<'py>(&self, frame: &Bound<'py, PyAny>, area: Area) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let colours = Colours::copy(frame, area)?;
        let py = frame.py();
        let parts = py.detach(|| display::tight(colours.image(), &self.format));
        let row = |part: display::Part| {
            let place = (area.0 + part.x, area.1 + part.y, part.width, part.height);
            (place, PyBytes::new(py, &part.head), part.stream, PyBytes::new(py, &part.body)).into_pyobject(py)
        };
        parts.into_iter().map(row).collect()
    }
}

/// The colours of clients that have no true colour, as SetColourMapEntries has them.
#[pyfunction]
pub fn vnc_colour_map(py: Python<'_>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, &display::colour_map())
}

/// What a client that knows the password answers to the challenge.
#[pyfunction]
pub fn vnc_response<'py>(py: Python<'py>, password: &[u8], challenge: [u8; CHALLENGE_SIZE]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &display::vnc_response(password, &challenge))
}

/// A copy of a rectangle of a frame, taken under the interpreter's lock: encoding happens without it.
struct Colours {
    pixels: Vec<u32>,
    width: usize,
    height: usize,
}

impl Colours {
    /// Black wherever the frame has no pixels.
    fn copy(frame: &Bound<'_, PyAny>, (left, top, width, height): Area) -> PyResult<Self> {
        const LARGEST: usize = 1 << 13;
        if [left, top, width, height].iter().any(|number| *number > LARGEST) {
            return Err(PyValueError::new_err("at most 8192 rows of 8192 pixels are shown"));
        }
        let area = (left, top, width, height);
        if let Ok(frame) = frame.cast::<Frame>() {
            return Ok(frame.get().with_pixels(|pixels, width, height| {
                Self::crop(area, (width, height), |start, row| row.copy_from_slice(&pixels[start..start + row.len()]))
            }));
        }
        let frame_width: usize = frame.getattr("width")?.extract()?;
        let frame_height: usize = frame.getattr("height")?.extract()?;
        let buffer = PyBuffer::<u8>::get(&frame.getattr("pixels")?)?;
        let bytes = buffer
            .as_slice(frame.py())
            .filter(|bytes| frame_width.checked_mul(frame_height).is_some_and(|size| bytes.len() / 4 >= size))
            .ok_or_else(|| PyValueError::new_err("the frame has fewer pixels than it says, or not in one piece"))?;
        Ok(Self::crop(area, (frame_width, frame_height), |start, row| {
            for (pixel, four) in row.iter_mut().zip(bytes[4 * start..].chunks_exact(4)) {
                *pixel = u32::from_le_bytes([four[0].get(), four[1].get(), four[2].get(), four[3].get()]);
            }
        }))
    }

    /// `fill` is given where in a frame of this size a row begins, and the row.
    fn crop(
        (left, top, width, height): Area,
        (frame_width, frame_height): (usize, usize),
        fill: impl Fn(usize, &mut [u32]),
    ) -> Self {
        let mut pixels = vec![0; width * height];
        let columns = width.min(frame_width.saturating_sub(left));
        let rows = height.min(frame_height.saturating_sub(top));
        if columns != 0 {
            for (y, row) in pixels.chunks_exact_mut(width).take(rows).enumerate() {
                fill((top + y) * frame_width + left, &mut row[..columns]);
            }
        }
        Colours { pixels, width, height }
    }

    fn image(&self) -> Image<'_> {
        Image::new(&self.pixels, self.width, self.height, self.width).expect("made to measure")
    }
}
