//! `ringway run`: configuration, control socket, data plane, API, signals, and the way back.
//!
//! The service manager is told what goes on (sd_notify(3)): ready, reloading (also on SIGHUP), stopping, and, if it asks for
//! it, that the control thread and the plane still answer. Sockets it made are used (`crate::inherited`).

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{LogFormat, StartPlane};
use crate::api::change::{self, Desired};
use crate::api::server::{self, Given, Listeners};
use crate::api::{Api, Plane};
use crate::config::Loaded;
use crate::inherited;

/// Serves in the foreground until SIGTERM or SIGINT. The control socket is taken first, so that a second ringway with
/// the same configuration fails before it touches anything.
pub(crate) fn run(file: &Path, log_format: LogFormat, start: StartPlane) -> anyhow::Result<()> {
    inherited::receive()?;
    let (document, loaded) = change::read(file)?;
    change::machine_check(&loaded)?;
    start_log(log_format)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _entered = runtime.enter();
        Signals::listen().context("signals")?
    };
    let control = &loaded.config.control;
    let desired = Arc::new(Desired::new(document, file.to_path_buf(), control)?);
    let given = Given { unix: inherited::take("control"), tcp: inherited::take("http") };
    let listeners = Listeners::bind_or_take(control, given)?;
    say_who_is_let_in(&listeners, &loaded);
    let socket = control.socket.display().to_string();
    let plane = start(&loaded.config).context("data plane")?;
    say_what_is_left(&*plane);
    let api = Api::new(Arc::clone(&plane), Arc::clone(&desired));
    let served = runtime.block_on(async {
        tracing::info!(%socket, version = env!("CARGO_PKG_VERSION"), "serving");
        notify(&[NotifyState::Ready]);
        let Signals { hangup, stop } = signals;
        tokio::select! {
            served = server::serve(&listeners, &api, stop.received()) => served,
            never = reload_on(hangup, &plane, &desired) => match never {},
            never = feed_watchdog(&plane) => match never {},
        }
    });
    notify(&[NotifyState::Stopping]);
    tracing::info!("stopping");
    plane.stop();
    drop(listeners);
    served.context("control API")
}

fn say_who_is_let_in(listeners: &Listeners, loaded: &Loaded) {
    let Some(address) = listeners.http_address() else { return };
    let token = loaded.config.control.token_file.is_some();
    if address.ip().is_loopback() {
        tracing::info!(%address, token, "listening");
    } else {
        tracing::warn!(
            %address,
            token,
            "metrics can be read by every host that reaches this address; tokens cross the network unencrypted"
        );
    }
}

/// Names sockets that were passed for ports and disks that do not exist.
fn say_what_is_left(plane: &dyn Plane) {
    for name in inherited::names() {
        let mode = match (name.strip_prefix("port."), name.strip_prefix("disk.")) {
            (Some(port), _) => plane.port(port).and_then(|port| port.socket_mode),
            (None, Some(disk)) => plane.disk(disk).map(|disk| disk.socket_mode),
            (None, None) => continue,
        };
        if mode.as_deref() != Some("server") {
            tracing::warn!(name, "a socket was passed, but there is nothing of that name in server mode");
        }
    }
}

/// What cannot happen: these go on until they are dropped.
enum Never {}

/// Reads the file again whenever SIGHUP comes.
async fn reload_on(mut hangup: Signal, plane: &Arc<dyn Plane>, desired: &Arc<Desired>) -> Never {
    loop {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        match NotifyState::monotonic_usec_now() {
            Ok(moment) => notify(&[NotifyState::Reloading, moment]),
            Err(error) => tracing::warn!(%error, "the service manager cannot be told of a reload"),
        }
        let (plane, desired) = (Arc::clone(plane), Arc::clone(desired));
        match tokio::task::spawn_blocking(move || desired.reload(&*plane)).await {
            // What changed was logged.
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(%error, "the configuration stays as it is"),
            Err(error) => tracing::error!(%error, "the reload broke off"),
        }
        notify(&[NotifyState::Ready]);
    }
}

/// Tells the service manager twice in its time that the plane answers, if it wants to know (`WatchdogSec=`).
async fn feed_watchdog(plane: &Arc<dyn Plane>) -> Never {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else {
        return std::future::pending().await;
    };
    let mut tick = tokio::time::interval((period / 2).max(Duration::from_millis(1)));
    loop {
        tick.tick().await;
        let plane = Arc::clone(plane);
        if tokio::task::spawn_blocking(move || plane.status()).await.is_ok() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

/// The signals that are listened to from the start.
struct Signals {
    hangup: Signal,
    stop: StopSignals,
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals { hangup: signal(SignalKind::hangup())?, stop: StopSignals::listen()? })
    }
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn listen() -> std::io::Result<StopSignals> {
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn received(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Tells the service manager, if there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

fn start_log(format: LogFormat) -> anyhow::Result<()> {
    let words = std::env::var("RINGWAY_LOG").unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::try_new(&words).with_context(|| format!("RINGWAY_LOG={words:?}"))?;
    let colour = std::io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    }
    .map_err(|error| anyhow::anyhow!("log: {error}"))
}
