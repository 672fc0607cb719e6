//! Changes of the configuration while it runs.
//!
//! [`Desired`] holds the configuration as a document with the keys of the file. A change edits a copy, checks it as a whole
//! with the reader of the file, hands the result to the data plane, and keeps the copy only if the plane went over to it. So
//! a change takes effect as a whole or not at all, and there is one validator. Changes wait for each other.
//!
//! A change lives as long as the process: the operator's file is only read. `reload` reads it again and goes over to what it
//! says, which drops what was changed since.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use parking_lot::Mutex;
use serde_json::Value;

use super::auth::{Access, Token, TokenError};
use super::problem::{Body, Refused, apart};
use super::spec::{ConfigSpec, PortSpec, SwitchSpec};
use super::view::{ChangeView, Problem};
use super::{Api, Plane, Refusal};
use crate::config::document::Document;
use crate::config::resolved::ControlConfig;
use crate::config::{self, ConfigError, Loaded};
use crate::inherited;

/// A change that somebody asks for. Bodies have the keys of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// A port as it shall be.
    PutPort {
        /// Its name.
        name: String,
        /// Its table.
        table: Value,
        /// Refused if there is one of that name.
        only_new: bool,
    },
    /// Keys of a port that change; `null` removes one (JSON Merge Patch, RFC 7396).
    MergePort {
        /// Its name.
        name: String,
        /// The keys.
        patch: Value,
    },
    /// A port goes.
    RemovePort(String),
    /// A switch as it shall be.
    PutSwitch {
        /// Its name.
        name: String,
        /// Its table.
        table: Value,
        /// Refused if there is one of that name.
        only_new: bool,
    },
    /// Keys of a switch that change; `null` removes one.
    MergeSwitch {
        /// Its name.
        name: String,
        /// The keys.
        patch: Value,
    },
    /// A switch goes.
    RemoveSwitch(String),
    /// A disk as it shall be.
    PutDisk {
        /// Its name.
        name: String,
        /// Its table.
        table: Value,
        /// Refused if there is one of that name.
        only_new: bool,
    },
    /// Keys of a disk that change; `null` removes one.
    MergeDisk {
        /// Its name.
        name: String,
        /// The keys.
        patch: Value,
    },
    /// A disk goes.
    RemoveDisk(String),
    /// A whole configuration.
    Replace(Value),
}

impl Edit {
    /// What it does, for the log.
    fn words(&self) -> String {
        match self {
            Edit::PutPort { name, .. } => format!("put port.{name}"),
            Edit::MergePort { name, .. } => format!("set port.{name}"),
            Edit::RemovePort(name) => format!("remove port.{name}"),
            Edit::PutSwitch { name, .. } => format!("put switch.{name}"),
            Edit::MergeSwitch { name, .. } => format!("set switch.{name}"),
            Edit::RemoveSwitch(name) => format!("remove switch.{name}"),
            Edit::PutDisk { name, .. } => format!("put disk.{name}"),
            Edit::MergeDisk { name, .. } => format!("set disk.{name}"),
            Edit::RemoveDisk(name) => format!("remove disk.{name}"),
            Edit::Replace(_) => "replace all".into(),
        }
    }

