//! Disks: listed, changed as the configuration has them, and resized.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde_json::Value;

use super::change::{Edit, only_new};
use super::problem::{Body, Refused, apart};
use super::spec::DiskSpec;
use super::view::{ChangeView, DiskView, Problem, ResizeSpec, ResizeView};
use super::{Api, Plane, Refusal};
use crate::config::resolved::{DISK_BYTES_MAX, SECTOR_BYTES};

/// All disks.
#[utoipa::path(get, path = "/api/disks", responses((status = 200, body = Vec<DiskView>)))]
pub(super) async fn disks(State(plane): State<Arc<dyn Plane>>) -> Json<Vec<DiskView>> {
    Json(plane.disks())
}

/// One disk.
#[utoipa::path(
    get,
    path = "/api/disks/{name}",
    params(("name" = String, Path, description = "Name of the disk")),
    responses((status = 200, body = DiskView), (status = 404, body = Problem))
)]
pub(super) async fn disk(
    State(plane): State<Arc<dyn Plane>>,
    Path(name): Path<String>,
) -> Result<Json<DiskView>, Refusal> {
    plane.disk(&name).map(Json).ok_or_else(|| Refusal::NotFound(format!("there is no disk {name:?}")))
}

/// Adds a disk, or makes it anew as the body says; with `If-None-Match: *` only adds.
#[utoipa::path(
    put,
    path = "/api/disks/{name}",
    params(
        ("name" = String, Path, description = "Name of the disk"),
        ("if-none-match" = Option<String>, Header, description = "`*`: refuse if there is one")
    ),
    request_body = DiskSpec,
    responses(
        (status = 200, body = ChangeView),
        (status = 412, body = Problem),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn put_disk(
    State(api): State<Api>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(table): Body<Value>,
) -> Result<Json<ChangeView>, Refused> {
    api.change(Edit::PutDisk { name, table, only_new: only_new(&headers) }).await
}

/// Changes keys of a disk; `null` removes a key.
#[utoipa::path(
    patch,
    path = "/api/disks/{name}",
    params(("name" = String, Path, description = "Name of the disk")),
    request_body(content = DiskSpec, content_type = "application/merge-patch+json"),
    responses(
        (status = 200, body = ChangeView),
        (status = 404, body = Problem),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn patch_disk(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(patch): Body<Value>,
) -> Result<Json<ChangeView>, Refused> {
    api.change(Edit::MergeDisk { name, patch }).await
}

/// Removes a disk. Its image stays.
#[utoipa::path(
    delete,
    path = "/api/disks/{name}",
    params(("name" = String, Path, description = "Name of the disk")),
    responses(
        (status = 200, body = ChangeView),
        (status = 404, body = Problem),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn delete_disk(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ChangeView>, Refused> {
    api.change(Edit::RemoveDisk(name)).await
}

/// Gives a disk another size, or the one that its file has now, and tells the guest. The configuration is not changed.
#[utoipa::path(
    post,
    path = "/api/disks/{name}/resize",
    params(("name" = String, Path, description = "Name of the disk")),
    request_body = ResizeSpec,
    responses(
        (status = 200, body = ResizeView),
        (status = 404, body = Problem),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn resize(
    State(plane): State<Arc<dyn Plane>>,
    Path(name): Path<String>,
    Body(ResizeSpec { bytes }): Body<ResizeSpec>,
) -> Result<Json<ResizeView>, Refusal> {
    if let Some(bytes) = bytes
        && (bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) || bytes > DISK_BYTES_MAX)
    {
        let accepted = format!("a multiple of {SECTOR_BYTES} up to {DISK_BYTES_MAX}");
        return Err(Refusal::Invalid(format!("bytes: {bytes} is no size of a disk; accepted: {accepted}")));
    }
    apart(move || {
        let capacity = plane.resize_disk(&name, bytes)?;
        tracing::info!(disk = name, bytes, capacity, "disk resized by the operator");
        Ok(Json(ResizeView { capacity }))
    })
    .await
}
