//! What operators do to the FDB, and what they ask of it.

use super::Plane;
use super::addresses::EntryKey;
use super::port::{Port, SwitchPlane};
use super::view::port_name;
use crate::api::Refusal;
use crate::api::view::{FdbFilter, FdbSpec, FdbView, OutputView, StepView, TraceView};
use std::sync::Arc;
use switch::{EntryKind, EntryKinds, FdbEntry, Flush, Form, Origin, PortId, UnicastMac, Verdict, Vlan};

/// A filter whose names and words are understood.
struct Chosen {
    switches: Vec<Arc<SwitchPlane>>,
    port: Option<Arc<Port>>,
    vlan: Option<Vlan>,
    mac: Option<UnicastMac>,
    kind: Option<EntryKind>,
}

impl Chosen {
    fn matches(&self, entry: &FdbEntry) -> bool {
        self.port.as_ref().is_none_or(|port| port.id == entry.port)
            && self.vlan.is_none_or(|vlan| entry.vlan == Some(vlan))
            && self.mac.is_none_or(|mac| entry.mac == mac)
            && self.kind.is_none_or(|kind| entry.kind == kind)
    }
}

impl Plane {
    pub(super) fn fdb_list(&self, filter: &FdbFilter) -> Result<Vec<FdbView>, Refusal> {
        let chosen = self.chosen(filter)?;
        let now = self.origin.now();
        let mut views = Vec::new();
        for switch in &chosen.switches {
            let ports = switch.ports.load();
            let entries = switch.bridge.entries(now);
            views.extend(entries.iter().filter(|entry| chosen.matches(entry)).map(|entry| FdbView {
                switch: switch.name.clone(),
                mac: entry.mac.to_string(),
                port: port_name(&ports, entry.port),
                vlan: entry.vlan.map(Vlan::get),
                kind: entry.kind.name().into(),
                why: why(entry).into(),
                age_ms: entry.age_ms,
            }));
        }
        Ok(views)
    }

    pub(super) fn fdb_add(&self, spec: &FdbSpec) -> Result<(), Refusal> {
        let port = self.named_port(&spec.port)?;
        let mac = mac(&spec.mac)?;
        let kind = match spec.kind.as_deref() {
            None => EntryKind::Static,
            Some(word) => kind(word)
                .filter(|kind| *kind != EntryKind::Learned)
                .ok_or_else(|| Refusal::Invalid(format!("kind {word:?} is not static, sticky or dynamic")))?,
        };
        let knows_vlans = port.switch.bridge.config().tagging.is_some();
        let vlan = match spec.vlan {
            Some(_) if !knows_vlans => {
                return Err(Refusal::Invalid(format!("switch {} knows no VLANs", port.switch.name)));
            }
            Some(id) => Some(vlan(id)?),
            None if knows_vlans => {
                let native = port.config.load().settings.vlans.native();
                let none = || Refusal::Invalid(format!("port {} has no native VLAN: name one", port.name));
                Some(native.ok_or_else(none)?)
            }
            None => None,
        };
        let key: EntryKey = (mac, vlan);
        let mut operator = port.switch.operator_entries.lock();
        let added =
            port.switch.bridge.add_entry(mac, vlan, port.id, kind, Origin::Operator, self.origin.now());
        added.map_err(|error| Refusal::Invalid(format!("{mac}: {error}")))?;
        operator.insert(key, port.id);
        drop(operator);
        self.uplinks.changed();
        Ok(())
    }

