//! Asking a running cluster who its members are, before this process is one of them.
//!
//! One idea: a stream of its own kind on the peers' port, one question and one answer, from the
//! first member that answers. Frames: docs/FORMAT.md section 5.
//!
//! Who joins learns from it whom it is going to be. Who founds learns whether it has been there before
//! and lost what it had: then it may not come back as if it had never voted or acknowledged anything.

use std::time::Duration;

use prost::Message;
use tokio::time::timeout;
use varve_api::etcdserverpb::{Member, MemberListResponse};

use crate::config::url::Url;
use crate::limits;
use crate::peer::frame::{self, FrameError, FrameKind, Hello, StreamKind};
use crate::peer::stream::{self, address_of};
use crate::tls::TlsSource;

/// What was learnt.
#[derive(Clone, Debug)]
pub struct RunningCluster {
    /// Its id.
    pub cluster_id: u64,
    /// Its members; never empty.
    pub members: Vec<Member>,
}

/// Asks one after the other.
///
/// # Errors
/// None of them answers; etcd's text, and why the last did not.
pub fn ask_members<'a>(
    urls: impl Iterator<Item = &'a Url>,
    tls: Option<&TlsSource>,
) -> Result<RunningCluster, String> {
    let mut why = "no other member is named in --initial-cluster".to_owned();
    let failed = |url: &Url, error: FrameError| {
        tracing::warn!(peer = %url, error = %error, "failed to get the members of the cluster");
        why = format!("{url}: {error}");
    };
    first_answer(urls, tls, JOINING_TIMEOUT, failed)?.ok_or_else(|| {
        format!(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from \
             the given URLs ({why})"
        )
    })
}

/// Whether the others know `member` as one that has started: only then a member has client URLs.
/// If nobody answers, it has not.
///
/// # Errors
/// There can be no network.
pub fn has_started<'a>(
    member: u64,
    others: impl Iterator<Item = &'a Url>,
    tls: Option<&TlsSource>,
) -> Result<bool, String> {
    let failed = |url: &Url, error: FrameError| {
        tracing::debug!(peer = %url, error = %error, "nobody says who the members are");
    };
    let cluster = first_answer(others, tls, FOUNDING_TIMEOUT, failed)?;
    let is_it = |known: &Member| known.id == member && !known.client_urls.is_empty();
    Ok(cluster.is_some_and(|cluster| cluster.members.iter().any(is_it)))
}

fn first_answer<'a>(
    urls: impl Iterator<Item = &'a Url>,
    tls: Option<&TlsSource>,
    patience: Duration,
    mut failed: impl FnMut(&Url, FrameError),
) -> Result<Option<RunningCluster>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let mut answer = None;
    for url in urls {
        let late = |_| FrameError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let asked = async { timeout(patience, ask(url, tls)).await.map_err(late)? };
        match runtime.block_on(asked) {
            Ok(cluster) => {
                answer = Some(cluster);
                break;
            }
            Err(error) => failed(url, error),
        }
    }
    // A name that nobody resolves is not waited for.
    runtime.shutdown_background();
    Ok(answer)
}

async fn ask(url: &Url, tls: Option<&TlsSource>) -> Result<RunningCluster, FrameError> {
    let address = address_of(url.as_str()).unwrap_or_else(|| url.authority());
    let mut stream = stream::dial(&address, tls, limits::PEER_SILENCE_MAX).await?;
    let (kind, urls) = (StreamKind::Members, Vec::new());
    let hello = Hello { cluster_id: 0, from: 0, to: 0, stream: kind, as_of: 0, urls };
    frame::write(&mut stream, FrameKind::Hello, &hello.encode()).await?;
    let answer = frame::expect(&mut stream, FrameKind::Members).await?;
    let list = MemberListResponse::decode(answer)
        .map_err(|error| FrameError::malformed("a list of members", error.to_string()))?;
    let cluster_id = list.header.unwrap_or_default().cluster_id;
    if cluster_id == 0 || list.members.is_empty() {
        return Err(FrameError::malformed("a member of a cluster", "one that has just joined"));
    }
    Ok(RunningCluster { cluster_id, members: list.members })
}

/// How long a member may take to answer who joins; etcd's number.
const JOINING_TIMEOUT: Duration = Duration::from_secs(10);
/// And who founds; etcd's number. When all members start for the first time, nobody is there yet.
const FOUNDING_TIMEOUT: Duration = Duration::from_secs(1);
