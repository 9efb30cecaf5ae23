//! The thread that sends spans to a collector: OTLP over gRPC, in plain, as etcd does.
//!
//! One idea: everything that can take long happens here and is bounded. What waits is sent once in a
//! period, or when a batch is full; one batch is under way at a time. A batch that the collector does
//! not take is tried again each period, but only in the first minute of its absence: who comes back
//! later wants what is new. Meanwhile what comes waits, as far as there is room (`Tracer::put`). The
//! log says once that the collector is away, and once that it is back. When the server stops, what
//! waits is sent, within a bound; what fails then is not tried again.
//!
//! What it does not do: TLS, compression, headers for the collector.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use http::HeaderMap;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::call::Span;
use super::otlp::{self, Answer, Resource};
use super::{TraceOptions, Tracer};
use crate::grpc::client::{self, Connection, unavailable};
use crate::grpc::status::deadline_exceeded;
use crate::grpc::{Code, Status};
use crate::limits;
use crate::metrics::Metrics;
use crate::peer::stream;
use crate::read_pool::lower_priority;

/// The thread, running.
pub struct Exporting {
    thread: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Exporting {
    /// Starts it; nobody is dialled yet.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(options: &TraceOptions, metrics: &Arc<Metrics>) -> io::Result<(Tracer, Self)> {
        let tracer = Tracer::new(options.sampling_rate, Arc::clone(metrics));
        let (stop, stopping) = watch::channel(false);
        let exporter = Exporter {
            address: Address::parse(&options.address),
            resource: otlp::resource(options),
            tracer: tracer.clone(),
            connection: None,
            batch: Vec::new(),
            failing: None,
            stopping,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("traces".to_owned()).spawn(move || {
            lower_priority();
            runtime.block_on(exporter.run());
            // A name that is still being looked up is nothing to wait for.
            runtime.shutdown_background();
        })?;
        tracing::debug!(
            address = %options.address,
            service_name = %options.service_name,
            service_instance_id = %options.instance_id,
            sampling_rate = options.sampling_rate,
            "distributed tracing enabled"
        );
        tracing::info!("distributed tracing setup enabled");
        Ok((tracer, Self { thread, stop }))
    }

    /// Tells it to send what waits and to end, within `limits::TRACE_FLUSH_TIMEOUT`.
    pub fn begin_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until it has ended.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the thread that sends traces panicked while stopping");
        }
    }
}

struct Exporter {
    address: Address,
    resource: Resource,
    tracer: Tracer,
    connection: Option<Connection>,
    /// What is being sent.
    batch: Vec<Span>,
    /// Set while the collector does not take what it gets.
    failing: Option<Failing>,
    stopping: watch::Receiver<bool>,
}

struct Failing {
    since: Instant,
    /// Spans that had been dropped then.
    dropped_before: u64,
}

/// Where the collector is.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    scheme: &'static str,
    place: String,
    /// What it is called by: `:authority`.
    authority: String,
}

impl Address {
    /// `host:port`, with or without `http://` or `dns:///`; `unix:` and a path.
    fn parse(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("unix:") {
            let place = path.strip_prefix("//").unwrap_or(path).to_owned();
            return Self { scheme: "unix", place, authority: "localhost".to_owned() };
        }
        let place = text.strip_prefix("http://").or_else(|| text.strip_prefix("dns:///"));
        let place = place.unwrap_or(text).trim_end_matches('/').to_owned();
        Self { scheme: "http", authority: place.clone(), place }
    }
}

impl Exporter {
    /// The thread's body.
    async fn run(mut self) {
        let mut stopping = self.stopping.clone();
        let overdue = async {
            wait_stop(&mut stopping).await;
            sleep(limits::TRACE_FLUSH_TIMEOUT).await;
        };
        let is_overdue = tokio::select! {
            biased;
            () = self.send_until_stopped() => false,
            () = overdue => true,
        };
        let left = self.batch.len() + self.tracer.0.waiting().len();
        if is_overdue || left > 0 {
            self.tracer.count_dropped(left);
            tracing::warn!(spans = left, "stopped before all spans of traces were sent");
        }
    }

    async fn send_until_stopped(&mut self) {
        loop {
            // Nothing comes into the table after that.
            let is_stopping = self.wait().await;
            while self.has_batch() && self.send().await {}
            if is_stopping {
                return;
            }
        }
    }

