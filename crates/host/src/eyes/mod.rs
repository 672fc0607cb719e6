//! Eyes: what lets a person or a program see the plane at work. `/metrics` for Prometheus, and the dashboard at `/`.
//!
//! The dashboard is a page of plain HTML, CSS and JavaScript that lies in the binary. It asks nobody but the server it came
//! from: its content security policy allows nothing else, and no script but its own files, no inline code, and no way for
//! text to become markup (`trusted-types`). It reads the control API as any other client does, with the operator's token
//! where the API asks for one; so these files hold nothing secret and are served to everyone who reaches the listener.

mod metrics;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::api::Plane;
pub use metrics::{CONTENT_TYPE, Snapshot};

/// What a browser may do for these pages (W3C Content Security Policy 3, Trusted Types).
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the dashboard.
struct Page {
    path: &'static str,
    media: &'static str,
    text: &'static str,
}

macro_rules! page {
    ($path:literal, $file:literal, $media:literal) => {
        Page { path: $path, media: $media, text: include_str!(concat!("dashboard/", $file)) }
    };
}

const HTML: &str = "text/html; charset=utf-8";
const PAGES: &[Page] = &[
    Page { path: "/", media: HTML, text: include_str!("dashboard/index.html") },
    page!("/style.css", "style.css", "text/css; charset=utf-8"),
    page!("/icon.svg", "icon.svg", "image/svg+xml"),
    page!("/app.js", "app.js", "text/javascript; charset=utf-8"),
    page!("/api.js", "api.js", "text/javascript; charset=utf-8"),
    page!("/page.js", "page.js", "text/javascript; charset=utf-8"),
    page!("/history.js", "history.js", "text/javascript; charset=utf-8"),
    page!("/topology.js", "topology.js", "text/javascript; charset=utf-8"),
    page!("/ports.js", "ports.js", "text/javascript; charset=utf-8"),
    page!("/disks.js", "disks.js", "text/javascript; charset=utf-8"),
    page!("/details.js", "details.js", "text/javascript; charset=utf-8"),
    page!("/tables.js", "tables.js", "text/javascript; charset=utf-8"),
    page!("/chart.js", "chart.js", "text/javascript; charset=utf-8"),
];

/// The routes `/metrics` and those of the dashboard. None of them changes anything or needs a token.
pub fn routes(plane: Arc<dyn Plane>) -> axum::Router {
    let mut router = axum::Router::new().route("/metrics", get(metrics).with_state(plane));
    for page in PAGES {
        let tag = tag(page.text);
        router = router.route(page.path, get(async move |headers: HeaderMap| show(page, &tag, &headers)));
    }
    router
}

/// All figures as OpenMetrics text.
async fn metrics(State(plane): State<Arc<dyn Plane>>) -> Response {
    let snapshot = Snapshot {
        status: plane.status(),
        ports: plane.ports(),
        disks: plane.disks(),
        groups: plane.groups(None).unwrap_or_default(),
    };
    match snapshot.exposition() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A strong entity tag: the same text has the same tag in every run of one build (RFC 9110 §8.8.3).
fn tag(text: &str) -> HeaderValue {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    // Hexadecimal digits in quotes are always a valid header.
    HeaderValue::try_from(format!("\"{:016x}\"", hasher.finish()))
        .unwrap_or(HeaderValue::from_static("\"0\""))
}

fn show(page: &Page, tag: &HeaderValue, headers: &HeaderMap) -> Response {
    let common = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(header::CONTENT_TYPE, page.media)], page.text).into_response()
}
