//! What goes wrong between a request and its answer, as [`Problem`] bodies; and extractors whose refusals are such bodies.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::Refusal;
use super::view::{MistakeView, Problem};
use crate::config::{ConfigError, Mistake};

/// An answer that says what is wrong.
pub(super) fn problem(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(Problem { error: error.into(), mistakes: Vec::new() })).into_response()
}

/// Why a change was not made. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The configuration that it would lead to has mistakes.
    #[error("{0}")]
    Mistakes(ConfigError),
    /// There is a thing of that name already.
    #[error("{0}")]
    Exists(String),
    /// The data plane did not do it.
    #[error(transparent)]
    Plane(#[from] Refusal),
}

impl From<ConfigError> for Refused {
    fn from(mistakes: ConfigError) -> Refused {
        Refused::Mistakes(mistakes)
    }
}

impl From<&Mistake> for MistakeView {
    fn from(mistake: &Mistake) -> MistakeView {
        MistakeView {
            line: (mistake.line > 0).then_some(mistake.line),
            field: mistake.field.clone(),
            what: mistake.what.clone(),
            accepted: mistake.accepted.clone(),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Refused::Mistakes(error) => {
                let mistakes: Vec<MistakeView> = error.mistakes.iter().map(MistakeView::from).collect();
                let body = Problem { error: "the configuration has mistakes".into(), mistakes };
                (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
            }
            Refused::Exists(error) => problem(StatusCode::PRECONDITION_FAILED, error),
            Refused::Plane(refusal) => refusal.into_response(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        problem(status, self.to_string())
    }
}

/// A JSON body. Its content type must say so, which keeps the forms of web pages out.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Response> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Body(body)),
            Err(rejection) => Err(not_understood(&rejection)),
        }
    }
}

fn not_understood(rejection: &JsonRejection) -> Response {
    problem(rejection.status(), rejection.body_text())
}

/// The query of a request.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, Response> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Asked(asked)),
            Err(rejection) => Err(not_asked(&rejection)),
        }
    }
}

fn not_asked(rejection: &QueryRejection) -> Response {
    problem(rejection.status(), rejection.body_text())
}

/// Does what may take a while (waiting for workers, listing a large FDB) away from the control thread.
pub(super) async fn apart<T: Send + 'static, E: From<Refusal> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "a request to the control API broke off");
            Err(Refusal::Failed("the request broke off; see the log".into()).into())
        }
    }
}