    /// Until there is enough to send, or something may have waited for long, or the server stops; true
    /// if it does.
    async fn wait(&mut self) -> bool {
        let enough = async {
            match self.failing {
                // More of what is not taken is no reason to hurry.
                Some(_) => std::future::pending().await,
                None => self.tracer.0.enough.notified().await,
            }
        };
        tokio::select! {
            () = wait_stop(&mut self.stopping) => true,
            () = enough => false,
            () = sleep(limits::TRACE_PERIOD) => false,
        }
    }

    /// Whether there is anything to send.
    fn has_batch(&mut self) -> bool {
        if self.batch.is_empty() {
            self.batch = self.tracer.0.take_batch();
        }
        !self.batch.is_empty()
    }

    /// Sends the batch; false if that is to be tried again later.
    async fn send(&mut self) -> bool {
        match timeout(limits::TRACE_EXPORT_TIMEOUT, self.call()).await {
            Ok(Ok(answer)) => {
                self.sent(answer);
                true
            }
            Ok(Err(status)) => self.failed(&status),
            Err(_) => self.failed(&deadline_exceeded()),
        }
    }

    async fn call(&mut self) -> Result<Answer, Status> {
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_ready() => connection,
            _ => self.dial().await?,
        };
        let request = otlp::request(&self.resource, &self.batch);
        let authority = &self.address.authority;
        let metadata = HeaderMap::new();
        let answer =
            client::unary(&mut connection, authority, otlp::EXPORT, metadata, &request).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn dial(&self) -> Result<Connection, Status> {
        let Address { scheme, place, .. } = &self.address;
        let stream = stream::open(scheme, place, limits::PEER_SILENCE_MAX).await;
        let stream = stream.map_err(|error| unavailable(&error))?;
        client::connect(stream).await.map_err(|error| unavailable(&error))
    }

    fn sent(&mut self, answer: Answer) {
        let count = self.batch.len() as u64;
        let refusal = answer.refusal.unwrap_or_default();
        let refused = u64::try_from(refusal.spans).unwrap_or(0).min(count);
        let metrics = &self.tracer.0.metrics;
        metrics.trace_spans_sent.inc_by(count - refused);
        metrics.trace_spans_dropped.inc_by(refused);
        if refused > 0 {
            tracing::debug!(spans = refused, why = %refusal.why, "a collector refused spans");
        }
        self.batch.clear();
        if let Some(failing) = self.failing.take() {
            let dropped = metrics.trace_spans_dropped.get() - failing.dropped_before;
            tracing::info!(dropped, "traces are sent again");
        }
    }

    /// Keeps the batch if it may be taken later; whether to go on with the next one.
    fn failed(&mut self, status: &Status) -> bool {
        let metrics = &self.tracer.0.metrics;
        let failing = self.failing.get_or_insert_with(|| {
            tracing::warn!(
                address = %self.address.place,
                error = %status,
                "cannot send traces; spans for which there is no room are dropped"
            );
            Failing { since: Instant::now(), dropped_before: metrics.trace_spans_dropped.get() }
        });
        let is_for_later = may_be_taken_later(status.code);
        if is_for_later && failing.since.elapsed() < limits::TRACE_RETRY_MAX {
            return false;
        }
        self.tracer.count_dropped(self.batch.len());
        self.batch.clear();
        !is_for_later
    }
}

/// Whether what ended with this code is to be tried again, as OpenTelemetry's protocol has it.
fn may_be_taken_later(code: Code) -> bool {
    matches!(
        code,
        Code::Canceled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

async fn wait_stop(stopping: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_named_as_grpc_names_servers() {
        for (text, scheme, place, authority) in [
            ("localhost:4317", "http", "localhost:4317", "localhost:4317"),
            ("[::1]:4317", "http", "[::1]:4317", "[::1]:4317"),
            ("dns:///a.test:1", "http", "a.test:1", "a.test:1"),
            ("http://a.test:1/", "http", "a.test:1", "a.test:1"),
            ("unix:///run/c.sock", "unix", "/run/c.sock", "localhost"),
            ("unix:c.sock", "unix", "c.sock", "localhost"),
        ] {
            let expected =
                Address { scheme, place: place.to_owned(), authority: authority.to_owned() };
            assert_eq!(Address::parse(text), expected, "{text}");
        }
    }
}
