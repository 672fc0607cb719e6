//! `ringway run`: configuration, control socket, data plane, API, signals, and the way back.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{LogFormat, StartPlane};
use crate::api::server::{self, Listeners};
use crate::config;

/// Serves in the foreground until SIGTERM or SIGINT. The control socket is taken first, so that a second ringway with
/// the same configuration fails before it touches anything.
pub(crate) fn run(file: &Path, log_format: LogFormat, start: StartPlane) -> anyhow::Result<()> {
    let loaded = config::load(file)?;
    config::environment_check(&loaded)?;
    start_log(log_format)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = {
        let _entered = runtime.enter();
        StopSignals::listen().context("signals")?
    };
    let listeners = Listeners::bind(&loaded.config.control)?;
    if let Some(address) = listeners.http_address().filter(|address| !address.ip().is_loopback()) {
        tracing::warn!(%address, "the control API can be read by every host that reaches this address");
    }
    let socket = loaded.config.control.socket.display().to_string();
    let plane = start(&loaded.config).context("data plane")?;
    let served = runtime.block_on(async {
        tracing::info!(%socket, version = env!("CARGO_PKG_VERSION"), "serving");
        notify(NotifyState::Ready);
        server::serve(&listeners, std::sync::Arc::clone(&plane), stop.received()).await
    });
    notify(NotifyState::Stopping);
    tracing::info!("stopping");
    plane.stop();
    drop(listeners);
    served.context("control API")
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
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
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
