//! FDB entries: listed, added and removed. They act on the running switches at once and are no part of the
//! configuration: an entry that shall survive a restart belongs to `port.NAME.fdb`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::problem::{Asked, Body, apart, problem};
use super::view::{FdbFilter, FdbSpec, FdbView, FlushView, Problem};
use super::{Plane, Refusal};

/// FDB entries that match.
#[utoipa::path(
    get,
    path = "/api/fdb",
    params(FdbFilter),
    responses(
        (status = 200, body = Vec<FdbView>),
        (status = 404, body = Problem),
        (status = 422, body = Problem)
    )
)]
pub(super) async fn fdb(
    State(plane): State<Arc<dyn Plane>>,
    Asked(filter): Asked<FdbFilter>,
) -> Result<Response, Refusal> {
    // Made into JSON apart too: a large FDB has 100 MB of it.
    apart(move || plane.fdb(&filter).map(|entries| Json(entries).into_response())).await
}

/// Adds an FDB entry, or changes the operator's own one.
#[utoipa::path(
    post,
    path = "/api/fdb",
    request_body = FdbSpec,
    responses(
        (status = 204, description = "It is there"),
        (status = 404, body = Problem),
        (status = 422, body = Problem)
    )
)]
pub(super) async fn add_fdb(
    State(plane): State<Arc<dyn Plane>>,
    Body(entry): Body<FdbSpec>,
) -> Result<StatusCode, Refusal> {
    apart(move || {
        plane.add_fdb(&entry)?;
        let (mac, port, vlan, kind) = (&entry.mac, &entry.port, entry.vlan, entry.kind.as_deref());
        tracing::info!(%mac, %port, vlan, kind, "FDB entry added by the operator");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Which FDB entries go.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FlushQuery {
    /// Name of a switch.
    switch: Option<String>,
    /// Name of a port.
    port: Option<String>,
    /// VLAN.
    vlan: Option<u16>,
    /// The address.
    mac: Option<String>,
    /// A kind.
    kind: Option<String>,
    /// `true`: everything that was learned or is dynamic, on all switches; needed where nothing else is given.
    all: Option<bool>,
}

/// Removes FDB entries: of every kind where an address is given, else those that were learned or are dynamic unless a
/// kind is named. Every field that is given must match.
#[utoipa::path(
    delete,
    path = "/api/fdb",
    params(FlushQuery),
    responses(
        (status = 200, body = FlushView),
        (status = 404, body = Problem),
        (status = 422, body = Problem)
    )
)]
pub(super) async fn flush_fdb(
    State(plane): State<Arc<dyn Plane>>,
    Asked(query): Asked<FlushQuery>,
) -> Response {
    let FlushQuery { switch, port, vlan, mac, kind, all } = query;
    let filter = FdbFilter { switch, port, vlan, mac, kind };
    let everything = filter == FdbFilter::default();
    if everything != (all == Some(true)) {
        let accepted = "give at least one of switch, port, vlan, mac and kind, or else all=true";
        return problem(StatusCode::UNPROCESSABLE_ENTITY, accepted);
    }
    let flushed = apart(move || {
        let removed = plane.flush_fdb(&filter)?;
        let FdbFilter { switch, port, vlan, mac, kind } = &filter;
        tracing::info!(switch, port, vlan, mac, kind, removed, "FDB entries removed by the operator");
        Ok::<_, Refusal>(Json(FlushView { removed }))
    });
    flushed.await.into_response()
}
