//! The sockets of the control API: made, served within bounds, and removed.
//!
//! A connection may last [`CONNECTION_TIME_MAX`], send [`HEAD_BYTES_MAX`] of request line and headers within
//! [`HEAD_TIME_MAX`], and there are at most [`CONNECTIONS_MAX`] of them on each listener; the next one waits in the kernel's queue. Bodies
//! of requests are bounded where they are read. An answer that carries [`Lasting`] (a capture) takes the time bound off its
//! connection; there are at most [`STREAMS_MAX`] of those, so that the others always have room.
//!
//! A listening socket may also be given by whoever started the program ([`crate::inherited`]); its file is theirs.

use std::convert::Infallible;
use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::StatusCode;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::Api;
use super::problem::problem;
use crate::config::resolved::ControlConfig;

/// Most connections that one listener serves at once.
pub const CONNECTIONS_MAX: usize = 64;
/// Longest time a connection may last.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// Most connections whose answer lasts.
pub const STREAMS_MAX: usize = 16;
/// Longest time until a request's headers are complete.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// Most bytes of request line and headers.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Owner and group may use the socket.
const SOCKET_MODE: u32 = 0o660;
const BACKLOG: i32 = 128;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody answers on the control socket.
    #[error("another ringway is running: it answers on {}", .0.display())]
    AnotherRuns(PathBuf),
    /// The path of the control socket is taken by something else.
    #[error("{} exists and is no socket", .0.display())]
    NoSocket(PathBuf),
    /// The control socket cannot be made.
    #[error("control socket {}", path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The TCP address cannot be listened on.
    #[error("control address {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Put into the extensions of an answer: it goes on until the client has enough.
#[derive(Clone, Copy, Debug)]
pub struct Lasting;

/// Listening sockets of the API. Dropping it removes the unix socket, if we made it and the path is still ours.
#[derive(Debug)]
pub struct Listeners {
    unix: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket we made.
    identity: Option<(u64, u64)>,
    tcp: Option<std::net::TcpListener>,
}

/// Listening sockets that were given to the program.
#[derive(Debug, Default)]
pub struct Given {
    /// A unix stream socket, in place of `control.socket`.
    pub unix: Option<OwnedFd>,
    /// A TCP socket, in place of `control.http`.
    pub tcp: Option<OwnedFd>,
}

impl Listeners {
    /// Listens where `control` says. A socket left by a process that is gone is replaced; the directory is made only for
    /// the default socket.
    pub fn bind(control: &ControlConfig) -> Result<Listeners, ServeError> {
        Listeners::bind_or_take(control, Given::default())
    }

    /// As [`Self::bind`], but what was given is used as it is.
    pub fn bind_or_take(control: &ControlConfig, given: Given) -> Result<Listeners, ServeError> {
        let path = control.socket.clone();
        let (unix, identity) = match given.unix {
            Some(socket) => (UnixListener::from(socket), None),
            None => bind_unix(&path).map(|(unix, identity)| (unix, Some(identity)))?,
        };
        let mut listeners = Listeners { unix, path, identity, tcp: None };
        let failed = |source| ServeError::Unix { path: control.socket.clone(), source };
        listeners.unix.set_nonblocking(true).map_err(failed)?;
        listeners.tcp = match (given.tcp, control.http) {
            (Some(socket), _) => Some(std::net::TcpListener::from(socket)),
            (None, Some(address)) => {
                Some(listen_tcp(address).map_err(|source| ServeError::Tcp { address, source })?)
            }
            (None, None) => None,
        };
        Ok(listeners)
    }

    /// Where the TCP listener is, if there is one.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path).map(|found| (found.dev(), found.ino()));
        if found.is_ok_and(|found| Some(found) == self.identity) {
            // Nothing is left to do if it cannot be removed: the next start takes a dead socket away.
            let _removed = fs::remove_file(&self.path);
        }
    }
}

