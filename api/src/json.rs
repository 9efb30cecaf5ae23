//! The same words in JSON: the paths of etcd's HTTP gateway, and the names of fields there.
//!
//! One idea: a path is a method, and JSON is another spelling of its messages. [`DESCRIPTORS`]
//! spells the fields as etcd does (`kvs`, but `dbSize`, `peerURLs`, `ID`), which is not always how
//! `proto/*.proto` spells them for Rust.
//!
//! What it does not do: read or write JSON; methods without a path (`RangeStream`, the health
//! check) are for gRPC only, as in etcd.

use crate::method::{self, METHODS, Method};

/// An encoded `google.protobuf.FileDescriptorSet` of all messages and services. Each field has
/// etcd's name, which is what the gateway writes; its `json_name` is what it reads as well.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

/// What every path of the gateway begins with.
pub const PREFIX: &str = "/v3/";

/// What it began with before etcd 3.4.
pub const PREFIX_OLD: &str = "/v3beta/";

/// Path to method; all are called with POST.
pub const PATHS: &[(&str, Method)] = &[
    ("/v3/kv/range", method::KV_RANGE),
    ("/v3/kv/put", method::KV_PUT),
    ("/v3/kv/deleterange", method::KV_DELETE_RANGE),
    ("/v3/kv/txn", method::KV_TXN),
    ("/v3/kv/compaction", method::KV_COMPACT),
    ("/v3/watch", method::WATCH_WATCH),
    ("/v3/lease/grant", method::LEASE_GRANT),
    ("/v3/lease/revoke", method::LEASE_REVOKE),
    ("/v3/kv/lease/revoke", method::LEASE_REVOKE),
    ("/v3/lease/keepalive", method::LEASE_KEEP_ALIVE),
    ("/v3/lease/timetolive", method::LEASE_TIME_TO_LIVE),
    ("/v3/kv/lease/timetolive", method::LEASE_TIME_TO_LIVE),
    ("/v3/lease/leases", method::LEASE_LEASES),
    ("/v3/kv/lease/leases", method::LEASE_LEASES),
    ("/v3/cluster/member/add", method::CLUSTER_MEMBER_ADD),
    ("/v3/cluster/member/remove", method::CLUSTER_MEMBER_REMOVE),
    ("/v3/cluster/member/update", method::CLUSTER_MEMBER_UPDATE),
    ("/v3/cluster/member/list", method::CLUSTER_MEMBER_LIST),
    ("/v3/cluster/member/promote", method::CLUSTER_MEMBER_PROMOTE),
    ("/v3/maintenance/alarm", method::MAINTENANCE_ALARM),
    ("/v3/maintenance/status", method::MAINTENANCE_STATUS),
    ("/v3/maintenance/defragment", method::MAINTENANCE_DEFRAGMENT),
    ("/v3/maintenance/hash", method::MAINTENANCE_HASH),
    ("/v3/maintenance/hashkv", method::MAINTENANCE_HASH_KV),
    ("/v3/maintenance/snapshot", method::MAINTENANCE_SNAPSHOT),
    ("/v3/maintenance/transfer-leadership", method::MAINTENANCE_MOVE_LEADER),
    ("/v3/maintenance/downgrade", method::MAINTENANCE_DOWNGRADE),
    ("/v3/auth/enable", method::AUTH_ENABLE),
    ("/v3/auth/disable", method::AUTH_DISABLE),
    ("/v3/auth/status", method::AUTH_STATUS),
    ("/v3/auth/authenticate", method::AUTH_AUTHENTICATE),
    ("/v3/auth/user/add", method::AUTH_USER_ADD),
    ("/v3/auth/user/get", method::AUTH_USER_GET),
    ("/v3/auth/user/list", method::AUTH_USER_LIST),
    ("/v3/auth/user/delete", method::AUTH_USER_DELETE),
    ("/v3/auth/user/changepw", method::AUTH_USER_CHANGE_PASSWORD),
    ("/v3/auth/user/grant", method::AUTH_USER_GRANT_ROLE),
    ("/v3/auth/user/revoke", method::AUTH_USER_REVOKE_ROLE),
    ("/v3/auth/role/add", method::AUTH_ROLE_ADD),
    ("/v3/auth/role/get", method::AUTH_ROLE_GET),
    ("/v3/auth/role/list", method::AUTH_ROLE_LIST),
    ("/v3/auth/role/delete", method::AUTH_ROLE_DELETE),
    ("/v3/auth/role/grant", method::AUTH_ROLE_GRANT_PERMISSION),
    ("/v3/auth/role/revoke", method::AUTH_ROLE_REVOKE_PERMISSION),
    ("/v3/lock/lock", method::LOCK_LOCK),
    ("/v3/lock/unlock", method::LOCK_UNLOCK),
    ("/v3/election/campaign", method::ELECTION_CAMPAIGN),
    ("/v3/election/proclaim", method::ELECTION_PROCLAIM),
    ("/v3/election/leader", method::ELECTION_LEADER),
    ("/v3/election/observe", method::ELECTION_OBSERVE),
    ("/v3/election/resign", method::ELECTION_RESIGN),
];

/// The method behind a path of the gateway.
pub fn find(path: &str) -> Option<&'static Method> {
    let (_, method) = PATHS.iter().find(|(known, _)| *known == path)?;
    Some(&METHODS[method.index])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_method_of_etcd_but_the_stream_of_ranges_has_a_path() {
        let reached: BTreeSet<_> = PATHS.iter().map(|(_, method)| method.path).collect();
        let without: Vec<_> = METHODS
            .iter()
            .filter(|method| !reached.contains(method.path))
            .filter(|method| method.service != "grpc.health.v1.Health")
            .map(|method| method.path)
            .collect();
        assert_eq!(without, [method::KV_RANGE_STREAM.path]);
    }

    #[test]
    fn paths_are_unique_and_found() {
        let paths: BTreeSet<_> = PATHS.iter().map(|(path, _)| path).collect();
        assert_eq!(paths.len(), PATHS.len());
        assert_eq!(find("/v3/kv/txn"), Some(&method::KV_TXN));
        assert_eq!(find("/v3/kv/txn/"), None);
    }
}
