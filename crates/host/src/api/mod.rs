//! The control API: HTTP/JSON on a unix socket, and on TCP where the operator wants it; described by OpenAPI at
//! `/api/openapi.json`.
//!
//! What it shows comes from a [`Plane`], which the data plane implements; nothing here knows how frames move. What it
//! changes goes through [`change::Desired`]: an edited copy of the configuration, checked as a whole, and then one call of
//! [`Plane::apply`]. `view` holds the JSON bodies of answers and `spec` those of the configuration; `auth` says who may
//! do what on TCP; `server` has the sockets, and `client` is the other end, which the command line uses.

pub mod auth;
mod capture;
pub mod change;
pub mod client;
mod disk;
mod fdb;
pub mod problem;
pub mod server;
pub mod spec;
pub mod trace;
pub mod view;

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::{DefaultBodyLimit, FromRef, Path, State};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::IntoResponse as _;
use serde::Deserialize;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::capture::{CaptureRequest, CaptureStream};
use crate::config::Config;
use change::Desired;
use problem::{Asked, apart, problem};
use view::{
    ChangeView, DiskView, FdbFilter, FdbSpec, FdbView, GroupView, PortView, Problem, Status, SwitchView,
    TraceView,
};

/// Most bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a body that is a whole configuration: as many as a file of it may have.
pub const CONFIG_BYTES_MAX: usize = crate::config::FILE_BYTES_MAX as usize;

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
    /// All disks, in the order of the configuration.
    fn disks(&self) -> Vec<DiskView>;
    /// One disk; `None` if there is none of that name.
    fn disk(&self, name: &str) -> Option<DiskView>;
    /// Makes a disk `bytes` large, a multiple of 512 up to [`crate::config::resolved::DISK_BYTES_MAX`], or as large as its
    /// file is now, and tells its guest. The size in bytes from then on.
    fn resize_disk(&self, name: &str, bytes: Option<u64>) -> Result<u64, Refusal>;
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
    /// Stops all workers, closes all sessions and removes the sockets of the ports and disks. Called once, at the end.
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

/// What the handlers of requests share.
#[derive(Clone)]
pub struct Api {
    plane: Arc<dyn Plane>,
    desired: Arc<Desired>,
}

impl Api {
    /// The API of a plane and of the configuration that it runs.
    pub fn new(plane: Arc<dyn Plane>, desired: Arc<Desired>) -> Api {
        Api { plane, desired }
    }
}

impl FromRef<Api> for Arc<dyn Plane> {
    fn from_ref(api: &Api) -> Arc<dyn Plane> {
        Arc::clone(&api.plane)
    }
}

impl FromRef<Api> for Arc<Desired> {
    fn from_ref(api: &Api) -> Arc<Desired> {
        Arc::clone(&api.desired)
    }
}

/// The plane as handlers get it.
type Shared = State<Arc<dyn Plane>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ringway control API",
        description = "State and configuration of the switches, ports, disks and workers of a running ringway. On the unix \
                       socket everything is allowed; on TCP every request needs the bearer token. A change takes effect \
                       as a whole or not at all, and lasts until the process ends or reads its file again."
    ),
    security(("token" = []))
)]
struct Description;

fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(openapi))
        .routes(routes!(status))
        .routes(routes!(ports))
        .routes(routes!(port, change::put_port, change::patch_port, change::delete_port))
        .routes(routes!(reopen))
        .routes(routes!(switches))
        .routes(routes!(change::put_switch, change::patch_switch, change::delete_switch))
        .routes(routes!(disk::disks))
        .routes(routes!(disk::disk, disk::put_disk, disk::patch_disk, disk::delete_disk))
        .routes(routes!(disk::resize))
        .routes(routes!(fdb::fdb, fdb::add_fdb, fdb::flush_fdb))
        .routes(routes!(groups))
        .routes(routes!(capture::capture))
        .routes(routes!(trace::trace))
        .routes(routes!(change::reload))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(whole_configurations())
}

fn whole_configurations() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(change::config, change::put_config))
        .routes(routes!(change::check_config))
        .layer(DefaultBodyLimit::max(CONFIG_BYTES_MAX))
}

static DESCRIPTION: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(|| {
    let mut description = described().split_for_parts().1;
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    description
});

/// The OpenAPI description of all routes.
pub fn description() -> utoipa::openapi::OpenApi {
    DESCRIPTION.clone()
}

/// All routes, for a listener whose clients may do everything.
pub fn router(api: &Api) -> axum::Router {
    routes_of_api(api).merge(crate::eyes::routes(Arc::clone(&api.plane)))
}

/// All routes, for a listener that everybody may reach: see [`auth`].
pub fn guarded_router(api: &Api) -> axum::Router {
    routes_of_api(api)
        .layer(from_fn_with_state(api.desired.access(), auth::token))
        .merge(crate::eyes::routes(Arc::clone(&api.plane)))
        .layer(from_fn(auth::address))
}

fn routes_of_api(api: &Api) -> axum::Router {
    let nothing = async || problem(StatusCode::NOT_FOUND, "there is no such path; see /api/openapi.json");
    described().split_for_parts().0.fallback(nothing).with_state(api.clone())
}

/// This description.
#[utoipa::path(get, path = "/api/openapi.json", responses((status = 200, body = serde_json::Value)))]
async fn openapi() -> Json<&'static utoipa::openapi::OpenApi> {
    Json(&DESCRIPTION)
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
async fn port(State(plane): Shared, Path(name): Path<String>) -> Result<Json<PortView>, Refusal> {
    match plane.port(&name) {
        Some(port) => Ok(Json(port)),
        None => Err(Refusal::NotFound(format!("there is no port {name:?}"))),
    }
}

/// Opens a port again that a guard has shut.
#[utoipa::path(
    post,
    path = "/api/ports/{name}/reopen",
    params(("name" = String, Path, description = "Name of the port")),
    responses(
        (status = 204, description = "It is open"),
        (status = 404, body = Problem),
        (status = 422, body = Problem)
    )
)]
async fn reopen(State(plane): Shared, Path(name): Path<String>) -> Result<StatusCode, Refusal> {
    apart(move || {
        plane.reopen(&name)?;
        tracing::info!(port = name, "port opened again by the operator");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// All switches.
#[utoipa::path(get, path = "/api/switches", responses((status = 200, body = Vec<SwitchView>)))]
async fn switches(State(plane): Shared) -> Json<Vec<SwitchView>> {
    Json(plane.switches())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct GroupQuery {
    /// Name of a switch; without it, the groups of all switches.
    switch: Option<String>,
}

/// Multicast groups with listeners.
#[utoipa::path(
    get,
    path = "/api/groups",
    params(GroupQuery),
    responses((status = 200, body = Vec<GroupView>), (status = 404, body = Problem))
)]
async fn groups(
    State(plane): Shared,
    Asked(query): Asked<GroupQuery>,
) -> Result<axum::response::Response, Refusal> {
    apart(move || plane.groups(query.switch.as_deref()).map(|groups| Json(groups).into_response())).await
}
