//! Who may do what on the TCP listener. (Who reaches the unix socket was let in by its file permission and may do all.)
//!
//! Two layers. [`address`] is for every request: its `Host` must be an address, `localhost` or the name of this machine,
//! so that a web page whose name was made to point here (DNS rebinding) reaches nothing; and what changes something must
//! not come from a page of another origin. [`token`] is for everything but metrics and the files of the dashboard: the
//! request must carry the bearer token (RFC 6750) that the operator wrote to `control.token-file`. Nothing answers with
//! CORS headers.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq as _;

use super::problem::problem;
use crate::config::read_token;

const NO_TOKEN: &str = "no token is set, so only metrics can be read here: write one to a file that control.token-file \
                        names and reload, or use the unix socket";
const TOKEN_MISSING: &str = "the request carries no token; send the header \"Authorization: Bearer TOKEN\"";
const TOKEN_WRONG: &str = "the token is wrong";
/// `Sec-Fetch-Site`: where a browser says a request comes from (W3C Fetch Metadata).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a token file is of no use.
#[derive(Debug, thiserror::Error)]
#[error("control.token-file {}: {what}", path.display())]
pub struct TokenError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// A bearer token, kept from logs.
pub struct Token(String);

impl Token {
    /// Reads a token file, as [`crate::config::read_token`] describes it.
    pub fn read(path: &Path) -> Result<Token, TokenError> {
        let failed = |what| TokenError { path: path.to_path_buf(), what };
        read_token(path).map(Token).map_err(failed)
    }

    /// Whether `given` is this token; the time it takes does not tell how much of it is right.
    fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

/// The token that is asked for now.
#[derive(Default)]
pub struct Access {
    token: ArcSwapOption<Token>,
}

impl Access {
    /// Asks for the token in `file` from now on; without a file nobody is let in.
    pub fn read(&self, file: Option<&Path>) -> Result<(), TokenError> {
        self.set(file.map(Token::read).transpose()?);
        Ok(())
    }

    /// Asks for `token` from now on; without one nobody is let in.
    pub fn set(&self, token: Option<Token>) {
        self.token.store(token.map(Arc::new));
    }

    /// Whether the request with these headers carries the token; else why not.
    fn admits(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let Some(token) = self.token.load_full() else { return Err(NO_TOKEN) };
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(given), None) = (given.next(), given.next()) else { return Err(TOKEN_MISSING) };
        let bytes = given.as_bytes();
        let Some((scheme, rest)) = bytes.split_at_checked("Bearer ".len()) else { return Err(TOKEN_MISSING) };
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return Err(TOKEN_MISSING);
        }
        if token.is(rest.trim_ascii()) { Ok(()) } else { Err(TOKEN_WRONG) }
    }
}

/// Layer: lets requests through that carry the token.
pub(super) async fn token(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match access.admits(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(why) => {
            let mut answer = problem(StatusCode::UNAUTHORIZED, why);
            let challenge = HeaderValue::from_static("Bearer realm=\"ringway\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            answer
        }
    }
}

/// Layer: turns away what a web page of somebody else makes a browser send.
pub(super) async fn address(request: Request, next: Next) -> Response {
    let name = rustix::system::uname();
    let own_name = name.nodename().to_str().unwrap_or("");
    match turned_away(request.method(), request.uri(), request.headers(), own_name) {
        Some((status, why)) => problem(status, why),
        None => next.run(request).await,
    }
}

/// Why a request is not listened to, if it is not.
fn turned_away(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    own_name: &str,
) -> Option<(StatusCode, &'static str)> {
    const HOST: &str = "the Host header must be an IP address, localhost or this machine's name";
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Some((StatusCode::BAD_REQUEST, HOST));
    };
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    let Some(host) = host else { return Some((StatusCode::BAD_REQUEST, HOST)) };
    if ![Some(&host), uri.authority()].into_iter().flatten().all(|name| is_ours(name, own_name)) {
        return Some((StatusCode::MISDIRECTED_REQUEST, HOST));
    }
    if [Method::GET, Method::HEAD].contains(method) {
        return None;
    }
    let same_origin = headers.get_all(header::ORIGIN).iter().all(|origin| is_origin_of(origin, &host));
    let same_site = headers.get_all(FETCH_SITE).iter().all(|site| site == "same-origin" || site == "none");
    let foreign = "a page of another origin may not change anything here";
    (!same_origin || !same_site).then_some((StatusCode::FORBIDDEN, foreign))
}

/// Whether a name that a client used for us cannot be one that its author made point here.
fn is_ours(authority: &Authority, own_name: &str) -> bool {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let named = host.eq_ignore_ascii_case("localhost")
        || (!own_name.is_empty() && host.eq_ignore_ascii_case(own_name));
    !authority.as_str().contains('@') && (named || bare.parse::<IpAddr>().is_ok())
}

