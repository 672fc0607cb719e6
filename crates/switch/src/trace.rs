//! A decision explained, rule by rule.
//!
//! The explanation comes from the very code that decides: the rules in [`crate::view`] report to a [`Witness`]. The one
//! of the data path hears nothing and costs nothing; the [`Recorder`] writes everything down, and the rules change
//! nothing for it.

use crate::frame::Head;
use crate::types::{Now, PortId, Verdict};
use crate::view::{Decision, Form, View};

/// Ports that [`Explanation::refused`] names at most.
pub const REFUSED_MAX: usize = 64;

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The rule, in one word.
    pub rule: &'static str,
    /// What it found, in a few.
    pub finding: String,
    /// False if the rule ended the frame's way.
    pub passed: bool,
}

/// How a frame would fare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was found, in the order of the rules.
    pub steps: Vec<Step>,
    /// What comes of it.
    pub decision: Decision,
    /// The ports that the frame leaves by (or, for an answer, that the answer does), and in which form.
    pub outputs: Vec<(PortId, Form)>,
    /// Ports that do not get a frame that goes to many, and why: the first [`REFUSED_MAX`] of them.
    pub refused: Vec<(PortId, &'static str)>,
}

/// Who watches a decision.
pub(crate) trait Witness {
    /// The decision has effects: it learns, charges, shuts.
    const ACTS: bool;

    /// A rule found something. `finding` is asked for only by a witness that wants it.
    fn note(&mut self, rule: &'static str, passed: bool, finding: impl FnOnce() -> String);
}

/// The data path.
pub(crate) struct Nobody;

impl Witness for Nobody {
    const ACTS: bool = true;

    #[inline(always)]
    fn note(&mut self, _: &'static str, _: bool, _: impl FnOnce() -> String) {}
}

/// Writes everything down.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) steps: Vec<Step>,
}

impl Witness for Recorder {
    const ACTS: bool = false;

    fn note(&mut self, rule: &'static str, passed: bool, finding: impl FnOnce() -> String) {
        self.steps.push(Step { rule, finding: finding(), passed });
    }
}

impl View<'_> {
    /// Says how a frame with these first bytes would fare, and changes nothing. In a full FDB the frame itself might
    /// cost another station its entry; that is not foreseen.
    #[must_use]
    pub fn explain(&self, in_port: PortId, bytes: &[u8], now: Now) -> Explanation {
        let mut recorder = Recorder::default();
        let ingress = self.ingress(in_port, now);
        let (mut outputs, mut refused) = (Vec::new(), Vec::new());
        let decision = match Head::parse(bytes) {
            Err(reason) => {
                recorder.note("frame", false, || format!("{} bytes are no Ethernet header", bytes.len()));
                Decision::drop(reason)
            }
            Ok(head) => {
                recorder.note("frame", true, || describe(&head));
                let decision = self.judge(&ingress, &head, &mut recorder);
                match decision.verdict {
                    Verdict::Unicast(port) => outputs.push((port, self.form(port, &decision))),
                    Verdict::Answer => outputs.push((in_port, self.form(in_port, &decision))),
                    Verdict::Drop(_) => {}
                    Verdict::Flood => {
                        let reach = self.reach(in_port, &head, &decision, now);
                        for (port, _) in self.table.ports() {
                            match reach.refusal(port) {
                                None => outputs.push((port, self.form(port, &decision))),
                                Some(why) if refused.len() < REFUSED_MAX => refused.push((port, why)),
                                Some(_) => {}
                            }
                        }
                    }
                }
                decision
            }
        };
        Explanation { steps: recorder.steps, decision, outputs, refused }
    }
}

fn describe(head: &Head<'_>) -> String {
    let ethernet = &head.ethernet;
    let tag = match ethernet.tag {
        None => "untagged".to_owned(),
        Some(tag) => format!("tag {:04x} VID {}", tag.tagging.tpid(), tag.vid()),
    };
    format!("{} to {}, {tag}, type {:04x}", ethernet.src, ethernet.dst, ethernet.ethertype)
}