    /// The document with this change.
    fn of(&self, document: &Document) -> Result<Document, Refused> {
        let needed = |kind: &str, name: &str| match document.has(kind, name) {
            true => Ok(()),
            false => Err(Refusal::NotFound(format!("there is no {kind} {name:?}"))),
        };
        let free = |kind: &str, name: &str, only_new: bool| match only_new && document.has(kind, name) {
            true => Err(Refused::Exists(format!("there is a {kind} {name:?} already"))),
            false => Ok(()),
        };
        Ok(match self {
            Edit::PutPort { name, table, only_new } => {
                free("port", name, *only_new)?;
                document.with_port(name, table.clone())?
            }
            Edit::MergePort { name, patch } => {
                needed("port", name)?;
                document.merge_port(name, patch.clone())?
            }
            Edit::RemovePort(name) => {
                needed("port", name)?;
                document.without_port(name)
            }
            Edit::PutSwitch { name, table, only_new } => {
                free("switch", name, *only_new)?;
                document.with_switch(name, table.clone())?
            }
            Edit::MergeSwitch { name, patch } => {
                needed("switch", name)?;
                document.merge_switch(name, patch.clone())?
            }
            Edit::RemoveSwitch(name) => {
                needed("switch", name)?;
                document.without_switch(name)
            }
            Edit::PutDisk { name, table, only_new } => {
                free("disk", name, *only_new)?;
                document.with_disk(name, table.clone())?
            }
            Edit::MergeDisk { name, patch } => {
                needed("disk", name)?;
                document.merge_disk(name, patch.clone())?
            }
            Edit::RemoveDisk(name) => {
                needed("disk", name)?;
                document.without_disk(name)
            }
            Edit::Replace(whole) => document.replaced(whole.clone())?,
        })
    }
}

/// The configuration that the operator wants, and how it changes.
pub struct Desired {
    /// What `reload` reads.
    file: PathBuf,
    document: Mutex<Document>,
    access: Arc<Access>,
}

impl Desired {
    /// `document` is what runs now; it came from `file`. The token that `control` names is read.
    pub fn new(document: Document, file: PathBuf, control: &ControlConfig) -> Result<Desired, TokenError> {
        let access = Arc::new(Access::default());
        access.read(control.token_file.as_deref())?;
        Ok(Desired { file, document: Mutex::new(document), access })
    }

    /// Who is let in on the TCP listener.
    pub fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access)
    }

    /// The document that runs, with the keys of the file.
    pub fn document(&self) -> Document {
        self.document.lock().clone()
    }

    /// Makes a change. May wait for other changes and for the plane.
    pub fn change(&self, plane: &dyn Plane, edit: &Edit) -> Result<ChangeView, Refused> {
        let mut document = self.document.lock();
        let edited = edit.of(&document)?;
        let done = go_over(plane, &self.access, edited.check()?, &edit.words())?;
        *document = edited;
        Ok(done)
    }

    /// What going over to a whole configuration would do. Changes nothing.
    pub fn check(&self, plane: &dyn Plane, whole: Value) -> Result<ChangeView, Refused> {
        let loaded = self.document().replaced(whole)?.check()?;
        what_changes_is_possible(plane, &loaded)?;
        Ok(plane.config().diff(&loaded.config).into())
    }

    /// Reads the file again and goes over to what it says. Its mistakes come with their lines.
    pub fn reload(&self, plane: &dyn Plane) -> Result<ChangeView, Refused> {
        let mut document = self.document.lock();
        let (read, loaded) = read(&self.file)?;
        let done = go_over(plane, &self.access, loaded, "reload")?;
        *document = read;
        Ok(done)
    }
}

/// Reads a file, as the document that is edited and as the configuration with its lines.
pub fn read(file: &std::path::Path) -> Result<(Document, Loaded), ConfigError> {
    let document = Document::load(file)?;
    let loaded = config::load(file)?;
    if document.check()?.config != loaded.config {
        let what = "was changed while it was read".to_owned();
        return Err(ConfigError::whole_file(file, what, "a file that is complete"));
    }
    Ok((document, loaded))
}

/// Asks whether this machine has what a configuration needs. Where a socket was passed ([`inherited`]), none is made.
pub fn machine_check(loaded: &Loaded) -> Result<(), ConfigError> {
    let Err(mut error) = config::environment_check(loaded) else { return Ok(()) };
    let passed = inherited::names();
    let passed: HashSet<String> = passed
        .iter()
        .flat_map(|name| match name.as_str() {
            "control" => vec!["control.socket".into()],
            thing => ["vhost-user", "vfio-user"].map(|kind| format!("{thing}.{kind}.socket")).to_vec(),
        })
        .collect();
    error.mistakes.retain(|mistake| !passed.contains(&mistake.field));
    if error.mistakes.is_empty() { Ok(()) } else { Err(error) }
}

