//! Asking a running cluster who its members are, before this process is one of them.
//!
//! One idea: a stream of its own kind on the peers' port, one question and one answer, from the
//! first member that answers. Frames: docs/FORMAT.md section 5.

use std::time::Duration;

use prost::Message;
use tokio::time::timeout;
use varve_api::etcdserverpb::{Member, MemberListResponse};

use crate::config::url::Url;
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let mut why = "no other member is named in --initial-cluster".to_owned();
    for url in urls {
        match runtime.block_on(ask(url, tls)) {
            Ok(cluster) => return Ok(cluster),
            Err(error) => {
                why = format!("{url}: {error}");
                tracing::warn!(peer = %url, error = %error, "failed to get the members of the cluster");
            }
        }
    }
    Err(format!(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the \
         given URLs ({why})"
    ))
}

async fn ask(url: &Url, tls: Option<&TlsSource>) -> Result<RunningCluster, FrameError> {
    let late = |_| FrameError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let address = address_of(url.as_str()).unwrap_or_else(|| url.authority());
    let mut stream = stream::dial(&address, tls).await?;
    let hello = Hello { cluster_id: 0, from: 0, to: 0, stream: StreamKind::Members };
    frame::write(&mut stream, FrameKind::Hello, &hello.encode()).await?;
    let answer = frame::expect(&mut stream, FrameKind::Members);
    let answer = timeout(ANSWER_TIMEOUT, answer).await.map_err(late)??;
    let list = MemberListResponse::decode(answer)
        .map_err(|error| FrameError::malformed("a list of members", error.to_string()))?;
    let cluster_id = list.header.unwrap_or_default().cluster_id;
    if cluster_id == 0 || list.members.is_empty() {
        return Err(FrameError::malformed("a member of a cluster", "one that has just joined"));
    }
    Ok(RunningCluster { cluster_id, members: list.members })
}

/// A member answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
