//! Who may do what on the TCP listener of the control API.

mod fake;

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use fake::{Daemon, FILE};
use ringway::api::{description, server};

const TOKEN: &str = "correct-horse-battery";

fn with_token() -> Daemon {
    let text = FILE.replace("[switch.lan]", "token-file = \"token\"\n[switch.lan]");
    Daemon::with(&text, |directory| write_token(directory, TOKEN))
}

fn write_token(directory: &Path, token: &str) {
    let file = directory.join("token");
    std::fs::write(&file, format!("{token}\n")).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
}

/// The header lines of a client that is no browser.
fn headers(daemon: &Daemon, token: Option<&str>) -> String {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!("Host: {}\r\n{token}Content-Type: application/json\r\n", daemon.http)
}

fn paths() -> Vec<(String, String)> {
    let description = serde_json::to_value(description()).expect("JSON");
    let paths = description["paths"].as_object().expect("paths").clone();
    let operations = paths.iter().flat_map(|(path, operations)| {
        let methods = operations.as_object().expect("operations").keys();
        methods.map(|method| (method.to_uppercase(), path.replace("{name}", "web"))).collect::<Vec<_>>()
    });
    operations.collect()
}

#[test]
fn without_a_token_file_nobody_is_let_in_and_told_why() {
    let daemon = Daemon::start();
    let mut asked = 0;
    for (method, path) in paths() {
        for token in [None, Some(TOKEN), Some("")] {
            let (status, answer) = daemon.asks_tcp(&method, &path, &headers(&daemon, token));
            assert_eq!(status, 401, "{method} {path}");
            assert!(answer.contains("control.token-file"), "{answer}");
            asked += 1;
        }
    }
    assert!(asked > 30);
    assert_eq!(daemon.fake.applied.load(SeqCst), 0);
}

#[test]
fn every_path_but_metrics_and_dashboard_needs_the_token() {
    let daemon = with_token();
    let without = headers(&daemon, None);
    for (method, path) in paths() {
        for headers in [&without, &headers(&daemon, Some("wrong-horse-battery"))] {
            let (status, answer) = daemon.asks_tcp(&method, &path, headers);
            assert_eq!(status, 401, "{method} {path}");
            assert!(
                answer.to_lowercase().contains("\r\nwww-authenticate: bearer realm=\"ringway\"\r\n"),
                "{answer}"
            );
            assert!(!answer.contains(TOKEN), "{answer}");
        }
    }
    for path in
        ["/api", "/api/", "/api/../api/status", "//api/status", "/API/status", "/elsewhere", "/metrics/x"]
    {
        assert_eq!(daemon.asks_tcp("GET", path, &without).0, 401, "{path}");
    }
    for path in ["/metrics", "/"] {
        assert_eq!(daemon.asks_tcp("GET", path, &without).0, 200, "{path}");
        assert_eq!(daemon.asks_tcp("POST", path, &without).0, 405, "{path}");
    }
    let (status, answer) = daemon.asks_tcp("GET", "/api/status", &headers(&daemon, Some(TOKEN)));
    assert_eq!(status, 200);
    assert!(answer.ends_with(&serde_json::to_string(&fake::status()).expect("JSON")), "{answer}");
    assert_eq!(daemon.asks_tcp("DELETE", "/api/ports/web", &headers(&daemon, Some(TOKEN))).0, 200);
    assert_eq!(daemon.fake.applied.load(SeqCst), 1);
}

#[test]
fn the_unix_socket_asks_for_nothing() {
    let daemon = with_token();
    assert_eq!(daemon.asks("GET", "/api/status", None).0, 200);
    assert_eq!(daemon.asks("DELETE", "/api/ports/web", None).0, 200);
}

#[test]
fn a_reload_reads_the_token_again() {
    let daemon = with_token();
    write_token(daemon.directory.path(), "another-horse-battery");
    assert_eq!(daemon.asks_tcp("GET", "/api/status", &headers(&daemon, Some(TOKEN))).0, 200, "not yet");
    assert_eq!(daemon.prints(&["reload"]), "nothing changed; 3 untouched\n");
    assert_eq!(daemon.asks_tcp("GET", "/api/status", &headers(&daemon, Some(TOKEN))).0, 401);
    let new = headers(&daemon, Some("another-horse-battery"));
    assert_eq!(daemon.asks_tcp("GET", "/api/status", &new).0, 200);

    let token = daemon.directory.path().join("token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).expect("set");
    let said = daemon.fails(&["reload"]);
    assert!(said.contains("control.token-file: ") && said.contains("others"), "{said}");
    assert_eq!(daemon.asks_tcp("GET", "/api/status", &new).0, 200, "the old one stays");

    std::fs::write(daemon.file(), FILE).expect("written");
    assert_eq!(daemon.prints(&["reload"]), "changed: control.token-file; 3 untouched\n");
    assert_eq!(daemon.asks_tcp("GET", "/api/status", &new).0, 401);
}

#[test]
fn names_that_were_rebound_reach_nothing() {
    let daemon = with_token();
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in ["/", "/metrics", "/api/status", "/elsewhere"] {
        let (status, answer) = daemon.asks_tcp("GET", path, &format!("Host: evil.example\r\n{token}"));
        assert_eq!(status, 421, "{path}");
        assert!(!answer.contains("ringway 0.1.0"), "{answer}");
        assert_eq!(daemon.asks_tcp("GET", path, &token).0, 400, "{path} without a host");
    }
    let local = format!("Host: localhost:{}\r\n{token}", daemon.http.port());
    assert_eq!(daemon.asks_tcp("GET", "/api/status", &local).0, 200);
}

#[test]
fn pages_of_other_origins_change_nothing() {
    let daemon = with_token();
    let ours = headers(&daemon, Some(TOKEN));
    for origin in ["http://evil.example", "null", "http://127.0.0.1", "http://localhost"] {
        let headers = format!("{ours}Origin: {origin}\r\n");
        assert_eq!(daemon.asks_tcp("DELETE", "/api/ports/web", &headers).0, 403, "{origin}");
        let (status, answer) = daemon.asks_tcp("GET", "/api/status", &headers);
        assert_eq!(status, 200);
        assert!(!answer.to_lowercase().contains("access-control-"), "{answer}");
        let asked = format!("{headers}Access-Control-Request-Method: DELETE\r\n");
        let (status, answer) = daemon.asks_tcp("OPTIONS", "/api/ports/web", &asked);
        assert_eq!(status, 403);
        assert!(!answer.to_lowercase().contains("access-control-"), "{answer}");
    }
    let cross = format!("{ours}Sec-Fetch-Site: cross-site\r\n");
    assert_eq!(daemon.asks_tcp("DELETE", "/api/ports/web", &cross).0, 403);
    assert_eq!(daemon.fake.applied.load(SeqCst), 0);
    let own = format!("{ours}Origin: http://{}\r\nSec-Fetch-Site: same-origin\r\n", daemon.http);
    assert_eq!(daemon.asks_tcp("DELETE", "/api/ports/web", &own).0, 200);
}

#[test]
fn strangers_on_tcp_take_no_connection_from_the_unix_socket() {
    let daemon = with_token();
    let idle: Vec<TcpStream> = (0..server::CONNECTIONS_MAX + 8)
        .map(|_| TcpStream::connect(daemon.http).expect("connected or in the kernel's queue"))
        .collect();
    let asked = Instant::now();
    assert_eq!(daemon.asks("GET", "/api/status", None).0, 200);
    assert!(asked.elapsed() < server::HEAD_TIME_MAX, "it did not wait until one of them was cut off");
    drop(idle);
}
