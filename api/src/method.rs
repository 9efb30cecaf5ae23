//! Every RPC the server answers: its path, its names and how it streams.
//!
//! One idea: dispatch, metrics (which start at 0 for each method, as in etcd) and tests take the
//! list from one table. The test `codegen` holds it against `proto/*.proto`.
//!
//! Invariants: paths are unique; `METHODS[m.index] == m` for each method.

/// How requests and responses of a method stream. etcd has no method with streamed requests and
/// a single response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One request, one response.
    Unary,
    /// One request, many responses.
    ServerStream,
    /// Many requests, many responses.
    BidiStream,
}

impl Kind {
    /// The value of the label `grpc_type` in metrics.
    pub const fn metric_label(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }
}

/// One RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Position in [`METHODS`].
    pub index: usize,
    /// What HTTP/2 carries in `:path`, as `/etcdserverpb.KV/Put`.
    pub path: &'static str,
    /// Service with its package, as `etcdserverpb.KV`.
    pub service: &'static str,
    /// Name within the service, as `Put`.
    pub name: &'static str,
    /// How it streams.
    pub kind: Kind,
}

macro_rules! methods {
    ($($constant:ident = $service:literal $name:literal $kind:ident;)*) => {
        /// Numbers the methods in the order of the table.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "named as the constants are")]
        enum Index { $($constant),* }

        $(
            #[doc = concat!("`/", $service, "/", $name, "`")]
            pub const $constant: Method = Method {
                index: Index::$constant as usize,
                path: concat!("/", $service, "/", $name),
                service: $service,
                name: $name,
                kind: Kind::$kind,
            };
        )*

        /// All methods.
        pub const METHODS: &[Method] = &[$($constant),*];

        /// The method with this path; `None` is gRPC's `Unimplemented`.
        pub fn find(path: &str) -> Option<&'static Method> {
            match path {
                $(concat!("/", $service, "/", $name) => Some(&METHODS[Index::$constant as usize]),)*
                _ => None,
            }
        }
    };
}

