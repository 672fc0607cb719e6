//! The frame that tells switches where a guest has moved: a reverse ARP request (RFC 903).
//!
//! Sent on a guest's behalf after a migration (vhost-user `SEND_RARP`), when the guest cannot announce itself.

/// Bytes of the frame: the shortest that Ethernet carries, without checksum.
pub const RARP_LEN: usize = 60;

/// A broadcast from `mac` asking for its own address: harmless, and learnt by every switch on the way.
pub fn announcement(mac: [u8; 6]) -> [u8; RARP_LEN] {
    let mut frame = [0; RARP_LEN];
    frame[0..6].fill(0xFF);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&0x8035u16.to_be_bytes());
    // Ethernet, IPv4, lengths of their addresses, operation 3: "request reverse".
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 3]);
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_byte_by_byte() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        let frame = announcement(mac);
        assert_eq!(frame[..6], [0xFF; 6]);
        assert_eq!((&frame[6..12], &frame[22..28], &frame[32..38]), (&mac[..], &mac[..], &mac[..]));
        assert_eq!(frame[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
        assert!(frame[28..32].iter().chain(&frame[38..]).all(|&byte| byte == 0));
    }
}
