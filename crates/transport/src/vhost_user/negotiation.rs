//! Features, configuration, status: what front-end and back-end agree on besides rings and memory.

use super::features::{F_LOG_ALL, TRANSPORT_BITS};
use super::message::{CONFIG_HEADER_SIZE, CONFIG_SIZE_MAX, Fields, Message};
use super::{Event, FrontendFault, MEM_SLOTS_MAX, ProtocolFeatures, Request, Session};

/// The MTUs that virtio-net knows, in bytes (virtio 1.3 §5.1.4.1).
const MTU_MIN: u64 = 68;

impl Session {
    pub(super) fn get_features(&mut self) {
        self.reply_u64(Request::GetFeatures, self.offer.features);
    }

    /// While rings run, only `LOG_ALL` may change: a migration begins or ends. The same bits once more are
    /// nothing new (QEMU sends them for every queue pair).
    pub(super) fn set_features(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let features = Fields(&message.payload).u64();
        let bits = features & !self.offer.features;
        if bits != 0 {
            return Err(FrontendFault::FeaturesNotOffered { bits });
        }
        let running = self.rings.any_running();
        let changed = self.acknowledged.unwrap_or(0) ^ features;
        let bits = changed & !TRANSPORT_BITS;
        if running && bits != 0 {
            return Err(FrontendFault::FeaturesWhileRunning { bits });
        }
        self.acknowledged = Some(features);
        let restart = if changed & F_LOG_ALL != 0 { self.log_all_changed()? } else { Vec::new() };
        if !running || !restart.is_empty() {
            self.push(Event::Features { acknowledged: features & !TRANSPORT_BITS, restart });
        }
        Ok(())
    }

    pub(super) fn get_protocol_features(&mut self) {
        self.reply_u64(Request::GetProtocolFeatures, self.offer.protocol.bits());
    }

    pub(super) fn set_protocol_features(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let features = Fields(&message.payload).u64();
        let bits = features & !self.offer.protocol.bits();
        if bits != 0 {
            return Err(FrontendFault::ProtocolFeaturesNotOffered { bits });
        }
        self.protocol = ProtocolFeatures::from_bits_truncate(features);
        Ok(())
    }

    pub(super) fn get_queue_num(&mut self) {
        self.reply_u64(Request::GetQueueNum, self.offer.queue_num.into());
    }

    pub(super) fn get_max_mem_slots(&mut self) {
        self.reply_u64(Request::GetMaxMemSlots, MEM_SLOTS_MAX as u64);
    }

    /// The MAC address is in the payload's first six bytes.
    pub(super) fn send_rarp(&mut self, message: &Message) {
        if let Some(mac) = message.payload.first_chunk::<6>() {
            self.push(Event::AnnounceRarp(*mac));
        }
    }

    pub(super) fn net_set_mtu(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let mtu = Fields(&message.payload).u64();
        let bytes = u16::try_from(mtu).ok().filter(|_| mtu >= MTU_MIN).ok_or(FrontendFault::Mtu { mtu })?;
        self.push(Event::Mtu(bytes));
        Ok(())
    }

    pub(super) fn set_backend_req_fd(&mut self, mut message: Message) {
        if let Some(socket) = message.fds.pop() {
            self.has_backend_channel = true;
            self.push(Event::BackendChannel(socket));
        }
    }

    /// Answers with as many bytes as asked for; past the end of the device's configuration they are zero.
    pub(super) fn get_config(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let asked = ConfigRange::parse(message)?;
        let mut payload = message.payload.clone();
        let given = self.offer.config.get(asked.offset..).unwrap_or(&[]);
        for (place, byte) in
            payload.iter_mut().skip(CONFIG_HEADER_SIZE).zip(given.iter().copied().chain(std::iter::repeat(0)))
        {
            *place = byte;
        }
        self.reply(Request::GetConfig, &payload);
        Ok(())
    }

    pub(super) fn set_config_space(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let written = ConfigRange::parse(message)?;
        let migration = match written.flags {
            0 => false,
            1 => true,
            flags => return Err(FrontendFault::ConfigFlags { flags }),
        };
        let bytes = message.payload.get(CONFIG_HEADER_SIZE..).unwrap_or(&[]).to_vec();
        self.push(Event::ConfigWrite { offset: written.offset as u32, bytes, migration });
        Ok(())
    }

    /// Rings stop and are forgotten with what was in flight, features are to be negotiated anew; memory, protocol features and the
    /// channel stay, as the back-end stays the owner of the device.
    pub(super) fn reset_device(&mut self) {
        self.rings.reset_all();
        self.acknowledged = None;
        self.status = 0;
        // What was in flight is no more: the front-end is to ask for new memory.
        self.in_flight = None;
        self.push(Event::ResetDevice);
    }

    /// Zero is the driver's reset of the device (virtio 1.3 §2.4.1): as `RESET_DEVICE`. QEMU sends it after it
    /// stopped the rings with `GET_VRING_BASE` and says everything anew before it starts them again.
    pub(super) fn set_status(&mut self, message: &Message) -> Result<(), FrontendFault> {
        let status = Fields(&message.payload).u64();
        match u8::try_from(status).map_err(|_| FrontendFault::Status { status })? {
            0 => self.reset_device(),
            status => {
                self.status = status;
                self.push(Event::Status(status));
            }
        }
        Ok(())
    }

    pub(super) fn get_status(&mut self) {
        self.reply_u64(Request::GetStatus, self.status.into());
    }

    fn reply_u64(&mut self, request: Request, value: u64) {
        self.reply(request, &value.to_ne_bytes());
    }
}

/// A checked range of the configuration space.
struct ConfigRange {
    offset: usize,
    flags: u32,
}

impl ConfigRange {
    fn parse(message: &Message) -> Result<Self, FrontendFault> {
        let mut fields = Fields(&message.payload);
        let (offset, size, flags) = (fields.u32(), fields.u32(), fields.u32());
        let given = fields.rest().len();
        let end = u64::from(offset) + u64::from(size);
        if size as usize != given || end > CONFIG_SIZE_MAX as u64 {
            let request = message.header.request;
            return Err(FrontendFault::ConfigRange { request, offset, size, given });
        }
        Ok(Self { offset: offset as usize, flags })
    }
}
