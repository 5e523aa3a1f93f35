//! Encodings against decoders written from the specification, which check every length on the way.

use crate::{FormatError, Image, PixelFormat, colour_map, raw, tight, vnc_response, zrle};
use proptest::prelude::*;

/// A PIXEL_FORMAT: bits per pixel, depth, big-endian, true colour, maxima and shifts.
fn format_bytes(bits: u8, depth: u8, flags: [u8; 2], max: [u16; 3], shift: [u8; 3]) -> [u8; 16] {
    let mut data = [0; 16];
    data[..4].copy_from_slice(&[bits, depth, flags[0], flags[1]]);
    for index in 0..3 {
        data[4 + 2 * index..6 + 2 * index].copy_from_slice(&max[index].to_be_bytes());
        data[10 + index] = shift[index];
    }
    data
}

fn rgb32(big_endian: u8) -> [u8; 16] {
    format_bytes(32, 24, [big_endian, 1], [255; 3], [16, 8, 0])
}

/// The formats that the encodings treat differently.
fn formats() -> Vec<[u8; 16]> {
    vec![
        rgb32(0),
        rgb32(1),
        format_bytes(32, 24, [0, 1], [255; 3], [24, 16, 8]),
        format_bytes(32, 24, [1, 1], [255; 3], [8, 16, 24]),
        format_bytes(32, 24, [0, 1], [255; 3], [20, 12, 0]),
        format_bytes(32, 32, [0, 1], [255; 3], [0, 8, 16]),
        format_bytes(32, 30, [0, 1], [1023; 3], [20, 10, 0]),
        format_bytes(16, 16, [0, 1], [31, 63, 31], [11, 5, 0]),
        format_bytes(16, 15, [1, 1], [31, 31, 31], [10, 5, 0]),
        format_bytes(8, 8, [0, 1], [7, 7, 3], [0, 3, 6]),
        format_bytes(8, 8, [0, 0], [0; 3], [0; 3]),
        format_bytes(32, 8, [1, 0], [0; 3], [0; 3]),
    ]
}

/// What a client should see of a colour: the value of a pixel, computed the slow way.
fn expected(colour: u32, data: &[u8; 16]) -> u32 {
    let field = |index: usize| match data[3] {
        0 => [(7, 5), (7, 2), (3, 0)][index],
        _ => (u32::from(u16::from_be_bytes([data[4 + 2 * index], data[5 + 2 * index]])), data[10 + index]),
    };
    (0..3).fold(0, |value, index| {
        let (max, shift) = field(index);
        let intensity = f64::from(colour >> (16 - 8 * index) & 255);
        value | ((intensity * f64::from(max) / 255.0).round() as u32) << shift
    })
}

/// A client's view of bytes: takes pixels from them.
struct Reader<'a> {
    data: &'a [u8],
    format: &'a [u8; 16],
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.data.split_at(count);
        self.data = rest;
        taken.to_vec()
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn bytes_per_pixel(&self) -> usize {
        usize::from(self.format[0]) / 8
    }

    fn value(&mut self, bytes: usize) -> u32 {
        let fold = |value, byte: &u8| value << 8 | u32::from(*byte);
        let data = self.take(bytes);
        if self.format[2] != 0 { data.iter().fold(0, fold) } else { data.iter().rev().fold(0, fold) }
    }

    fn pixel(&mut self) -> u32 {
        self.value(self.bytes_per_pixel())
    }

    fn used(&self) -> u32 {
        (0..3).fold(0, |bits, index| {
            let max = u16::from_be_bytes([self.format[4 + 2 * index], self.format[5 + 2 * index]]);
            bits | u32::from(max) << self.format[10 + index]
        })
    }

    fn cpixel(&mut self) -> u32 {
        if self.format[3] == 0 || self.format[0] != 32 || self.format[1] > 24 {
            return self.pixel();
        }
        match self.used() {
            used if used >> 24 == 0 => self.value(3),
            used if used & 0xff == 0 => self.value(3) << 8,
            _ => self.pixel(),
        }
    }

    fn tpixel(&mut self) -> u32 {
        let full = self.format[4..10] == [0, 255, 0, 255, 0, 255];
        if self.format[0] != 32 || self.format[1] != 24 || self.format[3] == 0 || !full {
            return self.pixel();
        }
        let rgb = self.take(3);
        (0..3).fold(0, |value, index| value | u32::from(rgb[index]) << self.format[10 + index])
    }

    fn run_length(&mut self) -> usize {
        let mut length = 1;
        loop {
            let byte = self.byte();
            length += usize::from(byte);
            if byte != 255 {
                return length;
            }
        }
    }

    /// Indices of `bits` bits, rows filled to whole bytes.
    fn indices(&mut self, width: usize, height: usize, bits: usize) -> Vec<usize> {
        let mut indices = Vec::new();
        for _ in 0..height {
            let row = self.take((width * bits).div_ceil(8));
            indices.extend((0..width).map(|x| {
                let byte = usize::from(row[x * bits / 8]);
                byte >> (8 - bits - x * bits % 8) & ((1 << bits) - 1)
            }));
        }
        indices
    }
}