    pub(super) fn fdb_flush(&self, filter: &FdbFilter) -> Result<usize, Refusal> {
        let chosen = self.chosen(filter)?;
        let kinds = match (chosen.kind, chosen.mac) {
            (Some(kind), _) => EntryKinds::from_iter([kind]),
            (None, Some(_)) => EntryKinds::ALL,
            (None, None) => EntryKinds::AGEING,
        };
        let flush = Flush {
            port: chosen.port.as_ref().map(|port| port.id),
            vlan: chosen.vlan,
            kinds,
            mac: chosen.mac,
            // What the configuration and the guests say is theirs to change.
            owned: false,
        };
        let mut gone = 0;
        for switch in &chosen.switches {
            gone += switch.bridge.flush(&flush) as usize;
            let now = self.origin.now();
            let mut operator = switch.operator_entries.lock();
            operator.retain(|(mac, vlan), port| {
                switch.bridge.entry(*mac, *vlan, now).is_some_and(|entry| entry.port == *port)
            });
        }
        self.uplinks.changed();
        Ok(gone)
    }

    pub(super) fn trace_frame(&self, name: &str, frame: &[u8]) -> Result<TraceView, Refusal> {
        let port = self.named_port(name)?;
        let bridge = &port.switch.bridge;
        let explanation = bridge.view().explain(port.id, frame, self.origin.now());
        let ports = port.switch.ports.load();
        let output =
            |port: PortId, form: &str| OutputView { port: port_name(&ports, port), form: form.into() };
        let form = |form| match form {
            Form::AsIs => "as-is",
            Form::Untagged => "untagged",
            Form::Tagged => "tagged",
        };
        let (verdict, reason) = match explanation.decision.verdict {
            Verdict::Unicast(_) => ("unicast", None),
            Verdict::Flood => ("flood", None),
            Verdict::Answer => ("answer", None),
            Verdict::Drop(reason) => ("drop", Some(reason.name().into())),
        };
        Ok(TraceView {
            port: port.name.clone(),
            switch: port.switch.name.clone(),
            frame: crate::trace::summary(frame, frame.len() as u32),
            vlan: explanation.decision.vlan.map(Vlan::get),
            steps: explanation
                .steps
                .into_iter()
                .map(|step| StepView { rule: step.rule.into(), finding: step.finding, passed: step.passed })
                .collect(),
            verdict: verdict.into(),
            drop: reason,
            outputs: explanation.outputs.iter().map(|(port, how)| output(*port, form(*how))).collect(),
            left_out: explanation.refused.iter().map(|(port, why)| output(*port, why)).collect(),
        })
    }

    fn chosen(&self, filter: &FdbFilter) -> Result<Chosen, Refusal> {
        let port = filter.port.as_deref().map(|name| self.named_port(name)).transpose()?;
        let mut switches = self.chosen_switches(filter.switch.as_deref())?;
        if let Some(port) = &port {
            if !switches.iter().any(|switch| Arc::ptr_eq(switch, &port.switch)) {
                return Err(Refusal::Invalid(format!(
                    "port {} is on switch {}",
                    port.name, port.switch.name
                )));
            }
            switches = vec![Arc::clone(&port.switch)];
        }
        let kind = filter.kind.as_deref().map(|word| {
            kind(word).ok_or_else(|| {
                Refusal::Invalid(format!("kind {word:?} is not learned, dynamic, sticky or static"))
            })
        });
        Ok(Chosen {
            switches,
            port,
            vlan: filter.vlan.map(vlan).transpose()?,
            mac: filter.mac.as_deref().map(mac).transpose()?,
            kind: kind.transpose()?,
        })
    }
}

fn mac(text: &str) -> Result<UnicastMac, Refusal> {
    text.parse().map_err(|error| Refusal::Invalid(format!("mac {text:?}: {error}")))
}

fn vlan(id: u16) -> Result<Vlan, Refusal> {
    Vlan::new(id).ok_or_else(|| Refusal::Invalid(format!("vlan {id} is not 1 to 4094")))
}

fn kind(word: &str) -> Option<EntryKind> {
    EntryKind::ALL.into_iter().find(|kind| kind.name() == word)
}

/// Why an entry is there, in words.
fn why(entry: &FdbEntry) -> &'static str {
    match entry.origin {
        Origin::Frame => "seen in a frame",
        Origin::Configuration => "configuration",
        Origin::Operator => "added by an operator",
        Origin::Guest => "the guest says so",
    }
}