/// Makes the control socket; with its device and inode.
fn bind_unix(path: &Path) -> Result<(UnixListener, (u64, u64)), ServeError> {
    let failed = |source| ServeError::Unix { path: path.to_path_buf(), source };
    if path == crate::config::default_control_socket()
        && let Some(directory) = path.parent()
    {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    clear_stale(path)?;
    let unix = listen_unix(path).map_err(failed)?;
    let made = fs::symlink_metadata(path).map_err(failed)?;
    Ok((unix, (made.dev(), made.ino())))
}

/// Removes a socket that nobody answers on.
fn clear_stale(path: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Unix { path: path.to_path_buf(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NoSocket(path.to_path_buf())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServeError::AnotherRuns(path.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The mode of the descriptor is the most that bind gives to the path, so there is no moment of openness.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(SOCKET_MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

fn listen_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address)
}

/// Serves `api` on `listeners` until `stop` is ready; connections that are open then are closed. Who comes over TCP must
/// show the token, and cannot take connections away from those on the unix socket. To be awaited on a tokio runtime with
/// I/O and time enabled.
pub async fn serve(listeners: &Listeners, api: &Api, stop: impl Future<Output = ()>) -> io::Result<()> {
    let unix = tokio::net::UnixListener::from_std(listeners.unix.try_clone()?)?;
    let tcp = match &listeners.tcp {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            Some(tokio::net::TcpListener::from_std(listener.try_clone()?)?)
        }
        None => None,
    };
    let streams = Arc::new(Semaphore::new(STREAMS_MAX));
    let bounds = Bounds { streams, time_max: CONNECTION_TIME_MAX };
    let (open, guarded) = (super::router(api), super::guarded_router(api));
    let (mut local, mut remote) = (JoinSet::new(), JoinSet::new());
    tokio::select! {
        () = stop => {}
        () = accept_all(&mut local, &open, &bounds, async || {
            unix.accept().await.map(|(stream, _)| stream)
        }) => {}
        () = accept_all(&mut remote, &guarded, &bounds, async || match &tcp {
            Some(tcp) => tcp.accept().await.map(|(stream, _)| stream),
            None => std::future::pending().await,
        }) => {}
    }
    local.shutdown().await;
    remote.shutdown().await;
    Ok(())
}

/// What connections share.
#[derive(Clone)]
struct Bounds {
    /// Permits for answers that last.
    streams: Arc<Semaphore>,
    /// Longest time of a connection whose answers do not last.
    time_max: Duration,
}

/// Serves what one listener accepts; does not end by itself.
async fn accept_all<S>(
    connections: &mut JoinSet<()>,
    router: &axum::Router,
    bounds: &Bounds,
    accept: impl AsyncFn() -> io::Result<S>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match accept().await {
            Ok(stream) => {
                let served = connection(stream, router.clone(), bounds.clone());
                connections.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Accepting fails when descriptors run out; trying again at once would only burn time.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "control API cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn connection<S>(stream: S, router: axum::Router, bounds: Bounds)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Bounds { streams, time_max } = bounds;
    // The permit of an answer that lasts. It is kept to the end: after it, the connection has no time bound.
    let lasts = Arc::new(OnceLock::<OwnedSemaphorePermit>::new());
    let granted = Arc::clone(&lasts);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        let (router, streams, granted) = (router.clone(), Arc::clone(&streams), Arc::clone(&granted));
        async move {
            let answer = router.call(request).await?;
            let is_new = answer.extensions().get::<Lasting>().is_some() && granted.get().is_none();
            match is_new.then(|| streams.try_acquire_owned()) {
                None => {}
                // Requests of one connection come one after the other, so nobody else has set it.
                Some(Ok(permit)) => drop(granted.set(permit)),
                Some(Err(_)) => {
                    let what = "too many captures run; end one first";
                    return Ok(problem(StatusCode::SERVICE_UNAVAILABLE, what));
                }
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = match tokio::time::timeout(time_max, &mut served).await {
        Ok(ended) => ended,
        Err(_) if lasts.get().is_some() => served.await,
        Err(_) => return tracing::debug!("control connection lasted too long"),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "control connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, Bytes};
    use axum::response::Response;
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    const TIME_MAX: Duration = Duration::from_millis(50);

    /// An answer that ends long after the time bound.
    fn slow(lasting: bool) -> Response {
        let body = stream::once(async {
            tokio::time::sleep(TIME_MAX * 4).await;
            Ok::<_, Infallible>(Bytes::from_static(b"the end"))
        });
        let mut answer = Response::new(Body::from_stream(body));
        if lasting {
            answer.extensions_mut().insert(Lasting);
        }
        answer
    }

    fn ask(path: &str, streams: &Arc<Semaphore>) -> impl Future<Output = String> + use<> {
        let router = axum::Router::new()
            .route("/lasting", get(async || slow(true)))
            .route("/slow", get(async || slow(false)));
        let bounds = Bounds { streams: Arc::clone(streams), time_max: TIME_MAX };
        let (mut client, server): (DuplexStream, DuplexStream) = tokio::io::duplex(4096);
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        async move {
            tokio::spawn(connection(server, router, bounds));
            client.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("received");
            answer
        }
    }

    #[test]
    fn only_answers_that_last_outlive_the_time_bound() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let streams = Arc::new(Semaphore::new(1));
            assert!(ask("/lasting", &streams).await.contains("the end"));
            assert!(!ask("/slow", &streams).await.contains("the end"), "it was cut off");
            let (first, second) = tokio::join!(ask("/lasting", &streams), ask("/lasting", &streams));
            let served = [&first, &second].into_iter().filter(|answer| answer.contains("the end")).count();
            let refused =
                [&first, &second].into_iter().filter(|answer| answer.starts_with("HTTP/1.1 503")).count();
            assert_eq!((served, refused), (1, 1), "{first}\n{second}");
            assert!(ask("/lasting", &streams).await.contains("the end"), "there is room again");
        });
    }
}
