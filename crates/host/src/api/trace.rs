//! Traces: what the switch would do with a frame, and why.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::{Body, apart};
use super::view::{Problem, TraceView};
use super::{Plane, Refusal};
use crate::trace::frame_of;

/// A frame to trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TraceRequest {
    /// Name of the port that it comes in by.
    pub port: String,
    /// Its bytes in hexadecimal from the Ethernet header on, or words such as
    /// `dst=52:54:00:00:00:02 vlan=10 ip=10.0.0.1,10.0.0.2 udp=1000,53`. Words without `src` mean the port's own address.
    pub frame: String,
}

/// What the switch would do with a frame that came in by a port. Changes nothing, not even what is learned.
#[utoipa::path(
    post,
    path = "/api/trace",
    request_body = TraceRequest,
    responses(
        (status = 200, body = TraceView),
        (status = 404, body = Problem),
        (status = 422, body = Problem)
    )
)]
pub(super) async fn trace(
    State(plane): State<Arc<dyn Plane>>,
    Body(request): Body<TraceRequest>,
) -> Result<Json<TraceView>, Refusal> {
    apart(move || {
        let TraceRequest { port: name, frame } = &request;
        let Some(port) = plane.port(name) else {
            return Err(Refusal::NotFound(format!("there is no port {name:?}")));
        };
        let own = port.mac.and_then(|mac| mac.parse().ok());
        let frame = frame_of(frame, own).map_err(|error| Refusal::Invalid(error.to_string()))?;
        plane.trace(name, &frame).map(Json)
    })
    .await
}