/// A picture of pixel values, for decoders to paint.
struct Canvas {
    width: usize,
    pixels: Vec<Option<u32>>,
}

impl Canvas {
    fn paint(&mut self, x: usize, y: usize, width: usize, values: &[u32]) {
        for (index, value) in values.iter().enumerate() {
            let pixel = &mut self.pixels[(y + index / width) * self.width + x + index % width];
            assert!(pixel.replace(*value).is_none(), "painted twice");
        }
    }
}

fn decode_zrle(reader: &mut Reader<'_>, width: usize, height: usize) -> Canvas {
    let mut canvas = Canvas { width, pixels: vec![None; width * height] };
    for y in (0..height).step_by(64) {
        for x in (0..width).step_by(64) {
            let (w, h) = (64.min(width - x), 64.min(height - y));
            let kind = reader.byte();
            let palette: Vec<u32> = (0..kind & 0x7f).map(|_| reader.cpixel()).collect();
            let mut values = Vec::new();
            match kind {
                0 => values.extend((0..w * h).map(|_| reader.cpixel())),
                1 => values.resize(w * h, palette[0]),
                2..=16 => {
                    let bits = [1, 1, 1, 2, 2, 4][usize::from(kind).min(5)];
                    values.extend(reader.indices(w, h, bits).into_iter().map(|index| palette[index]));
                }
                128 => {
                    while values.len() < w * h {
                        let value = reader.cpixel();
                        values.resize(values.len() + reader.run_length(), value);
                    }
                }
                130.. => {
                    while values.len() < w * h {
                        let index = reader.byte();
                        let length = if index < 128 { 1 } else { reader.run_length() };
                        values.resize(values.len() + length, palette[usize::from(index & 0x7f)]);
                    }
                }
                _ => panic!("tile of unused kind {kind}"),
            }
            assert_eq!(values.len(), w * h);
            canvas.paint(x, y, w, &values);
        }
    }
    assert!(reader.data.is_empty());
    canvas
}

fn decode_tight(image: Image<'_>, format: &PixelFormat, data: &[u8; 16]) -> Canvas {
    let (width, height) = (image.width(), image.height());
    let mut canvas = Canvas { width, pixels: vec![None; width * height] };
    for part in tight(image, format) {
        let bytes: Vec<u8> = [part.head.as_slice(), part.body.as_slice()].concat();
        let mut reader = Reader { data: &bytes, format: data };
        let count = part.width * part.height;
        let control = reader.byte();
        assert_eq!(control & 0x0f, 0, "no stream is reset");
        let values: Vec<u32> = match control >> 4 {
            8 => {
                assert!(part.stream.is_none() && part.body.is_empty());
                vec![reader.tpixel(); count]
            }
            kind @ 0..8 => {
                assert_eq!(part.stream, Some(kind & 3));
                if kind & 4 == 0 {
                    (0..count).map(|_| reader.tpixel()).collect()
                } else {
                    assert_eq!(reader.byte(), 1);
                    let colours = usize::from(reader.byte()) + 1;
                    assert!(colours >= 2);
                    let palette: Vec<u32> = (0..colours).map(|_| reader.tpixel()).collect();
                    assert_eq!(reader.data.len(), part.body.len());
                    let bits = if colours == 2 { 1 } else { 8 };
                    let indices = reader.indices(part.width, part.height, bits);
                    indices.into_iter().map(|index| palette[index]).collect()
                }
            }
            kind => panic!("compression {kind}"),
        };
        assert!(reader.data.is_empty());
        canvas.paint(part.x, part.y, part.width, &values);
    }
    canvas
}

