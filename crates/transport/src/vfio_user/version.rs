//! `VERSION`: what client and server can do.

use super::ClientFault;
use super::message::{DATA_MAX, FDS_MAX, Fields, Payload};
use super::{DMA_MAPS_MAX, PAGE_SIZE};
use serde_json::{Map, Value, json};

/// The protocol that is spoken.
const MAJOR: u16 = 0;
const MINOR: u16 = 1;

/// What the client said, or what counts where it said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// File descriptors that it takes with one message.
    pub(super) max_msg_fds: usize,
    /// Bytes of data that it takes or gives in one message; never more than [`DATA_MAX`].
    pub(super) max_data_xfer_size: usize,
}

/// Reads `VERSION` and makes its reply. Capabilities that are not known are not looked at; the reply has none that the
/// client did not name, but for the two that every client must know.
pub(super) fn negotiate(payload: &[u8]) -> Result<(Client, Vec<u8>), ClientFault> {
    let mut fields = Fields(payload);
    let (major, minor) = (fields.u16(), fields.u16());
    if major != MAJOR {
        return Err(ClientFault::Version { major });
    }
    let theirs = capabilities(fields.rest())?;
    let number = |name: &'static str, default: u64| match theirs.get(name) {
        None => Ok(default),
        Some(value) => value.as_u64().ok_or(ClientFault::Capability { name }),
    };
    let client = Client {
        max_msg_fds: number("max_msg_fds", 1)?.min(FDS_MAX as u64) as usize,
        max_data_xfer_size: number("max_data_xfer_size", DATA_MAX as u64)?.min(DATA_MAX as u64) as usize,
    };
    let write_multiple = match theirs.get("write_multiple") {
        None => false,
        Some(value) => value.as_bool().ok_or(ClientFault::Capability { name: "write_multiple" })?,
    };

    let mut ours = Map::new();
    ours.insert("max_msg_fds".into(), json!(FDS_MAX));
    ours.insert("max_data_xfer_size".into(), json!(DATA_MAX));
    if theirs.contains_key("pgsizes") {
        ours.insert("pgsizes".into(), json!(PAGE_SIZE));
    }
    if theirs.contains_key("max_dma_maps") {
        ours.insert("max_dma_maps".into(), json!(DMA_MAPS_MAX));
    }
    if write_multiple {
        ours.insert("write_multiple".into(), json!(true));
    }
    let mut reply = Payload::default().u16(MAJOR).u16(minor.min(MINOR)).0;
    reply.extend_from_slice(json!({ "capabilities": ours }).to_string().as_bytes());
    reply.push(0);
    Ok((client, reply))
}

/// The client's capabilities; none if it said nothing.
fn capabilities(data: &[u8]) -> Result<Map<String, Value>, ClientFault> {
    if data.is_empty() {
        return Ok(Map::new());
    }
    let text = data.strip_suffix(&[0]).ok_or(ClientFault::VersionData { what: "text without an end" })?;
    // Nested values are read to a bounded depth only.
    match serde_json::from_slice(text) {
        Ok(Value::Object(mut said)) => match said.remove("capabilities") {
            None => Ok(Map::new()),
            Some(Value::Object(capabilities)) => Ok(capabilities),
            Some(_) => Err(ClientFault::VersionData { what: "capabilities that are no object" }),
        },
        Ok(_) => Err(ClientFault::VersionData { what: "no object" }),
        Err(_) => Err(ClientFault::VersionData { what: "no JSON" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u16, minor: u16, text: &str) -> Result<(Client, Vec<u8>), ClientFault> {
        let mut payload = Payload::default().u16(major).u16(minor).0;
        payload.extend_from_slice(text.as_bytes());
        negotiate(&payload)
    }

    fn said(reply: &[u8]) -> Value {
        let (zero, text) = reply[4..].split_last().unwrap();
        assert_eq!(*zero, 0);
        serde_json::from_slice(text).unwrap()
    }

    #[test]
    fn qemu_gets_what_it_accepts() {
        let asked = r#"{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,"max_data_xfer_size":1048576,"migration":{"max_bitmap_size":268435456,"pgsize":4096},"write_multiple":true}}"#;
        let (client, reply) = version(0, 0, &format!("{asked}\0")).unwrap();
        assert_eq!(client, Client { max_msg_fds: 16, max_data_xfer_size: 1 << 20 });
        assert_eq!(reply[..4], [0; 4]);
        let expected = json!({"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535,
            "max_data_xfer_size": 1 << 20, "write_multiple": true}});
        assert_eq!(said(&reply), expected);
    }

    #[test]
    fn a_client_that_says_little_is_promised_little() {
        for text in ["", "{}\0", "{\"capabilities\":{}}\0", "{\"capabilities\":{\"write_multiple\":false}}\0"]
        {
            let (client, reply) = version(0, 9, text).unwrap();
            assert_eq!(client, Client { max_msg_fds: 1, max_data_xfer_size: DATA_MAX });
            assert_eq!(reply[..4], [0, 0, 1, 0], "our minor version");
            assert_eq!(
                said(&reply),
                json!({"capabilities": {"max_msg_fds": 16, "max_data_xfer_size": 1 << 20}})
            );
        }
        let huge =
            "{\"capabilities\":{\"max_msg_fds\":4294967296,\"max_data_xfer_size\":18446744073709551615}}\0";
        let (client, _) = version(0, 0, huge).unwrap();
        assert_eq!(client, Client { max_msg_fds: FDS_MAX, max_data_xfer_size: DATA_MAX });
    }

    #[test]
    fn other_versions_and_broken_texts_are_named() {
        assert_eq!(version(1, 0, "").unwrap_err(), ClientFault::Version { major: 1 });
        let nested = "[".repeat(10_000) + "\0";
        for text in ["{}", "{\0", "3\0", "{\"capabilities\":3}\0", "\0", &nested] {
            assert_eq!(version(0, 0, text).unwrap_err().name(), "version-data", "{text:.20}");
        }
        for text in ["\"max_msg_fds\":-1", "\"max_data_xfer_size\":\"x\"", "\"write_multiple\":1"] {
            let text = format!("{{\"capabilities\":{{{text}}}}}\0");
            assert_eq!(version(0, 0, &text).unwrap_err().name(), "capability", "{text}");
        }
    }
}
