//! What a guest's QEMU says about the receive filter of its NIC: QMP, lines in and lines out.
//!
//! QEMU keeps virtio-net's control queue for itself when the back-end is vhost-user, so a guest's change of address does not
//! reach us by the rings. It does reach QEMU's monitor: event `NIC_RX_FILTER_CHANGED` is sent once, and then not again until
//! `query-rx-filter` was asked. However often a guest changes its mind, there is at most one event a query, and the caller
//! decides how often it queries.
//!
//! Nothing here does I/O: [`Conversation::receive`] takes a line and answers with what it means, and
//! [`Conversation::take_outgoing`] has what is to be sent.

use serde::Deserialize;
use serde_json::{Value, json};

/// Bytes of the longest line that is read. A filter with full tables is far below.
pub const LINE_LEN_MAX: usize = 1 << 20;
/// Addresses kept of each table.
pub const TABLE_MAX: usize = 64;

/// A NIC's receive filter (`RxFilterInfo` of QEMU's `net.json`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RxFilter {
    /// Name of the NIC in QEMU.
    pub name: String,
    /// The address that the guest uses.
    pub mac: [u8; 6],
    /// Further unicast addresses, at most [`TABLE_MAX`].
    pub unicast: Vec<[u8; 6]>,
    /// Groups; `None`: all, or more than can be listed.
    pub multicast: Option<Vec<[u8; 6]>>,
    /// It takes everything.
    pub promiscuous: bool,
}

/// Why a conversation cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QmpFault {
    /// The line is no JSON object.
    #[error("not a QMP message: {0}")]
    Syntax(String),
    /// It does not begin with a QMP greeting.
    #[error("the socket does not speak QMP")]
    Greeting,
    /// QEMU refused a command.
    #[error("{command}: {text}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's words.
        text: String,
    },
    /// No NIC of the answer is the port's.
    #[error("no NIC is the port's own: {0}")]
    NoNic(String),
    /// A field of the answer is not as QEMU documents it.
    #[error("query-rx-filter: {0}")]
    Answer(String),
}

/// What we wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Greeting,
    Capabilities,
    Filter,
    Nothing,
}

/// One connection to a monitor.
#[derive(Debug)]
pub struct Conversation {
    /// Name that the operator gave; else the one that was found.
    nic: Option<String>,
    waiting: Waiting,
    changed: bool,
    outgoing: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    name: String,
    main_mac: String,
    #[serde(default)]
    promiscuous: bool,
    #[serde(default)]
    multicast: String,
    #[serde(default)]
    multicast_overflow: bool,
    #[serde(default)]
    unicast_table: Vec<String>,
    #[serde(default)]
    multicast_table: Vec<String>,
}

impl Conversation {
    /// A new connection. `nic` names the NIC in QEMU; without it, the only NIC is meant, or the one that has the port's
    /// address.
    pub fn new(nic: Option<String>) -> Self {
        Self { nic, waiting: Waiting::Greeting, changed: false, outgoing: Vec::new() }
    }

    /// Bytes to send now.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Whether commands are taken.
    pub fn is_ready(&self) -> bool {
        matches!(self.waiting, Waiting::Filter | Waiting::Nothing)
    }

    /// Whether the filter may have changed since it was asked for.
    pub fn wants_query(&self) -> bool {
        self.changed && self.waiting == Waiting::Nothing
    }

    /// The filter may have changed without an event: QEMU sends none when the guest resets its device.
    pub fn suspect(&mut self) {
        self.changed = true;
    }

    /// Asks for the filter.
    pub fn query(&mut self) {
        if self.waiting == Waiting::Nothing {
            self.changed = false;
            self.waiting = Waiting::Filter;
            let command = match &self.nic {
                Some(name) => json!({"execute": "query-rx-filter", "arguments": {"name": name}}),
                None => json!({"execute": "query-rx-filter"}),
            };
            self.send(&command);
        }
    }

