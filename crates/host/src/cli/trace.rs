//! `ringway trace`: what the switch would do with a frame, step by step.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use hyper::Method;

use super::Output;
use super::show::json;
use crate::api::client::{self, Ask};
use crate::api::trace::TraceRequest;
use crate::api::view::{OutputView, TraceView};
use crate::trace::first_frame;

/// Most bytes of a file that are read; its first packet is near its beginning.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What to trace.
#[derive(Args, Debug)]
pub(crate) struct TraceArguments {
    /// Name of the port that the frame comes in by
    port: String,
    /// The frame: hexadecimal bytes from the Ethernet header on; @FILE, the first packet of a pcap or pcapng file or raw
    /// bytes; or words: src=MAC dst=MAC svlan=N vlan=N, arp=IP,IP or arp-reply=IP,IP or ip=IP,IP or ip6=IP,IP with udp=PORT,PORT
    /// or tcp=PORT,PORT or icmp, type=0x.., len=N. Without src, the port's own address
    #[arg(required = true)]
    frame: Vec<String>,
    #[command(flatten)]
    output: Output,
}

/// Asks the running ringway and prints the decision.
pub(crate) fn trace(socket: &Path, arguments: &TraceArguments) -> anyhow::Result<String> {
    let frame = match arguments.frame.as_slice() {
        [only] => match only.strip_prefix('@') {
            Some(file) => of_file(Path::new(file))?,
            None => only.clone(),
        },
        words => words.join(" "),
    };
    let request = TraceRequest { port: arguments.port.clone(), frame };
    let ask = Ask::change(Method::POST, "/api/trace", Some(serde_json::to_value(request)?));
    let trace: TraceView = client::send(socket, &ask)?;
    if arguments.output.json { json(&trace) } else { Ok(tree(&trace)) }
}

/// The frame in a file, in hexadecimal.
fn of_file(path: &Path) -> anyhow::Result<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut contents)?;
        Ok(contents)
    };
    let contents = read().with_context(|| path.display().to_string())?;
    let frame = first_frame(&contents).with_context(|| path.display().to_string())?;
    Ok(frame.iter().fold(String::with_capacity(frame.len() * 2), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(digits, "{byte:02x}");
        digits
    }))
}

/// The decision as a tree: the frame, each rule with what it found, and where the frame goes.
fn tree(trace: &TraceView) -> String {
    let vlan = trace.vlan.map(|vlan| format!(", VLAN {vlan}")).unwrap_or_default();
    let mut text = format!("{} on {}{vlan}: {}\n", trace.port, trace.switch, trace.frame);
    let width = trace.steps.iter().map(|step| step.rule.chars().count()).max().unwrap_or(0);
    for step in &trace.steps {
        let mark = if step.passed { '✓' } else { '✗' };
        text += &format!("├─ {mark} {:<width$}  {}\n", step.rule, step.finding);
    }
    let verdict = match &trace.drop {
        Some(reason) => format!("{}: {reason}", trace.verdict),
        None => trace.verdict.clone(),
    };
    text += &format!("└─ {verdict}\n");
    let outputs = trace.outputs.iter().map(|output| ("→", output));
    let left_out = trace.left_out.iter().map(|output| ("✗", output));
    let width = trace
        .outputs
        .iter()
        .chain(&trace.left_out)
        .map(|output| output.port.chars().count())
        .max()
        .unwrap_or(0);
    let mut ports: Vec<(&str, &OutputView)> = outputs.chain(left_out).collect();
    let last = ports.pop();
    for (mark, output) in ports {
        text += &format!("   ├─ {mark} {:<width$}  {}\n", output.port, output.form);
    }
    if let Some((mark, output)) = last {
        text += &format!("   └─ {mark} {:<width$}  {}\n", output.port, output.form);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::StepView;

    #[test]
    fn a_decision_is_a_tree() {
        let step = |rule: &str, finding: &str, passed| StepView {
            rule: rule.into(),
            finding: finding.into(),
            passed,
        };
        let output = |port: &str, form: &str| OutputView { port: port.into(), form: form.into() };
        let mut trace = TraceView {
            port: "web".into(),
            switch: "lan".into(),
            frame: "a > b (60 B)".into(),
            vlan: Some(10),
            steps: vec![step("source", "fine", true), step("vlan-ingress", "in VLAN 10", true)],
            verdict: "flood".into(),
            drop: None,
            outputs: vec![output("db", "tagged"), output("uplink", "as-is")],
            left_out: vec![output("x", "isolated")],
        };
        let expected = "\
web on lan, VLAN 10: a > b (60 B)
├─ ✓ source        fine
├─ ✓ vlan-ingress  in VLAN 10
└─ flood
   ├─ → db      tagged
   ├─ → uplink  as-is
   └─ ✗ x       isolated
";
        assert_eq!(tree(&trace), expected);
        trace = TraceView {
            steps: vec![step("source", "is zero", false)],
            verdict: "drop".into(),
            drop: Some("invalid-source".into()),
            vlan: None,
            outputs: Vec::new(),
            left_out: Vec::new(),
            ..trace
        };
        assert_eq!(tree(&trace), "web on lan: a > b (60 B)\n├─ ✗ source  is zero\n└─ drop: invalid-source\n");
    }
}