/// The token is read first and asked for last: a file that is no good changes nothing.
fn go_over(plane: &dyn Plane, access: &Access, new: Loaded, what: &str) -> Result<ChangeView, Refused> {
    what_changes_is_possible(plane, &new)?;
    let token = new.config.control.token_file.as_deref().map(Token::read).transpose();
    let token = token.map_err(|error| Refusal::Invalid(error.to_string()))?;
    let done = plane.apply(new.config).inspect_err(|error| {
        tracing::warn!(what, %error, "the configuration could not be changed");
    })?;
    access.set(token);
    tracing::info!(
        what,
        added = done.added.join(" "),
        removed = done.removed.join(" "),
        changed = done.changed.join(" "),
        replaced = done.replaced.join(" "),
        untouched = done.untouched,
        needs_restart = done.needs_restart.join(" "),
        "configuration changed"
    );
    Ok(done)
}

/// As [`machine_check`], but only for what changes. Something that was lost since under a port or a disk
/// that stays as it is (its interface, say) does not keep the others from changing.
fn what_changes_is_possible(plane: &dyn Plane, loaded: &Loaded) -> Result<(), ConfigError> {
    let Err(mut error) = machine_check(loaded) else { return Ok(()) };
    let difference = plane.config().diff(&loaded.config);
    let added = difference.ports_added.iter();
    let changed = difference.ports_changed.iter().map(|changed| &changed.new);
    let ports = added.chain(changed).map(|port| format!("port.{}.", port.name));
    let added = difference.disks_added.iter();
    let changed = difference.disks_changed.iter().map(|changed| &changed.new);
    let disks = added.chain(changed).map(|disk| format!("disk.{}.", disk.name));
    let things: HashSet<String> = ports.chain(disks).collect();
    let is_of_a_thing = |field: &str| field.starts_with("port.") || field.starts_with("disk.");
    error.mistakes.retain(|mistake| match is_of_a_thing(&mistake.field) {
        // A name may have dots of its own.
        true => things.iter().any(|thing| mistake.field.starts_with(thing)),
        // The token is read at every change.
        false => mistake.field == "control.token-file" || difference.restart.contains(&mistake.field),
    });
    if error.mistakes.is_empty() { Ok(()) } else { Err(error) }
}

impl Api {
    pub(super) async fn change(&self, edit: Edit) -> Result<Json<ChangeView>, Refused> {
        let (desired, plane) = (Arc::clone(&self.desired), Arc::clone(&self.plane));
        apart(move || desired.change(&*plane, &edit)).await.map(Json)
    }
}

/// Whether the client wants the thing to be new: `If-None-Match: *` (RFC 9110 §13.1.2).
pub(super) fn only_new(headers: &HeaderMap) -> bool {
    headers.get(header::IF_NONE_MATCH).is_some_and(|value| value == "*")
}