fn is_origin_of(origin: &HeaderValue, host: &Authority) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let authority = origin.as_ref().filter(|origin| origin.scheme().is_some()).and_then(Uri::authority);
    authority.is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(host.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const TOKEN: &str = "correct-horse-battery";

    fn file(text: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("made");
        std::fs::write(file.path(), text).expect("written");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("set");
        file
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn only_the_token_is_let_in() {
        let access = Access::default();
        let with = |value: &str| headers(&[("authorization", value)]);
        assert_eq!(access.admits(&with(&format!("Bearer {TOKEN}"))), Err(NO_TOKEN));
        let first = file(TOKEN.as_bytes(), 0o600);
        access.read(Some(first.path())).expect("read");
        for good in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(access.admits(&with(&format!("{good} {TOKEN}"))), Ok(()));
        }
        assert_eq!(access.admits(&headers(&[])), Err(TOKEN_MISSING));
        for missing in [TOKEN, "Bearer", "", "Basic Y29ycmVjdA==", "Bear"] {
            assert_eq!(access.admits(&with(missing)), Err(TOKEN_MISSING), "{missing}");
        }
        let longer = format!("Bearer {TOKEN}x");
        for wrong in ["Bearer ", "Bearer correct-horse-batter", "Bearer correct-horse-batterz", &longer] {
            assert_eq!(access.admits(&with(wrong)), Err(TOKEN_WRONG), "{wrong}");
        }
        let twice = headers(&[("authorization", "Bearer x"), ("authorization", &format!("Bearer {TOKEN}"))]);
        assert_eq!(access.admits(&twice), Err(TOKEN_MISSING));

        let second = file(b"another-token-entirely", 0o600);
        access.read(Some(second.path())).expect("read");
        assert_eq!(access.admits(&with(&format!("Bearer {TOKEN}"))), Err(TOKEN_WRONG));
        let unusable = file(b"short", 0o600);
        assert!(access.read(Some(unusable.path())).is_err());
        assert_eq!(access.admits(&with("Bearer another-token-entirely")), Ok(()), "the old token stays");
        access.read(None).expect("none");
        assert_eq!(access.admits(&with("Bearer another-token-entirely")), Err(NO_TOKEN));
    }

    #[test]
    fn names_that_could_be_rebound_are_turned_away() {
        let ask = |method: Method, uri: &str, pairs: &[(&'static str, &str)]| {
            let uri: Uri = uri.parse().expect("a uri");
            turned_away(&method, &uri, &headers(pairs), "kvm7").map(|(status, _)| status.as_u16())
        };
        for host in
            ["127.0.0.1", "127.0.0.1:9464", "[::1]:9464", "[::1]", "localhost:1", "LOCALHOST", "kvm7:9464"]
        {
            assert_eq!(ask(Method::GET, "/", &[("host", host)]), None, "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9464", "kvm7.evil.example"]
        {
            assert_eq!(ask(Method::GET, "/", &[("host", host)]), Some(421), "{host}");
        }
        for host in ["user@127.0.0.1", "evil.example@127.0.0.1"] {
            assert_eq!(ask(Method::GET, "/", &[("host", host)]), Some(421), "{host}");
        }
        assert_eq!(ask(Method::GET, "/", &[]), Some(400));
        assert_eq!(ask(Method::GET, "/", &[("host", "")]), Some(400));
        assert_eq!(ask(Method::GET, "/", &[("host", "127.0.0.1"), ("host", "evil.example")]), Some(400));
        assert_eq!(ask(Method::GET, "http://evil.example/", &[("host", "127.0.0.1")]), Some(421));
        assert_eq!(ask(Method::GET, "http://127.0.0.1/", &[("host", "127.0.0.1")]), None);
    }

    #[test]
    fn pages_of_other_origins_change_nothing() {
        let ask = |method: &Method, pairs: &[(&'static str, &str)]| {
            let mut all = vec![("host", "127.0.0.1:9464")];
            all.extend_from_slice(pairs);
            turned_away(method, &Uri::from_static("/"), &headers(&all), "kvm7")
                .map(|(status, _)| status.as_u16())
        };
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            assert_eq!(ask(&method, &[]), None, "no browser");
            assert_eq!(ask(&method, &[("origin", "http://127.0.0.1:9464")]), None);
            assert_eq!(ask(&method, &[("origin", "https://127.0.0.1:9464")]), None, "behind a TLS proxy");
            for origin in [
                "http://evil.example",
                "null",
                "http://127.0.0.1",
                "http://localhost:9464",
                "127.0.0.1:9464",
                "",
            ] {
                assert_eq!(ask(&method, &[("origin", origin)]), Some(403), "{origin:?}");
            }
            assert_eq!(ask(&method, &[("sec-fetch-site", "same-origin")]), None);
            for site in ["cross-site", "same-site"] {
                assert_eq!(ask(&method, &[("sec-fetch-site", site)]), Some(403), "{site}");
            }
            let both = [("origin", "http://127.0.0.1:9464"), ("origin", "http://evil.example")];
            assert_eq!(ask(&method, &both), Some(403));
        }
        assert_eq!(
            ask(&Method::GET, &[("origin", "http://evil.example")]),
            None,
            "it cannot read the answer"
        );
    }
}
