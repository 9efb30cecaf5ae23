//! `/debug/pprof/`, behind `--enable-pprof`: what `go tool pprof` asks for.
//!
//! One idea: the profile of the processor is real ([`crate::profile`]); what only Go's runtime has
//! is answered with 501 and where to look instead, so that nobody takes an empty profile for an
//! answer.

use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, HeaderName, HeaderValue};

use super::query::Query;
use super::{Reply, error, no_sniff, reply};
use crate::config::shown::without_secrets;
use crate::limits;
use crate::profile;

/// In front of all paths.
pub(super) const PREFIX: &str = "/debug/pprof/";

/// How long a profile takes if nothing else is said; Go's number.
const DURATION_DEFAULT: Duration = Duration::from_secs(30);

/// Profiles of Go's runtime, and what there is here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("allocs", "process_resident_memory_bytes in /metrics"),
    ("block", "etcd_disk_ and varve_ histograms in /metrics"),
    ("goroutine", "threads, by name: /proc/PID/task/*/comm"),
    ("heap", "process_resident_memory_bytes in /metrics"),
    ("mutex", "etcd_disk_ and varve_ histograms in /metrics"),
    ("threadcreate", "process_threads in /metrics"),
    ("trace", "/debug/pprof/profile"),
];

/// Answers what stands behind [`PREFIX`].
pub(super) async fn answer(name: &str, query: &Query) -> Reply {
    match name {
        "" => index(),
        "cmdline" => command_line(),
        "profile" => cpu(query).await,
        // Profiles have their names with them: there is nothing to be looked up.
        "symbol" => no_sniff(reply(StatusCode::OK, TEXT, "num_symbols: 0\n")),
        _ => match ELSEWHERE.iter().find(|(known, _)| *known == name) {
            Some((_, instead)) => {
                let text = format!("{name}: only programs in Go have it; here: {instead}");
                error(StatusCode::NOT_IMPLEMENTED, &text)
            }
            None => mark(error(StatusCode::NOT_FOUND, "Unknown profile")),
        },
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn index() -> Reply {
    let mut page = String::from(
        "<html><head><title>/debug/pprof/</title></head><body>\n<p>Profiles of this process, for \
         <code>go tool pprof</code>:</p>\n<ul>\n\
         <li><a href=\"profile?seconds=30\">profile</a>: where the processor's time goes</li>\n\
         <li><a href=\"cmdline\">cmdline</a>: the command line</li>\n\
         <li><a href=\"symbol\">symbol</a></li>\n</ul>\n<p>Not here:</p>\n<ul>\n",
    );
    for (name, instead) in ELSEWHERE {
        page.push_str(&format!("<li>{name}; see {instead}</li>\n"));
    }
    page.push_str("</ul></body></html>\n");
    no_sniff(reply(StatusCode::OK, "text/html; charset=utf-8", page))
}

fn command_line() -> Reply {
    let arguments: Vec<String> = std::env::args().collect();
    let arguments = without_secrets(&arguments);
    no_sniff(reply(StatusCode::OK, TEXT, arguments.join("\0")))
}

async fn cpu(query: &Query) -> Reply {
    let seconds = query.first("seconds").and_then(|text| text.parse::<u64>().ok());
    let duration = match seconds {
        None | Some(0) => DURATION_DEFAULT,
        Some(seconds) => Duration::from_secs(seconds),
    };
    match profile::record(duration.min(limits::PROFILE_DURATION_MAX)).await {
        Ok(bytes) => {
            let mut response = no_sniff(reply(StatusCode::OK, "application/octet-stream", bytes));
            let name = HeaderValue::from_static("attachment; filename=\"profile\"");
            response.headers_mut().insert(CONTENT_DISPOSITION, name);
            response
        }
        Err(reason) => {
            let text = format!("Could not enable CPU profiling: {reason}");
            mark(error(StatusCode::INTERNAL_SERVER_ERROR, &text))
        }
    }
}

/// `go tool pprof` shows the text of an error that has this.
fn mark(mut response: Reply) -> Reply {
    let name = HeaderName::from_static("x-go-pprof");
    response.headers_mut().insert(name, HeaderValue::from_static("1"));
    response
}
