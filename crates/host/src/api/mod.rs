//! The control API: HTTP/JSON on a unix socket, described by OpenAPI at `/api/openapi.json`.
//!
//! The API only reads. What it shows comes from a [`Plane`], which the data plane implements; nothing here knows how
//! frames move. `view` holds the JSON bodies, `server` the sockets, `client` the other end, which the command line uses.

pub mod client;
pub mod server;
pub mod view;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::capture::{CaptureRequest, CaptureStream};
use crate::config::Config;
use view::{
    ChangeView, FdbFilter, FdbSpec, FdbView, GroupView, PortView, Problem, Status, SwitchView, TraceView,
};

/// What the control plane asks of the data plane. Every call is a snapshot, made on the control thread; it may take a
/// lock for a short while and must not wait for a guest.
pub trait Plane: Send + Sync + 'static {
    /// The state of the whole.
    fn status(&self) -> Status;
    /// All ports, in the order of the configuration.
    fn ports(&self) -> Vec<PortView>;
    /// One port; `None` if there is none of that name.
    fn port(&self, name: &str) -> Option<PortView>;
    /// All switches, in the order of the configuration.
    fn switches(&self) -> Vec<SwitchView> {
        self.status().switches
    }
    /// FDB entries. A filter that names what does not exist is refused.
    fn fdb(&self, filter: &FdbFilter) -> Result<Vec<FdbView>, Refusal>;
    /// Adds an FDB entry, or changes the operator's own one.
    fn add_fdb(&self, entry: &FdbSpec) -> Result<(), Refusal>;
    /// Removes the entries that a filter names: every kind if it has a MAC address, else those that were learned or are
    /// dynamic, unless it names a kind. How many.
    fn flush_fdb(&self, filter: &FdbFilter) -> Result<usize, Refusal>;
    /// Multicast groups with listeners, of one switch or all.
    fn groups(&self, switch: Option<&str>) -> Result<Vec<GroupView>, Refusal>;
    /// Opens a port again that a guard has shut.
    fn reopen(&self, port: &str) -> Result<(), Refusal>;
    /// What the switch would do with a frame (from its Ethernet header on) that came in by a port. Changes nothing.
    fn trace(&self, port: &str, frame: &[u8]) -> Result<TraceView, Refusal>;
    /// Starts a capture; records wait in the stream, bounded, until they are taken.
    fn capture(&self, request: &CaptureRequest) -> Result<Arc<CaptureStream>, Refusal>;
    /// The configuration that runs.
    fn config(&self) -> Arc<Config>;
    /// Goes over to another configuration. It takes effect as a whole, or the old one stays: then the refusal says why.
    fn apply(&self, config: Config) -> Result<ChangeView, Refusal>;
    /// Stops all workers, closes all sessions and removes the sockets of the ports. Called once, at the end.
    fn stop(&self);
}

/// Why the data plane did not do what was asked. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something of that name does not exist.
    #[error("{0}")]
    NotFound(String),
    /// What was asked makes no sense, or contradicts what there is.
    #[error("{0}")]
    Invalid(String),
    /// The host could not do it.
    #[error("{0}")]
    Failed(String),
}

/// The plane as handlers share it.
type Shared = State<Arc<dyn Plane>>;

#[derive(OpenApi)]
#[openapi(info(
    title = "Ringway control API",
    description = "State of the switches, ports and workers of a running ringway."
))]
struct Description;

fn described() -> OpenApiRouter<Arc<dyn Plane>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(status))
        .routes(routes!(ports))
        .routes(routes!(port))
        .routes(routes!(switches))
        .routes(routes!(fdb))
}

/// The OpenAPI description of all routes.
pub fn description() -> utoipa::openapi::OpenApi {
    described().split_for_parts().1
}

/// All routes, answering from `plane`.
pub fn router(plane: Arc<dyn Plane>) -> axum::Router {
    let (router, description) = described().split_for_parts();
    router
        .route("/api/openapi.json", get(async move || Json(description.clone())))
        .fallback(async || {
            problem(StatusCode::NOT_FOUND, "there is no such path; see /api/openapi.json".into())
        })
        .with_state(plane)
}

fn problem(status: StatusCode, error: String) -> Response {
    (status, Json(Problem { error })).into_response()
}

/// State of the whole program.
#[utoipa::path(get, path = "/api/status", responses((status = 200, body = Status)))]
async fn status(State(plane): Shared) -> Json<Status> {
    Json(plane.status())
}

/// All ports.
#[utoipa::path(get, path = "/api/ports", responses((status = 200, body = Vec<PortView>)))]
async fn ports(State(plane): Shared) -> Json<Vec<PortView>> {
    Json(plane.ports())
}

/// One port.
#[utoipa::path(
    get,
    path = "/api/ports/{name}",
    params(("name" = String, Path, description = "Name of the port")),
    responses((status = 200, body = PortView), (status = 404, body = Problem))
)]
async fn port(State(plane): Shared, Path(name): Path<String>) -> Response {
    match plane.port(&name) {
        Some(port) => Json(port).into_response(),
        None => problem(StatusCode::NOT_FOUND, format!("there is no port {name:?}")),
    }
}

/// All switches.
#[utoipa::path(get, path = "/api/switches", responses((status = 200, body = Vec<SwitchView>)))]
async fn switches(State(plane): Shared) -> Json<Vec<SwitchView>> {
    Json(plane.status().switches)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FdbQuery {
    /// Name of a switch; without it, the entries of all switches.
    switch: Option<String>,
}

/// FDB entries.
#[utoipa::path(
    get,
    path = "/api/fdb",
    params(FdbQuery),
    responses((status = 200, body = Vec<FdbView>), (status = 404, body = Problem))
)]
async fn fdb(State(plane): Shared, Query(query): Query<FdbQuery>) -> Response {
    let known = |name: &str| plane.status().switches.iter().any(|switch| switch.name == name);
    match query.switch.as_deref() {
        Some(name) if !known(name) => problem(StatusCode::NOT_FOUND, format!("there is no switch {name:?}")),
        switch => Json(plane.fdb(switch)).into_response(),
    }
}
