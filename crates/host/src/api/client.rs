//! The other end of the control API: one question, one answer, over the unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use super::view::Problem;

/// Most bytes of an answer that are read.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Longest wait for a whole answer.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

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
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
    /// What came back is no answer.
    #[error("{} does not speak the control API: {what}", socket.display())]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The daemon did not answer in time.
    #[error("no answer from {} within {ANSWER_TIME_MAX:?}", .0.display())]
    Late(PathBuf),
}

/// Asks for `path` (such as `/api/status`) on the control socket and reads the JSON answer.
pub fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    let no_daemon = |source| ClientError::NoDaemon { socket: socket.to_path_buf(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_daemon)?;
    runtime.block_on(async {
        match tokio::time::timeout(ANSWER_TIME_MAX, ask(socket, path)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Late(socket.to_path_buf())),
        }
    })
}

async fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    let garbled = |what: String| ClientError::Garbled { socket: socket.to_path_buf(), what };
    let connected = tokio::net::UnixStream::connect(socket).await;
    let stream =
        connected.map_err(|source| ClientError::NoDaemon { socket: socket.to_path_buf(), source })?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| garbled(error.to_string()))?;
    tokio::spawn(connection);
    let request =
        hyper::Request::get(path).header(hyper::header::HOST, "ringway").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| garbled(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|error| garbled(error.to_string()))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| garbled(error.to_string()))?.to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| garbled(error.to_string()));
    }
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(ClientError::Refused(problem.error)),
        Err(_) => Err(garbled(format!("status {status}"))),
    }
}