    /// Takes one line; the filter, if this was the answer. `mac` is the port's address by configuration.
    pub fn receive(&mut self, line: &[u8], mac: Option<[u8; 6]>) -> Result<Option<RxFilter>, QmpFault> {
        let message: Value =
            serde_json::from_slice(line).map_err(|error| QmpFault::Syntax(error.to_string()))?;
        if message.get("event").is_some() {
            self.changed |= message["event"] == "NIC_RX_FILTER_CHANGED";
            return Ok(None);
        }
        if let Some(error) = message.get("error") {
            let text = error["desc"].as_str().unwrap_or("no reason given").chars().take(200).collect();
            let command =
                if self.waiting == Waiting::Filter { "query-rx-filter" } else { "qmp_capabilities" };
            return Err(QmpFault::Refused { command, text });
        }
        match self.waiting {
            Waiting::Greeting => {
                message.get("QMP").ok_or(QmpFault::Greeting)?;
                self.waiting = Waiting::Capabilities;
                self.send(&json!({"execute": "qmp_capabilities"}));
                Ok(None)
            }
            Waiting::Capabilities => {
                (self.waiting, self.changed) = (Waiting::Nothing, true);
                Ok(None)
            }
            Waiting::Filter => {
                self.waiting = Waiting::Nothing;
                self.filter(message["return"].clone(), mac).map(Some)
            }
            Waiting::Nothing => Ok(None),
        }
    }

    fn filter(&mut self, answer: Value, mac: Option<[u8; 6]>) -> Result<RxFilter, QmpFault> {
        let answers: Vec<Answer> =
            serde_json::from_value(answer).map_err(|error| QmpFault::Answer(error.to_string()))?;
        let chosen = match (&self.nic, answers.as_slice()) {
            (Some(name), all) => all.iter().find(|answer| answer.name == *name),
            (None, [only]) => Some(only),
            (None, all) => all.iter().find(|answer| mac.is_some() && octets(&answer.main_mac) == mac),
        };
        let Some(chosen) = chosen else {
            let names: Vec<&str> = answers.iter().take(8).map(|answer| answer.name.as_str()).collect();
            return Err(QmpFault::NoNic(format!("there are {}", names.join(", "))));
        };
        let bad = |text: &String| QmpFault::Answer(format!("{text:?} is no MAC address"));
        let table = |list: &[String]| -> Result<Vec<[u8; 6]>, QmpFault> {
            list.iter().take(TABLE_MAX).map(|text| octets(text).ok_or_else(|| bad(text))).collect()
        };
        let all_groups = chosen.promiscuous
            || chosen.multicast_overflow
            || chosen.multicast == "all"
            || chosen.multicast_table.len() > TABLE_MAX;
        let filter = RxFilter {
            name: chosen.name.clone(),
            mac: octets(&chosen.main_mac).ok_or_else(|| bad(&chosen.main_mac))?,
            unicast: table(&chosen.unicast_table)?,
            multicast: if all_groups { None } else { Some(table(&chosen.multicast_table)?) },
            promiscuous: chosen.promiscuous,
        };
        // Found by its address, which it is about to change: from now on it is known by its name.
        self.nic.get_or_insert_with(|| filter.name.clone());
        Ok(filter)
    }

    fn send(&mut self, command: &Value) {
        self.outgoing.extend_from_slice(command.to_string().as_bytes());
        self.outgoing.push(b'\n');
    }
}