/// What all encodings of an image must show, and do.
fn check(pixels: &[u32], width: usize, height: usize, stride: usize) {
    let image = Image::new(pixels, width, height, stride).unwrap();
    for data in formats() {
        let format = PixelFormat::parse(&data).unwrap();
        let wanted: Vec<Option<u32>> =
            image.rows().flatten().map(|colour| Some(expected(colour & 0x00ff_ffff, &data))).collect();
        let bytes = raw(image, &format);
        let mut reader = Reader { data: &bytes, format: &data };
        let shown: Vec<Option<u32>> = (0..width * height).map(|_| Some(reader.pixel())).collect();
        assert!(reader.data.is_empty());
        assert!(shown == wanted, "raw, {data:?}");
        let bytes = zrle(image, &format);
        let most = (width * height * 4) + width.div_ceil(64) * height.div_ceil(64);
        assert!(bytes.len() <= most, "{} bytes for {width}x{height}", bytes.len());
        let mut reader = Reader { data: &bytes, format: &data };
        assert!(decode_zrle(&mut reader, width, height).pixels == wanted, "ZRLE, {data:?}");
        assert!(decode_tight(image, &format, &data).pixels == wanted, "Tight, {data:?}");
    }
}

/// Pixels of `colours` colours in runs of about `run`, the same for the same seed.
fn picture(count: usize, colours: u32, run: u32, seed: u32) -> Vec<u32> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let palette: Vec<u32> = (0..colours).map(|_| next()).collect();
    let mut colour = palette[0];
    let mut pixel = || {
        if next() % run == 0 {
            colour = palette[(next() % colours) as usize];
        }
        colour
    };
    (0..count).map(|_| pixel()).collect()
}

#[test]
fn every_kind_of_tile_shows_its_pixels() {
    for colours in [1, 2, 3, 4, 5, 16, 17, 127, 128, 129, 256, 257, 5000] {
        for run in [1, 2, 40, 3000] {
            check(&picture(150 * 131, colours, run, colours + run), 150, 131, 150);
        }
    }
}

#[test]
fn run_lengths_at_the_borders_of_their_bytes() {
    for length in [1, 2, 254, 255, 256, 257, 510, 511, 512, 4095, 4096] {
        let mut pixels = vec![0x123456; length];
        pixels.resize(64 * 64, 0xabcdef);
        check(&pixels, 64, 64, 64);
    }
}

#[test]
fn a_desktop_takes_a_fraction_of_its_raw_size() {
    let pixels = picture(640 * 480, 12, 50, 7);
    let image = Image::new(&pixels, 640, 480, 640).unwrap();
    let format = PixelFormat::parse(&rgb32(0)).unwrap();
    assert!(zrle(image, &format).len() < 640 * 480 * 4 / 15);
    let parts = tight(image, &format);
    assert!(parts.iter().map(|part| part.body.len()).sum::<usize>() <= 640 * 480);
}

#[test]
fn images_that_do_not_fit_are_none() {
    let pixels = [0; 12];
    assert!(Image::new(&pixels, 4, 3, 4).is_some());
    assert!(Image::new(&pixels, 4, 4, 4).is_none());
    assert!(Image::new(&pixels, 4, 2, 3).is_none());
    assert!(Image::new(&pixels, 2, 2, 10).is_some());
    assert!(Image::new(&pixels, 3, 2, 10).is_none());
    assert!(Image::new(&pixels, 1, usize::MAX, usize::MAX).is_none());
    let empty = Image::new(&[], 0, 5, 0).unwrap();
    assert!(zrle(empty, &PixelFormat::parse(&rgb32(0)).unwrap()).is_empty());
}

