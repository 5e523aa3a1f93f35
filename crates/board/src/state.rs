/// Writes a device's state for a snapshot: a version, then little-endian fields in the order of the calls.
pub struct StateWriter(Vec<u8>);

impl StateWriter {
    /// Begins a state of this layout version.
    pub fn new(version: u32) -> Self {
        StateWriter(version.to_le_bytes().to_vec())
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Appends 2 bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    /// Appends 4 bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    /// Appends 8 bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    /// Appends a length of 4 bytes and the bytes themselves.
    ///
    /// # Panics
    /// When there are 4 GiB or more.
    pub fn blob(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("a part of a state is below 4 GiB"));
        self.0.extend(bytes);
    }

    /// The state.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads what [`StateWriter`] wrote out of bytes that may be hostile. Each error is one sentence that names the device.
pub struct StateReader<'a> {
    device: &'a str,
    rest: &'a [u8],
}

impl<'a> StateReader<'a> {
    /// Begins to read a state of `device`.
    ///
    /// # Errors
    /// When the state is of another layout version.
    pub fn new(device: &'a str, state: &'a [u8], version: u32) -> Result<Self, String> {
        let mut reader = StateReader { device, rest: state };
        match reader.u32()? {
            found if found == version => Ok(reader),
            found => Err(format!("the saved state of {device} has version {found}, this program reads {version}")),
        }
    }

    /// The error for a field that no saved state can have.
    pub fn invalid(&self, what: &str) -> String {
        format!("the saved state of {} is damaged: {what}", self.device)
    }

    /// Takes a byte.
    ///
    /// # Errors
    /// As all that follow: when the state ends too early.
    pub fn u8(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    /// Takes a byte that is 0 or 1.
    pub fn bool(&mut self) -> Result<bool, String> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.invalid(&format!("{other} where 0 or 1 belongs"))),
        }
    }

    /// Takes 2 bytes.
    pub fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Takes 4 bytes.
    pub fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Takes 8 bytes.
    pub fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Takes what [`StateWriter::blob`] wrote.
    pub fn blob(&mut self) -> Result<&'a [u8], String> {
        let length = self.u32()? as usize;
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.invalid("it ends too early"));
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When bytes are left over.
    pub fn finish(self) -> Result<(), String> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.invalid(&format!("{left} bytes too many"))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.invalid("it ends too early"));
        };
        self.rest = rest;
        Ok(*bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_back() {
        let mut writer = StateWriter::new(3);
        writer.u8(1);
        writer.u16(0x1234);
        writer.u64(u64::MAX);
        writer.blob(b"abc");
        let state = writer.finish();
        let mut reader = StateReader::new("x", &state, 3).unwrap();
        assert!(reader.bool().unwrap());
        assert_eq!(reader.u16().unwrap(), 0x1234);
        assert_eq!(reader.u64().unwrap(), u64::MAX);
        assert_eq!(reader.blob().unwrap(), b"abc");
        reader.finish().unwrap();
    }

    #[test]
    fn wrong_version_short_long_and_lying_states_are_refused() {
        let mut writer = StateWriter::new(1);
        writer.blob(&[7; 5]);
        let state = writer.finish();
        assert!(StateReader::new("x", &state, 2).err().unwrap().contains("version 1"));
        assert!(StateReader::new("x", &[1, 0], 1).is_err());
        assert!(StateReader::new("x", &state[..8], 1).unwrap().blob().is_err());
        assert!(StateReader::new("x", &state, 1).unwrap().finish().unwrap_err().contains("too many"));
        let lying = [1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1];
        assert!(StateReader::new("x", &lying, 1).unwrap().blob().is_err());
    }
}