/// Adds a port, or makes it anew as the body says; with `If-None-Match: *` only adds.
#[utoipa::path(
    put,
    path = "/api/ports/{name}",
    params(
        ("name" = String, Path, description = "Name of the port"),
        ("if-none-match" = Option<String>, Header, description = "`*`: refuse if there is one")
    ),
    request_body = PortSpec,
    responses(
        (status = 200, body = ChangeView),
        (status = 412, body = Problem),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn put_port(
    State(api): State<Api>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(table): Body<Value>,
) -> Result<Json<ChangeView>, Refused> {
    api.change(Edit::PutPort { name, table, only_new: only_new(&headers) }).await
}

/// Changes keys of a port; `null` removes a key.
#[utoipa::path(
    patch,
    path = "/api/ports/{name}",
    params(("name" = String, Path, description = "Name of the port")),
    request_body(content = PortSpec, content_type = "application/merge-patch+json"),
    responses(
        (status = 200, body = ChangeView),
        (status = 404, body = Problem),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn patch_port(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(patch): Body<Value>,
) -> Result<Json<ChangeView>, Refused> {
    api.change(Edit::MergePort { name, patch }).await
}

/// Removes a port.
#[utoipa::path(
    delete,
    path = "/api/ports/{name}",
    params(("name" = String, Path, description = "Name of the port")),
    responses(
        (status = 200, body = ChangeView),
        (status = 404, body = Problem),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn delete_port(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ChangeView>, Refused> {
    api.change(Edit::RemovePort(name)).await
}

/// Adds a switch, or makes it as the body says; with `If-None-Match: *` only adds.
#[utoipa::path(
    put,
    path = "/api/switches/{name}",
    params(
        ("name" = String, Path, description = "Name of the switch"),
        ("if-none-match" = Option<String>, Header, description = "`*`: refuse if there is one")
    ),
    request_body = SwitchSpec,
    responses(
        (status = 200, body = ChangeView),
        (status = 412, body = Problem),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn put_switch(
    State(api): State<Api>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(table): Body<Value>,
) -> Result<Json<ChangeView>, Refused> {
    api.change(Edit::PutSwitch { name, table, only_new: only_new(&headers) }).await
}

/// Changes keys of a switch; `null` removes a key.
#[utoipa::path(
    patch,
    path = "/api/switches/{name}",
    params(("name" = String, Path, description = "Name of the switch")),
    request_body(content = SwitchSpec, content_type = "application/merge-patch+json"),
    responses(
        (status = 200, body = ChangeView),
        (status = 404, body = Problem),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn patch_switch(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(patch): Body<Value>,
) -> Result<Json<ChangeView>, Refused> {
    api.change(Edit::MergeSwitch { name, patch }).await
}

/// Removes a switch that has no ports.
#[utoipa::path(
    delete,
    path = "/api/switches/{name}",
    params(("name" = String, Path, description = "Name of the switch")),
    responses(
        (status = 200, body = ChangeView),
        (status = 404, body = Problem),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn delete_switch(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ChangeView>, Refused> {
    api.change(Edit::RemoveSwitch(name)).await
}

/// The configuration that runs, with the keys of the file.
#[utoipa::path(get, path = "/api/config", responses((status = 200, body = ConfigSpec)))]
pub(super) async fn config(State(desired): State<Arc<Desired>>) -> Result<Json<Value>, Refusal> {
    apart(move || Ok(Json(desired.document().to_json()))).await
}

/// Goes over to a whole configuration.
#[utoipa::path(
    put,
    path = "/api/config",
    request_body = ConfigSpec,
    responses(
        (status = 200, body = ChangeView),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn put_config(
    State(api): State<Api>,
    Body(whole): Body<Value>,
) -> Result<Json<ChangeView>, Refused> {
    api.change(Edit::Replace(whole)).await
}

/// Says what going over to a configuration would do, or what is wrong with it. Changes nothing.
#[utoipa::path(
    post,
    path = "/api/config/check",
    request_body = ConfigSpec,
    responses((status = 200, body = ChangeView), (status = 422, body = Problem))
)]
pub(super) async fn check_config(
    State(api): State<Api>,
    Body(whole): Body<Value>,
) -> Result<Json<ChangeView>, Refused> {
    let Api { plane, desired, .. } = api;
    apart(move || desired.check(&*plane, whole)).await.map(Json)
}

/// Reads the file again that ringway was started with, and goes over to what it says.
#[utoipa::path(
    post,
    path = "/api/reload",
    responses(
        (status = 200, body = ChangeView),
        (status = 422, body = Problem),
        (status = 500, body = Problem)
    )
)]
pub(super) async fn reload(State(api): State<Api>) -> Result<Json<ChangeView>, Refused> {
    let Api { plane, desired, .. } = api;
    apart(move || desired.reload(&*plane)).await.map(Json)
}
