//! VNC authentication. RFC 6143, section 7.2.2.

use des::Des;
use des::cipher::generic_array::GenericArray;
use des::cipher::{BlockEncrypt, KeyInit};

/// Bytes of a challenge, and of the answer to it.
pub const CHALLENGE_SIZE: usize = 16;
/// Bytes of a password that count.
pub const PASSWORD_SIZE: usize = 8;

/// What a client that knows the password answers: the challenge, encrypted with DES. The key is the password's first
/// 8 bytes, filled with zeros, the bits of each byte mirrored, as every implementation does and the RFC does not say.
pub fn vnc_response(password: &[u8], challenge: &[u8; CHALLENGE_SIZE]) -> [u8; CHALLENGE_SIZE] {
    let mut key = [0; PASSWORD_SIZE];
    for (to, from) in key.iter_mut().zip(password) {
        *to = from.reverse_bits();
    }
    let cipher = Des::new(&GenericArray::from(key));
    let mut response = *challenge;
    for block in response.chunks_exact_mut(8) {
        cipher.encrypt_block(GenericArray::from_mut_slice(block));
    }
    response
}
