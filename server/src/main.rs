//! The program `varve`: flags to configuration to server, and signals to a clean stop.
//!
//! Exit codes are etcd's: 0 after SIGTERM or SIGINT, 1 if the server cannot start or go on, 2 for
//! a mistake on the command line.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use varve_disk::os::OsDisk;
use varve_server::config::{self, Config, ConfigError, Invocation, Note, help, to_setup};
use varve_server::log::{self, LogOptions};
use varve_server::metrics::Metrics;
use varve_server::server::Server;
use varve_server::snapshot::command::{self, CommandError};

// Small objects of many sizes from many threads, made on one and freed on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A mistake on the command line.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    end_with_any_thread();
    if let Err(error) = varve_disk::os::stop_on_lost_pages() {
        eprintln!("cannot handle SIGBUS: {error}");
        return ExitCode::FAILURE;
    }
    let disk = OsDisk::new();
    let text = |argument: std::ffi::OsString| argument.to_string_lossy().into_owned();
    let arguments: Vec<String> = std::env::args_os().map(text).collect();
    let environment: Vec<(String, String)> =
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    let mut notes = Vec::new();
    let own = arguments.get(1..).unwrap_or_default();
    if command::is_snapshot(own) {
        return run_snapshot(&own[1..], disk);
    }
    match config::load(own, &environment, &disk, &mut notes) {
        Ok(Invocation::Print(text)) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Ok(Invocation::Run(config)) => run(&config, &arguments, &disk),
        Err(ConfigError::Usage(message)) => {
            eprintln!("{message}\n{}", help::USAGE);
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            // Nobody has said where logs go: to stderr.
            let started = log::start(&LogOptions::default(), &disk);
            if let Err(reason) = started {
                eprintln!("{reason}");
            }
            write_notes(&notes);
            if let ConfigError::Conflict(variable) = &error {
                tracing::error!(environment_variable = %variable, "{error}");
            } else {
                tracing::warn!(error = %error, "failed to verify flags");
            }
            ExitCode::FAILURE
        }
    }
}

/// `varve snapshot ...`, see [`command`].
fn run_snapshot(arguments: &[String], disk: OsDisk) -> ExitCode {
    match command::run(arguments, Arc::new(disk)) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(CommandError::Usage(message)) => {
            eprintln!("{message}\n{}", command::USAGE);
            ExitCode::from(EXIT_USAGE)
        }
        Err(CommandError::Failed(message)) => {
            eprintln!("Error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// A thread that panicked has broken an invariant, and the others would wait for it or go on
/// without it: the process ends. (Release builds abort by themselves; this holds for all.)
fn end_with_any_thread() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn run(config: &Config, arguments: &[String], disk: &OsDisk) -> ExitCode {
    if let Err(reason) = log::start(&config.log, disk) {
        eprintln!("{reason}");
        return ExitCode::FAILURE;
    }
    write_notes(&config.notes);
    let list = serde_json::Value::from(config::shown::without_secrets(arguments));
    tracing::info!(json_fields = format!(",\"args\":{list}"), "Running: ");
    let version = varve_server::version::ETCD_VERSION;
    let fields = format!(",\"etcd-version\":\"{version}\"{}", config.shown);
    tracing::info!(json_fields = fields, "starting an etcd server");
    if config.memory_mlock
        && let Err(error) = varve_server::memory_lock::lock_memory()
    {
        tracing::error!(error = %error, "failed to start");
        return ExitCode::FAILURE;
    }
    let setup = match to_setup::setup(config, disk) {
        Ok(setup) => setup,
        Err(error) => {
            tracing::warn!(error = %error, "failed to start");
            return ExitCode::FAILURE;
        }
    };
    let metrics = Metrics::new(config.metrics);
    metrics.tell_features(&config.features);
    let server = match Server::start(setup, metrics) {
        Ok(server) => server,
        // As etcd: its own member is told in the log, its process ends well.
        Err(varve_server::error::Error::Removed) => return ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "failed to start");
            return ExitCode::FAILURE;
        }
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(error = %error, "cannot listen to signals");
            return ExitCode::FAILURE;
        }
    };
    tell_systemd();
    match signals.wait_or(server.removed()) {
        Some(received) => tracing::info!(signal = received, "received signal; shutting down"),
        None => tracing::info!("this member was removed; shutting down"),
    }
    // A second signal means: now.
    let _impatient = std::thread::Builder::new().name("signals".into()).spawn(move || {
        signals.wait();
        std::process::exit(1);
    });
    server.stop();
    ExitCode::SUCCESS
}

/// SIGTERM and SIGINT.
struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let context = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(context);
        Ok(Self { runtime, terminate, interrupt })
    }

    /// The name of the next signal; none if the member is removed before one comes.
    fn wait_or(&mut self, mut removed: tokio::sync::watch::Receiver<bool>) -> Option<&'static str> {
        let Self { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => Some("terminated"),
                _ = interrupt.recv() => Some("interrupt"),
                _ = removed.wait_for(|removed| *removed) => None,
            }
        })
    }

    /// The name of the next signal.
    fn wait(&mut self) -> &'static str {
        let Self { runtime, terminate, interrupt } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => "terminated",
                _ = interrupt.recv() => "interrupt",
            }
        })
    }
}

fn write_notes(notes: &[Note]) {
    for note in notes {
        let fields = note.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let fields = log::json_fields(fields);
        if note.is_warning {
            tracing::warn!(json_fields = fields, "{}", note.message);
        } else {
            tracing::info!(json_fields = fields, "{}", note.message);
        }
    }
}

fn print(text: &str) {
    // A reader that has gone away (`varve --help | head`) is no error.
    let _gone = std::io::stdout().write_all(text.as_bytes());
}

/// Tells systemd that a unit of type `notify` has started (sd_notify).
fn tell_systemd() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(b"READY=1", path));
    if let Err(error) = told {
        tracing::warn!(error = %error, "failed to notify systemd for readiness");
    }
}
