//! Captures: an answer that goes on, as pcapng, until the client has enough.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::Response;
use futures_util::stream;
use serde::Deserialize;

use super::problem::{Asked, apart};
use super::server::Lasting;
use super::view::Problem;
use super::{Plane, Refusal};
use crate::capture::{CaptureRequest, PcapngStream};

/// What to capture.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CaptureQuery {
    /// Names of ports with commas between them; without it, all ports, also those that come later.
    #[serde(default)]
    ports: String,
    /// Expression in the words of pcap-filter(7) that frames must match; without it, all frames.
    #[serde(default)]
    filter: String,
    /// Bytes kept of each frame; without it, all.
    #[serde(default)]
    snap_len: u32,
    /// `true`: only frames that are dropped.
    #[serde(default)]
    drops_only: bool,
    /// Frames a second at most; without it, 100000. 0: as many as the client takes, at the expense of the traffic where
    /// processors are few.
    #[serde(default = "rate_max")]
    rate_max: u32,
}

/// What one processor follows with time to spare.
fn rate_max() -> u32 {
    100_000
}

/// Frames as they pass ports, as pcapng: an interface for each port, the direction in `epb_flags`, and for a dropped frame
/// the comment `drop: REASON`. Frames that the client is too slow for, or above `rate-max`, are left out and counted in `epb_dropcount` and
/// `isb_ifdrop`. The answer ends when the client closes the connection.
#[utoipa::path(
    get,
    path = "/api/capture",
    params(CaptureQuery),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/x-pcapng"),
        (status = 404, body = Problem),
        (status = 422, body = Problem)
    )
)]
pub(super) async fn capture(
    State(plane): State<Arc<dyn Plane>>,
    Asked(query): Asked<CaptureQuery>,
) -> Result<Response, Refusal> {
    let CaptureQuery { ports, filter, snap_len, drops_only, rate_max } = query;
    let ports: Vec<String> = ports.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let blocks = apart(move || {
        let request = CaptureRequest { ports, snap_len, filter, drops_only, rate_max };
        let started = plane.capture(&request)?;
        tracing::info!(ports = request.ports.join(","), filter = request.filter, "capture started");
        PcapngStream::new(started).map_err(|error| Refusal::Failed(error.to_string()))
    })
    .await?;
    // Dropped with the answer when the client goes, and the capture with it.
    let blocks = stream::unfold(blocks, async |mut blocks| Some((blocks.next().await, blocks)));
    let mut answer = Response::new(Body::from_stream(blocks));
    answer.extensions_mut().insert(Lasting);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-pcapng"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"ringway.pcapng\""));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}
