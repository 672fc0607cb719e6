//! The function as a whole.

use super::{Bar, Cause, Description, DescriptionFault, Effect, Line, Space};
use std::collections::VecDeque;

/// A virtio-PCI function. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Function {
    description: Description,
    effects: VecDeque<Effect>,
}

impl Function {
    /// A function at power-on.
    pub fn new(description: Description) -> Result<Self, DescriptionFault> {
        description.check()?;
        Ok(Self { description, effects: VecDeque::new() })
    }

    /// The window of base address register `index`; `None` where there is none.
    pub fn bar(&self, _index: u8) -> Option<Bar> {
        None
    }

    /// Bytes of PCI configuration space.
    pub fn config_len(&self) -> u64 {
        4096
    }

    /// Vectors of the MSI-X table; 0: no MSI-X.
    pub fn msix_vectors(&self) -> u16 {
        0
    }

    /// The client reads. What is no register reads as zeros.
    pub fn read(&mut self, _space: Space, _offset: u64, out: &mut [u8]) {
        out.fill(0);
    }

    /// The client writes. What is no register ignores it.
    pub fn write(&mut self, _space: Space, _offset: u64, _data: &[u8]) {}

    /// The next thing for the host to do. `None`: nothing, or an effect is still unfinished.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Reports that the effect taken last is carried out, or refused. Without one in hand: ignored.
    pub fn finish(&mut self, _accepted: bool) {}

    /// Where the driver's calls for `cause` go; `None`: it wants none. For [`Line::Intx`] each call must go
    /// through [`Function::interrupt`], which keeps the ISR status.
    pub fn call_line(&self, _cause: Cause) -> Option<Line> {
        None
    }

    /// Calls the driver: sets the ISR status where INTx is used, and gives the line to signal.
    pub fn interrupt(&mut self, cause: Cause) -> Option<Line> {
        self.call_line(cause)
    }

    /// Whether the interrupt pin is asserted: a client that unmasked it must be signalled again.
    pub fn intx_pending(&self) -> bool {
        false
    }

    /// Replaces the device configuration, cut or filled with zeros to its length at the start. Telling the
    /// driver is a matter of [`Function::interrupt`] with [`Cause::Config`].
    pub fn set_config(&mut self, bytes: &[u8]) {
        self.description.config = bytes.to_vec();
    }

    /// The device cannot go on: sets `DEVICE_NEEDS_RESET` and gives the line to signal, if any.
    pub fn needs_reset(&mut self) -> Option<Line> {
        self.interrupt(Cause::Config)
    }

    /// Resets the whole function, as a client's `DEVICE_RESET` or a function level reset does: PCI
    /// configuration space, base addresses and device. Effects not yet taken are dropped.
    pub fn reset(&mut self) {
        self.effects.push_back(Effect::Reset);
    }
}