#[test]
fn bad_formats_are_refused_by_the_rule_they_break() {
    let parse = |data: [u8; 16]| PixelFormat::parse(&data).err();
    assert_eq!(parse(format_bytes(24, 24, [0, 1], [255; 3], [16, 8, 0])), Some(FormatError::BitsPerPixel(24)));
    assert_eq!(parse(format_bytes(0, 0, [0, 1], [255; 3], [16, 8, 0])), Some(FormatError::BitsPerPixel(0)));
    assert_eq!(parse(format_bytes(8, 16, [0, 1], [7, 7, 3], [5, 2, 0])), Some(FormatError::Depth(16, 8)));
    assert_eq!(parse(format_bytes(32, 0, [0, 1], [255; 3], [16, 8, 0])), Some(FormatError::Depth(0, 32)));
    let intensity = |max, shift, bits| Some(FormatError::Intensity(max, shift, bits));
    assert_eq!(parse(format_bytes(32, 24, [0, 1], [254, 255, 255], [16, 8, 0])), intensity(254, 16, 32));
    assert_eq!(parse(format_bytes(32, 24, [0, 1], [255; 3], [16, 8, 25])), intensity(255, 25, 32));
    assert_eq!(parse(format_bytes(16, 16, [0, 1], [65535; 3], [0, 1, 0])), intensity(65535, 1, 16));
    assert_eq!(parse(format_bytes(8, 8, [0, 1], [0; 3], [255, 0, 0])), intensity(0, 255, 8));
    assert_eq!(parse(format_bytes(8, 8, [0, 1], [0; 3], [7, 0, 0])), None);
}

#[test]
fn the_colour_map_is_what_pixels_without_true_colour_mean() {
    let map = colour_map();
    assert_eq!(map.len(), 256 * 6);
    let entry = |index: usize| -> Vec<u16> {
        let bytes = &map[6 * index..6 * index + 6];
        bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
    };
    assert_eq!(entry(0), [0, 0, 0]);
    assert_eq!(entry(255), [0xffff; 3]);
    assert_eq!(entry(0b1110_0000), [0xffff, 0, 0]);
    assert_eq!(entry(0b0000_0001), [0, 0, 0x5555]);
    let format = PixelFormat::parse(&format_bytes(8, 8, [0, 0], [0; 3], [0; 3])).unwrap();
    assert!(!format.true_colour());
    let image = [0xff_00_00, 0x00_00_55];
    assert_eq!(raw(Image::new(&image, 2, 1, 2).unwrap(), &format), [0b1110_0000, 0b0000_0001]);
}

/// FIPS 81's example for DES, and the answer that TightVNC's vncpasswd and clients agree on for a known challenge.
#[test]
fn passwords_answer_challenges_as_clients_do() {
    // Key 0123456789abcdef of FIPS 81, "Now is t" "he time ": mirrored bits make the password.
    let password: Vec<u8> = 0x0123_4567_89ab_cdefu64.to_be_bytes().iter().map(|byte| byte.reverse_bits()).collect();
    let wanted = [0x3f, 0xa4, 0x0e, 0x8a, 0x98, 0x4d, 0x48, 0x15, 0x6a, 0x27, 0x17, 0x87, 0xab, 0x88, 0x83, 0xf9];
    assert_eq!(vnc_response(&password, b"Now is the time "), wanted);
    let long = [&password[..], b"ignored"].concat();
    assert_eq!(vnc_response(&long, b"Now is the time "), wanted);
    assert_ne!(vnc_response(b"", b"Now is the time "), wanted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_image_is_shown(width in 1usize..140, height in 1usize..140, gap in 0usize..9,
                          colours in 1u32..400, run in 1u32..100, seed: u32) {
        check(&picture((width + gap) * height, colours, run, seed), width, height, width + gap);
    }

    #[test]
    fn any_bytes_are_a_format_or_none(data: [u8; 16], small: bool) {
        let mut data = data;
        if small {
            data[0] = [8, 16, 32][usize::from(data[0] % 3)];
            data[1] = data[0].min(24);
            for index in 0..3 {
                let max = (1u16 << (data[5 + index] % 9)) - 1;
                data[4 + 2 * index..6 + 2 * index].copy_from_slice(&max.to_be_bytes());
                data[10 + index] %= 26;
            }
        }
        if let Ok(format) = PixelFormat::parse(&data) {
            let pixels = picture(33 * 9, 30, 2, 1);
            let image = Image::new(&pixels, 33, 9, 33).unwrap();
            prop_assert_eq!(raw(image, &format).len(), 33 * 9 * usize::from(data[0]) / 8);
            prop_assert!(!zrle(image, &format).is_empty());
            prop_assert_eq!(tight(image, &format).len(), 1);
        }
    }
}
