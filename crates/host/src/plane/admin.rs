//! The administration queue of a function: its commands are about the function's own registers and parts, and are carried out
//! there (virtio 1.4 §2.13).

use super::port::Live;
use super::protocol::Function;
use guestmem::{read_segments, write_segments};
use std::sync::Arc;
use transport::pci::ADMIN_READABLE_MAX;
use virtqueue::{Burst, DriverFault};

/// Carries out the next command, if there is one, and completes it; its driver sees that after a flush, which has to wait for what
/// the command brought about. `false`: none was there, and the driver will kick for the next one.
pub(super) fn serve_one(live: &mut Live, function: &mut Function) -> Result<bool, DriverFault> {
    let memory = Arc::clone(&live.memory);
    let mut burst = Burst::new();
    live.queue.pop(&memory, &mut burst, 1)?;
    let Some(chain) = burst.take() else { return Ok(live.queue.enable_notify()) };
    let mut request = vec![0; ADMIN_READABLE_MAX.min(chain.readable_len() as usize)];
    read_segments(burst.readable(&chain), 0, &mut request);
    let answer = function.admin_command(&request, chain.writable_len() as usize);
    let written = write_segments(burst.writable(&chain), 0, &answer);
    live.queue.complete(&burst, chain, written as u32);
    Ok(true)
}