methods! {
    KV_RANGE = "etcdserverpb.KV" "Range" Unary;
    KV_RANGE_STREAM = "etcdserverpb.KV" "RangeStream" ServerStream;
    KV_PUT = "etcdserverpb.KV" "Put" Unary;
    KV_DELETE_RANGE = "etcdserverpb.KV" "DeleteRange" Unary;
    KV_TXN = "etcdserverpb.KV" "Txn" Unary;
    KV_COMPACT = "etcdserverpb.KV" "Compact" Unary;
    WATCH_WATCH = "etcdserverpb.Watch" "Watch" BidiStream;
    LEASE_GRANT = "etcdserverpb.Lease" "LeaseGrant" Unary;
    LEASE_REVOKE = "etcdserverpb.Lease" "LeaseRevoke" Unary;
    LEASE_KEEP_ALIVE = "etcdserverpb.Lease" "LeaseKeepAlive" BidiStream;
    LEASE_TIME_TO_LIVE = "etcdserverpb.Lease" "LeaseTimeToLive" Unary;
    LEASE_LEASES = "etcdserverpb.Lease" "LeaseLeases" Unary;
    CLUSTER_MEMBER_ADD = "etcdserverpb.Cluster" "MemberAdd" Unary;
    CLUSTER_MEMBER_REMOVE = "etcdserverpb.Cluster" "MemberRemove" Unary;
    CLUSTER_MEMBER_UPDATE = "etcdserverpb.Cluster" "MemberUpdate" Unary;
    CLUSTER_MEMBER_LIST = "etcdserverpb.Cluster" "MemberList" Unary;
    CLUSTER_MEMBER_PROMOTE = "etcdserverpb.Cluster" "MemberPromote" Unary;
    MAINTENANCE_ALARM = "etcdserverpb.Maintenance" "Alarm" Unary;
    MAINTENANCE_STATUS = "etcdserverpb.Maintenance" "Status" Unary;
    MAINTENANCE_DEFRAGMENT = "etcdserverpb.Maintenance" "Defragment" Unary;
    MAINTENANCE_HASH = "etcdserverpb.Maintenance" "Hash" Unary;
    MAINTENANCE_HASH_KV = "etcdserverpb.Maintenance" "HashKV" Unary;
    MAINTENANCE_SNAPSHOT = "etcdserverpb.Maintenance" "Snapshot" ServerStream;
    MAINTENANCE_MOVE_LEADER = "etcdserverpb.Maintenance" "MoveLeader" Unary;
    MAINTENANCE_DOWNGRADE = "etcdserverpb.Maintenance" "Downgrade" Unary;
    AUTH_ENABLE = "etcdserverpb.Auth" "AuthEnable" Unary;
    AUTH_DISABLE = "etcdserverpb.Auth" "AuthDisable" Unary;
    AUTH_STATUS = "etcdserverpb.Auth" "AuthStatus" Unary;
    AUTH_AUTHENTICATE = "etcdserverpb.Auth" "Authenticate" Unary;
    AUTH_USER_ADD = "etcdserverpb.Auth" "UserAdd" Unary;
    AUTH_USER_GET = "etcdserverpb.Auth" "UserGet" Unary;
    AUTH_USER_LIST = "etcdserverpb.Auth" "UserList" Unary;
    AUTH_USER_DELETE = "etcdserverpb.Auth" "UserDelete" Unary;
    AUTH_USER_CHANGE_PASSWORD = "etcdserverpb.Auth" "UserChangePassword" Unary;
    AUTH_USER_GRANT_ROLE = "etcdserverpb.Auth" "UserGrantRole" Unary;
    AUTH_USER_REVOKE_ROLE = "etcdserverpb.Auth" "UserRevokeRole" Unary;
    AUTH_ROLE_ADD = "etcdserverpb.Auth" "RoleAdd" Unary;
    AUTH_ROLE_GET = "etcdserverpb.Auth" "RoleGet" Unary;
    AUTH_ROLE_LIST = "etcdserverpb.Auth" "RoleList" Unary;
    AUTH_ROLE_DELETE = "etcdserverpb.Auth" "RoleDelete" Unary;
    AUTH_ROLE_GRANT_PERMISSION = "etcdserverpb.Auth" "RoleGrantPermission" Unary;
    AUTH_ROLE_REVOKE_PERMISSION = "etcdserverpb.Auth" "RoleRevokePermission" Unary;
    LOCK_LOCK = "v3lockpb.Lock" "Lock" Unary;
    LOCK_UNLOCK = "v3lockpb.Lock" "Unlock" Unary;
    ELECTION_CAMPAIGN = "v3electionpb.Election" "Campaign" Unary;
    ELECTION_PROCLAIM = "v3electionpb.Election" "Proclaim" Unary;
    ELECTION_LEADER = "v3electionpb.Election" "Leader" Unary;
    ELECTION_OBSERVE = "v3electionpb.Election" "Observe" ServerStream;
    ELECTION_RESIGN = "v3electionpb.Election" "Resign" Unary;
    HEALTH_CHECK = "grpc.health.v1.Health" "Check" Unary;
    HEALTH_LIST = "grpc.health.v1.Health" "List" Unary;
    HEALTH_WATCH = "grpc.health.v1.Health" "Watch" ServerStream;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_path_and_sits_at_its_index() {
        for (position, method) in METHODS.iter().enumerate() {
            assert_eq!(method.index, position, "{}", method.path);
            assert_eq!(find(method.path), Some(method));
        }
    }

    #[test]
    fn an_unknown_path_is_not_found() {
        for path in
            ["", "/", "etcdserverpb.KV/Put", "/etcdserverpb.KV/put", "/etcdserverpb.KV/Put/"]
        {
            assert_eq!(find(path), None, "{path}");
        }
    }
}
