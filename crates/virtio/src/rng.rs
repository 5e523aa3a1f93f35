use crate::{Chain, DeviceType, Queue, QueueError, VirtioDevice};

/// The most random bytes for one request; the driver asks again for more.
const MAX_REQUEST: u64 = 64 * 1024;

/// virtio-rng: random bytes of the host's kernel. virtio 1.2, section 5.4.
pub struct Rng {
    name: String,
}

impl Rng {
    /// A source of randomness.
    pub fn new(name: &str) -> Self {
        Rng { name: name.to_owned() }
    }
}

impl VirtioDevice for Rng {
    fn name(&self) -> &str {
        &self.name
    }

    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn process(&self, queues: &mut [Queue]) -> Result<bool, QueueError> {
        let Some(queue) = queues.first_mut() else { return Ok(false) };
        queue.serve(|chain| Ok(fill(chain)))
    }
}

/// Fills a chain with random bytes; returns how many.
fn fill(chain: &Chain) -> u32 {
    let wanted = chain.writable().min(MAX_REQUEST);
    let mut done = 0;
    // The kernel never interrupts requests of up to 256 bytes.
    let mut bytes = [0u8; 256];
    while done < wanted {
        let size = (wanted - done).min(bytes.len() as u64) as usize;
        // SAFETY: the pointer is to `size` bytes of our own.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), size, 0) };
        let Ok(got) = usize::try_from(got) else { break };
        done += chain.write(done, &bytes[..got]) as u64;
    }
    done as u32
}
