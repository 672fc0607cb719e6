//! The other end of the control API: one request, one answer, over the unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Response, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use super::view::Problem;

/// Most bytes of an answer that are read.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Longest wait for a whole answer to a question.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest wait until a change is made.
pub const CHANGE_TIME_MAX: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error(
        "no ringway answers on {} (start one with `ringway run CONFIG`, or name its control socket with --socket)",
        socket.display()
    )]
    NoDaemon {
        /// The socket that was tried.
        socket: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The daemon said no, and why.
    #[error("{}", words(.0))]
    Refused(Problem),
    /// What came back is no answer.
    #[error("{} does not speak the control API: {what}", socket.display())]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The daemon did not answer in time.
    #[error("no answer from {} within {waited:?}", socket.display())]
    Late {
        /// The socket.
        socket: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
}

/// A problem in words: every mistake on a line of its own.
fn words(problem: &Problem) -> String {
    let mut text = problem.error.clone();
    for mistake in &problem.mistakes {
        let line = mistake.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        text += &format!("\n  {line}{}: {}; accepted: {}", mistake.field, mistake.what, mistake.accepted);
    }
    text
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: Option<serde_json::Value>,
    only_new: bool,
    time_max: Duration,
}

impl<'a> Ask<'a> {
    /// A question: `path` such as `/api/status`, with its query.
    pub fn get(path: &'a str) -> Ask<'a> {
        Ask { method: Method::GET, path, body: None, only_new: false, time_max: ANSWER_TIME_MAX }
    }

    /// A change, with its JSON body if it has one.
    pub fn change(method: Method, path: &'a str, body: Option<serde_json::Value>) -> Ask<'a> {
        Ask { method, path, body, only_new: false, time_max: CHANGE_TIME_MAX }
    }

    /// Refused if the thing exists already.
    #[must_use]
    pub fn only_new(mut self) -> Ask<'a> {
        self.only_new = true;
        self
    }

    fn request(&self) -> Result<hyper::Request<Full<Bytes>>, String> {
        let mut request =
            hyper::Request::builder().method(&self.method).uri(self.path).header(header::HOST, "ringway");
        if self.only_new {
            request = request.header(header::IF_NONE_MATCH, "*");
        }
        let body = match &self.body {
            Some(body) => {
                let merge = self.method == Method::PATCH;
                let kind = if merge { "application/merge-patch+json" } else { "application/json" };
                request = request.header(header::CONTENT_TYPE, kind);
                serde_json::to_vec(body).map_err(|error| error.to_string())?
            }
            None => Vec::new(),
        };
        request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())
    }
}

/// Asks for `path` (such as `/api/status`) on the control socket and reads the JSON answer.
pub fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    send(socket, &Ask::get(path))
}

/// Sends a request and reads the JSON answer; an answer without a body is read as `null`.
pub fn send<T: DeserializeOwned>(socket: &Path, ask: &Ask<'_>) -> Result<T, ClientError> {
    let no_daemon = |source| ClientError::NoDaemon { socket: socket.to_path_buf(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_daemon)?;
    runtime.block_on(async {
        match tokio::time::timeout(ask.time_max, read(socket, ask)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Late { socket: socket.to_path_buf(), waited: ask.time_max }),
        }
    })
}

async fn read<T: DeserializeOwned>(socket: &Path, ask: &Ask<'_>) -> Result<T, ClientError> {
    let garbled = |what: String| ClientError::Garbled { socket: socket.to_path_buf(), what };
    let answer = open(socket, ask).await?;
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| garbled(error.to_string()))?.to_bytes();
    let json = if body.is_empty() { &b"null"[..] } else { &body[..] };
    serde_json::from_slice(json).map_err(|error| garbled(error.to_string()))
}

/// Sends a request; the answer is a success, and its body is still to be read. For bodies that go on and on; no time
/// bound. To be awaited on a tokio runtime with I/O enabled.
pub async fn open(socket: &Path, ask: &Ask<'_>) -> Result<Response<Incoming>, ClientError> {
    let garbled = |what: String| ClientError::Garbled { socket: socket.to_path_buf(), what };
    let connected = tokio::net::UnixStream::connect(socket).await;
    let stream =
        connected.map_err(|source| ClientError::NoDaemon { socket: socket.to_path_buf(), source })?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| garbled(error.to_string()))?;
    tokio::spawn(connection);
    let request = ask.request().map_err(garbled)?;
    let answer = sender.send_request(request).await.map_err(|error| garbled(error.to_string()))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| garbled(error.to_string()))?.to_bytes();
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(ClientError::Refused(problem)),
        Err(_) => Err(garbled(format!("status {status}"))),
    }
}
