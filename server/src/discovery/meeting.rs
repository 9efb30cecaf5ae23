//! Founders that meet in another cluster, at keys that its token names.
//!
//! ```text
//! /_etcd/registry/TOKEN/_config/size       how many are expected, written by the operator
//! /_etcd/registry/TOKEN/members/ID         NAME=URL,NAME=URL of one of them
//! ```
//!
//! One idea: whoever wrote first is in. Each writes its key, and looks again until there are as many
//! as expected; the first of them, by the revision of their keys, are the cluster. etcd watches
//! where this looks every half second: the outcome is the same.
//!
//! What it does not do: remove what it wrote. A token is good for one cluster.

use std::time::Duration;

use prost::Message;
use varve_api::etcdserverpb::{PutRequest, PutResponse, RangeRequest, RangeResponse};
use varve_api::method::{self, Method};

use super::DiscoveryOptions;
use super::client::{CallError, Client};
use crate::config::bootstrap::InitialCluster;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Pauses after errors double from a second up to this; etcd's number.
const PAUSE_MAX: Duration = Duration::from_secs(256);

/// Takes part as the member `id`, whose name and URLs are `own`; gives what `--initial-cluster`
/// would be when all have come. Places that cannot be reached are tried again for ever.
///
/// # Errors
/// Etcd's text: no size is given, or others were there first.
pub(super) fn join(options: &DiscoveryOptions, id: u64, own: &str) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let client = Client::new(options)?;
    let place = format!("/_etcd/registry/{}", options.token.trim_matches('/'));
    let mut meeting = Meeting {
        client,
        size_key: format!("{place}/_config/size"),
        members: (format!("{place}/members/"), format!("{place}/members0")),
        own_key: format!("{place}/members/{id:x}"),
        pause: Duration::ZERO,
    };
    runtime.block_on(async {
        // Who comes too late leaves nothing behind.
        meeting.look().await?;
        meeting.register(own).await?;
        loop {
            let found = meeting.look().await?;
            if found.members.len() >= found.size {
                return founders(&found);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    })
}

struct Meeting<'a> {
    client: Client<'a>,
    size_key: String,
    /// Where their keys begin and end; behind the slash comes the zero.
    members: (String, String),
    own_key: String,
    pause: Duration,
}

/// Who is there.
#[derive(Debug)]
struct Found {
    size: usize,
    /// Keys and values, oldest first.
    members: Vec<(String, String)>,
}

impl Meeting<'_> {
    /// Who is there; an error if this member has no place among them.
    async fn look(&mut self) -> Result<Found, String> {
        let size = RangeRequest { key: self.size_key.clone().into(), ..RangeRequest::default() };
        let size = self.range(size).await?;
        let size = size.kvs.first().ok_or("discovery: size key not found")?;
        let size = size_of(&size.value).ok_or("discovery: size key is bad")?;
        let everybody = RangeRequest {
            key: self.members.0.clone().into(),
            range_end: self.members.1.clone().into(),
            ..RangeRequest::default()
        };
        let found = Found { size, members: members_of(self.range(everybody).await?) };
        if found.has_room_for(&self.own_key) {
            Ok(found)
        } else {
            Err("discovery: cluster is full".to_owned())
        }
    }

    async fn register(&mut self, own: &str) -> Result<(), String> {
        let put = PutRequest {
            key: self.own_key.clone().into(),
            value: own.to_owned().into(),
            ..PutRequest::default()
        };
        let PutResponse { .. } = self.call(&method::KV_PUT, &put).await?;
        Ok(())
    }

    async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, String> {
        let response = self.call(&method::KV_RANGE, &request).await?;
        self.pause = Duration::ZERO;
        Ok(response)
    }

    /// Calls until there is an answer, or a refusal.
    async fn call<A: Message + Default>(
        &mut self,
        method: &Method,
        request: &impl Message,
    ) -> Result<A, String> {
        loop {
            match self.client.call(method, request).await {
                Ok(response) => return Ok(response),
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    async fn wait_after(&mut self, error: CallError) -> Result<(), String> {
        let reason = match error {
            CallError::Refused(reason) => return Err(reason),
            CallError::Again(reason) => reason,
        };
        self.pause = (self.pause * 2).clamp(Duration::from_secs(1), PAUSE_MAX);
        tracing::warn!(
            error = reason,
            backoff_seconds = self.pause.as_secs(),
            "retry connecting to discovery service"
        );
        tokio::time::sleep(self.pause).await;
        Ok(())
    }
}

fn size_of(value: &[u8]) -> Option<usize> {
    std::str::from_utf8(value).ok()?.parse().ok().filter(|size| *size > 0)
}

fn members_of(response: RangeResponse) -> Vec<(String, String)> {
    let mut pairs = response.kvs;
    pairs.sort_by_key(|pair| pair.create_revision);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let members = pairs.iter().map(|pair| (text(&pair.key), text(&pair.value)));
    let (members, others): (Vec<_>, Vec<_>) = members.partition(|(_, value)| value.contains('='));
    for (key, value) in others {
        tracing::warn!(key, value, "invalid peer info returned from discovery service");
    }
    members
}

impl Found {
    fn has_room_for(&self, key: &str) -> bool {
        let position = self.members.iter().position(|(known, _)| known == key);
        position.unwrap_or(self.members.len()) < self.size
    }
}

fn founders(found: &Found) -> Result<String, String> {
    let values: Vec<&str> =
        found.members.iter().take(found.size).map(|(_, value)| value.as_str()).collect();
    let text = values.join(",");
    let cluster = InitialCluster::parse(&text).map_err(|_| "discovery: invalid peer URL")?;
    if cluster.has_duplicate_url() {
        return Err(format!("discovery cluster {cluster} has duplicate url"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use varve_api::mvccpb::KeyValue;

    use super::*;

    fn found(size: usize, values: &[&str]) -> Found {
        let pairs = values.iter().enumerate().map(|(number, value)| KeyValue {
            key: format!("{number}").into(),
            value: (*value).to_owned().into(),
            // The last to be listed was the first to come.
            create_revision: -(number as i64),
            ..KeyValue::default()
        });
        let response = RangeResponse { kvs: pairs.collect(), ..RangeResponse::default() };
        Found { size, members: members_of(response) }
    }

    #[test]
    fn the_first_to_come_are_in() {
        let found = found(2, &["c=http://c:1", "b=http://b:1", "nonsense", "a=http://a:1 "]);
        assert_eq!(founders(&found).unwrap(), "a=http://a:1,b=http://b:1");
        let room = ["0", "1", "3", "another"].map(|key| found.has_room_for(key));
        assert_eq!(room, [false, true, true, false]);
    }

    #[test]
    fn there_is_room_until_all_have_come() {
        assert!(found(1, &[]).has_room_for("another"));
        assert!(found(3, &["a=http://a:1", "b=http://b:1"]).has_room_for("another"));
        assert!(!found(2, &["a=http://a:1", "b=http://b:1"]).has_room_for("another"));
    }

    #[test]
    fn what_is_no_cluster_is_refused_in_etcds_words() {
        let bad = founders(&found(1, &["a=nowhere"])).unwrap_err();
        assert_eq!(bad, "discovery: invalid peer URL");
        let twice = founders(&found(2, &["a=http://a:1", "b=http://a:1"])).unwrap_err();
        assert_eq!(twice, "discovery cluster a=http://a:1,b=http://a:1 has duplicate url");
        let sizes = [&b"3"[..], b"0", b"-1", b"many", b""].map(size_of);
        assert_eq!(sizes, [Some(3), None, None, None, None]);
    }
}