/// Six hexadecimal octets with colons between them.
fn octets(text: &str) -> Option<[u8; 6]> {
    text.parse::<switch::MacAddr>().ok().map(|mac| mac.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

    fn ready(nic: Option<&str>) -> Conversation {
        let mut talk = Conversation::new(nic.map(String::from));
        assert_eq!(talk.receive(br#"{"QMP": {"version": {}, "capabilities": []}}"#, None), Ok(None));
        assert_eq!(talk.take_outgoing(), b"{\"execute\":\"qmp_capabilities\"}\n");
        assert!(!talk.wants_query());
        assert_eq!(talk.receive(br#"{"return": {}}"#, None), Ok(None));
        talk
    }

    fn nic(name: &str, mac: &str) -> Value {
        json!({
            "name": name, "promiscuous": false, "main-mac": mac, "unicast": "normal", "multicast": "normal",
            "broadcast-allowed": true, "multicast-overflow": false, "unicast-overflow": false,
            "unicast-table": ["52:54:00:00:00:07"], "multicast-table": ["33:33:00:00:00:01", "01:00:5e:00:00:01"],
            "vlan": "all", "vlan-table": []
        })
    }

    fn answer(talk: &mut Conversation, nics: Value) -> Result<Option<RxFilter>, QmpFault> {
        talk.query();
        talk.receive(json!({ "return": nics }).to_string().as_bytes(), Some(MAC))
    }

    #[test]
    fn the_filter_is_asked_for_once_at_the_start_and_once_after_events() {
        let mut talk = ready(None);
        assert!(talk.wants_query());
        let filter = answer(&mut talk, json!([nic("net0", "52:54:00:00:00:09")])).unwrap().unwrap();
        assert_eq!(filter.mac, [0x52, 0x54, 0, 0, 0, 9]);
        assert_eq!(filter.unicast, [[0x52, 0x54, 0, 0, 0, 7]]);
        assert_eq!(filter.multicast.unwrap().len(), 2);
        assert!(!talk.wants_query());
        for _ in 0..1000 {
            talk.receive(br#"{"event": "NIC_RX_FILTER_CHANGED", "data": {"name": "net0"}}"#, None).unwrap();
        }
        assert!(talk.wants_query());
        talk.take_outgoing();
        talk.query();
        talk.query();
        assert_eq!(
            talk.take_outgoing(),
            b"{\"arguments\":{\"name\":\"net0\"},\"execute\":\"query-rx-filter\"}\n",
            "one query, by the name that was found"
        );
        assert!(!talk.wants_query());
    }

    #[test]
    fn a_suspicion_is_followed_up_once_the_monitor_is_ready() {
        let mut talk = Conversation::new(None);
        talk.suspect();
        assert!(!talk.wants_query());
        let mut talk = ready(None);
        answer(&mut talk, json!([nic("net0", "52:54:00:00:00:09")])).unwrap();
        talk.suspect();
        assert!(talk.wants_query());
    }

    #[test]
    fn the_port_finds_its_nic_by_name_or_by_address() {
        let both = json!([nic("a", "52:54:00:00:00:05"), nic("b", "52:54:00:00:00:01")]);
        assert_eq!(answer(&mut ready(None), both.clone()).unwrap().unwrap().name, "b");
        assert_eq!(answer(&mut ready(Some("a")), both.clone()).unwrap().unwrap().name, "a");
        assert!(matches!(answer(&mut ready(Some("c")), both), Err(QmpFault::NoNic(_))));
        let strangers = json!([nic("a", "52:54:00:00:00:05"), nic("b", "52:54:00:00:00:06")]);
        assert!(matches!(answer(&mut ready(None), strangers), Err(QmpFault::NoNic(_))));
    }

    #[test]
    fn whatever_cannot_be_listed_is_all_groups() {
        for (field, value) in
            [("promiscuous", json!(true)), ("multicast", json!("all")), ("multicast-overflow", json!(true))]
        {
            let mut nic = nic("a", "52:54:00:00:00:01");
            nic[field] = value;
            assert_eq!(answer(&mut ready(None), json!([nic])).unwrap().unwrap().multicast, None, "{field}");
        }
    }

    #[test]
    fn nonsense_ends_the_conversation_with_a_reason() {
        assert!(matches!(Conversation::new(None).receive(b"hello", None), Err(QmpFault::Syntax(_))));
        assert_eq!(Conversation::new(None).receive(b"{}", None), Err(QmpFault::Greeting));
        let mut broken = nic("a", "52:54:00:00:00:01");
        broken["multicast-table"] = json!(["x"]);
        assert!(matches!(answer(&mut ready(None), json!([broken])), Err(QmpFault::Answer(_))));
        assert!(matches!(answer(&mut ready(None), json!({"a": 1})), Err(QmpFault::Answer(_))));
        let mut talk = ready(None);
        talk.query();
        let refused = talk.receive(br#"{"error": {"class": "GenericError", "desc": "no such NIC"}}"#, None);
        assert_eq!(refused.unwrap_err().to_string(), "query-rx-filter: no such NIC");
    }
}
