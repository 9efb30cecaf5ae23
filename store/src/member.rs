//! Who belongs to the cluster, as replicated data.
//!
//! One idea: ids and peer URLs are fixed when the cluster is founded; name and client URLs are told
//! by each member itself once it has started ([`MemberPublish`]), as in etcd.

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id, computed by the server as etcd computes it.
    pub id: u64,
    /// Its name; empty until it has published it, unless the founding names it.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has published them.
    pub client_urls: Vec<String>,
    /// Receives the log and has no vote.
    pub is_learner: bool,
}

/// What an empty engine is founded with: the same on every founding member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The first members.
    pub members: Vec<Member>,
}

/// Body of [`crate::CommandKind::MemberPublish`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPublish {
    /// Whose name and URLs these are.
    pub member_id: u64,
    /// Its name from now on.
    pub name: String,
    /// Its client URLs from now on.
    pub client_urls: Vec<String>,
}
