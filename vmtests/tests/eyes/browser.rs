//! Headless Chromium, spoken to over its own protocol on one socket (DevTools protocol 1.3, `--remote-debugging-pipe`).
//!
//! Messages are JSON with a zero byte behind each. Chromium reads them from descriptor 3 and writes its own to 4; here both
//! are the two directions of one socket, so no port is opened and the browser can sit in a network namespace of its own.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vmtests::process::Peer;

/// Longest wait for one answer of the browser.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

const START: &str = r#"exec /usr/lib/chromium/chromium --headless=new --no-sandbox --disable-gpu --hide-scrollbars \
  --remote-debugging-pipe --no-first-run --disable-background-networking --disable-component-update --disable-sync \
  --disable-breakpad --disable-crash-reporter --user-data-dir="$0" --window-size=1440,1000 about:blank 3<&0 4>&0 0</dev/null"#;

/// A browser with one open page.
pub(crate) struct Browser {
    /// Ends with this value.
    _peer: Peer,
    socket: BufReader<UnixStream>,
    session: String,
    next: u64,
    /// What the page did wrong: uncaught exceptions, messages of level error, breaches of the security policy.
    pub(crate) complaints: Vec<String>,
    /// Addresses that the page asked for.
    pub(crate) requests: Vec<String>,
}

impl Browser {
    /// Starts Chromium. `shell` is a command that runs `sh`, with its arguments to follow, where the browser lies.
    pub(crate) fn start(mut shell: Command, directory: &Path) -> anyhow::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(ANSWER_LIMIT))?;
        let profile = directory.join("browser");
        shell.args(["-c", START]).arg(profile).stdin(Stdio::from(OwnedFd::from(theirs)));
        let peer = Peer::start("chromium", directory, &mut shell)?;
        let mut browser = Self {
            _peer: peer,
            socket: BufReader::new(ours),
            session: String::new(),
            next: 0,
            complaints: Vec::new(),
            requests: Vec::new(),
        };
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attached = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attached)?;
        browser.session = attached["sessionId"].as_str().context("no session")?.to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(browser)
    }

    /// Goes to `address` and waits until it is loaded.
    pub(crate) fn open(&mut self, address: &str) -> anyhow::Result<()> {
        let gone = self.call("Page.navigate", json!({ "url": address }))?;
        ensure!(gone["errorText"].is_null(), "{address}: {}", gone["errorText"]);
        self.wait("the page", "document.readyState === 'complete'", Duration::from_secs(20))
    }

    /// The value of an expression in the page.
    pub(crate) fn value(&mut self, expression: &str) -> anyhow::Result<Value> {
        let question = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", question)?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].clone())
    }

    /// The value of an expression that is a text.
    pub(crate) fn text(&mut self, expression: &str) -> anyhow::Result<String> {
        let value = self.value(expression)?;
        Ok(value.as_str().with_context(|| format!("{expression} is {value}"))?.to_owned())
    }

    /// Waits until an expression is true.
    pub(crate) fn wait(&mut self, what: &str, expression: &str, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        while self.value(&format!("Boolean({expression})"))? != Value::Bool(true) {
            if Instant::now() > end {
                let body = self.text("document.body.innerText.slice(0, 1500)").unwrap_or_default();
                bail!("{what}: not within {limit:?}; the page says:\n{body}\n{:?}", self.complaints);
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    /// Emulates a screen, and light or dark.
    pub(crate) fn screen(&mut self, width: u32, height: u32, scheme: &str) -> anyhow::Result<()> {
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", screen)?;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features)?;
        Ok(())
    }

    /// A picture of the page, as PNG; the whole page or what is in view.
    pub(crate) fn picture(&mut self, file: &Path, whole: bool) -> anyhow::Result<()> {
        let question = json!({ "format": "png", "captureBeyondViewport": whole });
        let answer = self.call("Page.captureScreenshot", question)?;
        let text = answer["data"].as_str().context("no picture")?;
        std::fs::write(file, base64(text)?).with_context(|| file.display().to_string())
    }

    /// Fails if the page complained, but for what `expected` recognises.
    pub(crate) fn must_be_content(&self, expected: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let complaints: Vec<&String> = self.complaints.iter().filter(|words| !expected(words)).collect();
        ensure!(complaints.is_empty(), "the page complains: {complaints:#?}");
        Ok(())
    }

    /// Fails if the page asked anyone but `origin`.
    pub(crate) fn must_have_asked_only(&self, origin: &str) -> anyhow::Result<()> {
        let own = |address: &&String| {
            !address.starts_with(&format!("{origin}/"))
                && !address.starts_with("data:")
                && *address != "about:blank"
        };
        let foreign: Vec<&String> = self.requests.iter().filter(own).collect();
        ensure!(foreign.is_empty(), "requests to others: {foreign:?}");
        ensure!(self.requests.len() > 5, "no requests were seen: {:?}", self.requests);
        Ok(())
    }

    /// One question to the browser.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> anyhow::Result<Value> {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.socket.get_mut().write_all(&bytes).context("the browser is gone")?;
        loop {
            let message = self.message().with_context(|| method.to_owned())?;
            if message["id"] == id {
                ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                return Ok(message["result"].clone());
            }
            self.note(&message);
        }
    }

    fn message(&mut self) -> anyhow::Result<Value> {
        let mut bytes = Vec::new();
        self.socket.read_until(0, &mut bytes).context("no answer of the browser")?;
        ensure!(
            bytes.pop() == Some(0),
            "the browser has ended:\n{}",
            vmtests::process::tail(&self._peer.log(), 15)
        );
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Keeps what an event says that a test wants to know.
    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.complaints.push(parameters["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if parameters["type"] == "error" => {
                self.complaints.push(parameters["args"].to_string());
            }
            "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
                self.complaints
                    .push(format!("{} {}", parameters["entry"]["text"], parameters["entry"]["url"]));
            }
            "Page.javascriptDialogOpening" => self.complaints.push(format!("a dialogue: {parameters}")),
            "Network.requestWillBeSent" => {
                let address = parameters["request"]["url"].as_str().unwrap_or_default();
                if !self.requests.iter().any(|known| known == address) {
                    self.requests.push(address.to_owned());
                }
            }
            _ => {}
        }
    }
}

/// RFC 4648 §4, which the browser writes pictures in.
fn base64(text: &str) -> anyhow::Result<Vec<u8>> {
    let digit = |letter: u8| match letter {
        b'A'..=b'Z' => Ok(letter - b'A'),
        b'a'..=b'z' => Ok(letter - b'a' + 26),
        b'0'..=b'9' => Ok(letter - b'0' + 52),
        b'+' => Ok(62),
        b'/' => Ok(63),
        _ => bail!("not base64"),
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let mut word = 0u32;
        for (index, letter) in group.iter().enumerate() {
            word |= u32::from(digit(*letter)?) << (18 - 6 * index);
        }
        bytes.extend(&word.to_be_bytes()[1..group.len()]);
    }
    Ok(bytes)
}
