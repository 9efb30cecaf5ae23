//! Every flag of etcd 3.7.1, and our own: name, kind, default, what we do about it, and a line of help.
//!
//! One idea: a table and nothing else. Defaults are those of `etcd --help`, except where that
//! prints a constant's name.

use super::flag::Kind::{
    Bool, Duration, FeatureGates, Int, List, OneOf, Origins, Phase, Text, Uint, Uint32, Urls,
};
use super::flag::{Flag, Kind, Support};

/// A heading of `--help` and its flags.
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// Its flags.
    pub flags: &'static [Flag],
}

/// All flags.
#[rustfmt::skip] // A table: one flag, two lines.
pub const SECTIONS: &[Section] = &[
    Section { title: "Member", flags: &[
        works("name", Text, "default",
            "Name of this member in --initial-cluster and in member lists."),
        works("data-dir", Text, "",
            "Directory of everything that is stored; <name>.etcd if not given."),
        works("wal-dir", Text, "",
            "Separate directory for the log."),
        works("snapshot-count", Uint, "10000",
            "Entries after which the log may be truncated."),
        works("heartbeat-interval", Uint, "100",
            "Milliseconds between heartbeats of the leader."),
        works("election-timeout", Uint, "1000",
            "Milliseconds without a leader after which a member stands for election."),
        works("initial-election-tick-advance", Bool, "true",
            "Hold the first election sooner after a start."),
        works("listen-peer-urls", Urls, "http://localhost:2380",
            "URLs to accept other members on."),
        works("listen-client-urls", Urls, "http://localhost:2379",
            "URLs to accept clients on: gRPC, and HTTP unless --listen-client-http-urls is given."),
        works("listen-client-http-urls", Urls, "",
            "URLs to accept HTTP of clients on; --listen-client-urls is then for gRPC only."),
        ignored("max-snapshots", Uint, "5",
            "Number of snapshot files to keep."),
        ignored("max-wals", Uint, "5",
            "Number of log files to keep."),
        works("memory-mlock", Bool, "false",
            "Keep what the process has touched in memory; needs an unlimited RLIMIT_MEMLOCK."),
        works("quota-backend-bytes", Int, "0",
            "Size of the store at which writes are refused: 0 is 2 GiB, negative is no limit."),
        ignored("backend-bbolt-freelist-type", Text, "",
            "Free list of bbolt."),
        ignored("backend-batch-interval", Duration, "0s",
            "Longest time between two commits of bbolt."),
        ignored("backend-batch-limit", Int, "0",
            "Most operations between two commits of bbolt."),
        works("max-txn-ops", Uint, "128",
            "Most operations in a transaction."),
        works("max-request-bytes", Uint, "1572864",
            "Largest request of a client, in bytes."),
        works("max-concurrent-streams", Uint32, "4294967295",
            "Most streams of a connection at once."),
        ignored("grpc-keepalive-min-time", Duration, "5s",
            "Shortest time between two pings of a client."),
        works("grpc-keepalive-interval", Duration, "2h",
            "Time without a sign of life after which a client is pinged; 0 is never."),
        works("grpc-keepalive-timeout", Duration, "20s",
            "Time to answer a ping before the connection is closed; 0 is no time limit."),
        works("socket-reuse-port", Bool, "false",
            "Set SO_REUSEPORT on listening sockets."),
        ignored("socket-reuse-address", Bool, "false",
            "Set SO_REUSEADDR on listening sockets; here it always is."),
        works("enable-grpc-gateway", Bool, "true",
            "Answer JSON over HTTP below /v3/."),
        ignored("raft-read-timeout", Duration, "5s",
            "Read timeout of connections between members."),
        ignored("raft-write-timeout", Duration, "5s",
            "Write timeout of connections between members."),
        works("feature-gates", FeatureGates, "",
            "Features to switch, as Name=true,Other=false."),
    ] },
    Section { title: "Clustering", flags: &[
        works("initial-advertise-peer-urls", Urls, "http://localhost:2380",
            "Peer URLs of this member as others reach them."),
        works("initial-cluster", Text, "default=http://localhost:2380",
            "Founding members, as name=url,name=url."),
        works("initial-cluster-state", OneOf(&["new", "existing"]), "new",
            "'new' to found a cluster, 'existing' to join one; without effect on a restart."),
        works("initial-cluster-token", Text, "etcd-cluster",
            "Text that makes the ids of a cluster's founders its own."),
        works("advertise-client-urls", Urls, "http://localhost:2379",
            "Client URLs of this member as others reach them."),
        works("discovery-token", Text, "",
            "Which cluster is founded, at a meeting place."),
        works("discovery-endpoints", List, "",
            "Where founders meet: client URLs of another cluster."),
        works("discovery-dial-timeout", Duration, "2s",
            "Dial timeout for discovery."),
        works("discovery-request-timeout", Duration, "5s",
            "Request timeout for discovery."),
        ignored("discovery-keepalive-time", Duration, "2s",
            "Keep-alive interval for discovery."),
        ignored("discovery-keepalive-timeout", Duration, "6s",
            "Keep-alive timeout for discovery."),
        works("discovery-insecure-transport", Bool, "true",
            "No TLS for discovery."),
        works("discovery-insecure-skip-tls-verify", Bool, "false",
            "Do not verify certificates of discovery."),
        works("discovery-cert", Text, "",
            "Client certificate for discovery."),
        works("discovery-key", Text, "",
            "Client key for discovery."),
        works("discovery-cacert", Text, "",
            "Certificate authority of discovery."),
        works("discovery-user", Text, "",
            "User for discovery."),
        works("discovery-password", Text, "",
            "Password for discovery."),
        works("discovery-fallback", OneOf(&["exit", "proxy"]), "exit",
            "What to do if discovery fails; only 'exit' is left."),
        works("discovery-srv", Text, "",
            "DNS domain to find the founders in."),
        works("discovery-srv-name", Text, "",
            "Suffix of the DNS service name."),
        works("strict-reconfig-check", Bool, "true",
            "Refuse membership changes that would lose the quorum."),
        works("pre-vote", Bool, "true",
            "Ask before standing for election, so that a rejoining member does not disturb."),
        works("auto-compaction-retention", Text, "0",
            "How much history to keep; 0 is all."),
        works("auto-compaction-mode", Text, "periodic",
            "'periodic': the retention is a duration, hours if it has no unit; 'revision': a number of revisions."),
        ignored("v2-deprecation", Phase(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "write-only",
            "Phase of the end of etcd's v2 store."),
    ] },
    Section { title: "Security", flags: &[
        works("cert-file", Text, "",
            "Certificate for clients."),
        works("key-file", Text, "",
            "Key for clients."),
        works("client-cert-auth", Bool, "false",
            "Ask clients for certificates."),
        works("client-cert-file", Text, "",
            "Certificate when this member is a client."),
        works("client-key-file", Text, "",
            "Key when this member is a client."),
        works("client-crl-file", Text, "",
            "Revoked certificates of clients."),
        works("client-cert-allowed-cn", List, "",
            "Common names allowed in certificates of clients; in etcd only in the configuration file."),
        works("client-cert-allowed-hostname", List, "",
            "Names allowed in certificates of clients."),
        works("trusted-ca-file", Text, "",
            "Certificate authority of clients."),
        works("auto-tls", Bool, "false",
            "Make up a certificate for clients."),
        works("peer-cert-file", Text, "",
            "Certificate for members."),
        works("peer-key-file", Text, "",
            "Key for members."),
        works("peer-client-cert-auth", Bool, "false",
            "Ask members for certificates."),
        works("peer-client-cert-file", Text, "",
            "Certificate when this member dials another."),
        works("peer-client-key-file", Text, "",
            "Key when this member dials another."),
        works("peer-trusted-ca-file", Text, "",
            "Certificate authority of members."),
        works("peer-cert-allowed-cn", List, "",
            "Common names allowed in certificates of members."),
        works("peer-cert-allowed-hostname", List, "",
            "Names allowed in certificates of members."),
        works("peer-auto-tls", Bool, "false",
            "Make up a certificate for members."),
        works("peer-crl-file", Text, "",
            "Revoked certificates of members."),
        works("peer-skip-client-san-verification", Bool, "false",
            "Do not compare the names in certificates of members."),
        works("self-signed-cert-validity", Uint, "1",
            "Years that made-up certificates are valid."),
        works("cipher-suites", List, "",
            "TLS cipher suites."),
        works("tls-min-version", Text, "TLS1.2",
            "Lowest TLS version."),
        works("tls-max-version", Text, "",
            "Highest TLS version."),
        works("cors", Origins, "*",
            "Origins that may use the HTTP paths; empty or * is all."),
        works("host-whitelist", List, "*",
            "Host names acceptable in HTTP requests; empty or * is all."),
    ] },
    Section { title: "Auth", flags: &[
        works("auth-token", Text, "simple",
            "Kind of auth tokens: 'simple', or 'jwt' with sign-method=, priv-key=, pub-key=, ttl=."),
        works("bcrypt-cost", Uint, "10",
            "Cost of hashing passwords, 4 to 31."),
        works("auth-token-ttl", Uint, "300",
            "Seconds that an auth token lives."),
    ] },
    Section { title: "Monitoring and logging", flags: &[
        works("enable-pprof", Bool, "false",
            "Serve profiles below /debug/pprof/."),
        works("metrics", Text, "basic",
            "'extensive' adds latency histograms of calls."),
        works("listen-metrics-urls", Urls, "",
            "URLs for metrics and health checks only."),
        works("logger", Text, "zap",
            "Only 'zap' is known: structured logs."),
        works("log-outputs", List, "default",
            "Where logs go: default, stderr, stdout, or paths of files."),
        works("log-level", Text, "info",
            "debug, info, warn, error, panic or fatal."),
        works("log-format", Text, "json",
            "json or console."),
        works("enable-log-rotation", Bool, "false",
            "Rotate a log file."),
        works("log-rotation-config-json", Text, r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
            "How to rotate a log file."),
        works("warning-unary-request-duration", Duration, "300ms",
            "Calls that take longer are logged."),
        works("warning-apply-duration", Duration, "100ms",
            "Executions that take longer are logged."),
        works("enable-distributed-tracing", Bool, "false",
            "Send traces of calls to a collector (OpenTelemetry, OTLP over gRPC)."),
        works("distributed-tracing-address", Text, "localhost:4317",
            "Address of the collector; it is spoken to in plain."),
        works("distributed-tracing-service-name", Text, "etcd",
            "Service in traces; the same for all members."),
        works("distributed-tracing-instance-id", Text, "",
            "Instance in traces; another for each member."),
        works("distributed-tracing-sampling-rate", Int, "0",
            "Traces to record of a million that begin here; 0 leaves it to clients."),
    ] },
    Section { title: "Tuning", flags: &[
        works("corrupt-check-time", Duration, "0s",
            "Time between comparisons of members' data; 0 is never."),
        works("compact-hash-check-time", Duration, "1m",
            "Time between comparisons of hashes of compactions."),
        ignored("compaction-batch-limit", Int, "0",
            "Most revisions in a step of a compaction."),
        ignored("compaction-sleep-interval", Duration, "0s",
            "Pause between steps of a compaction."),
        works("watch-progress-notify-interval", Duration, "0s",
            "Time between progress notifications; 0 is 10 minutes."),
        ignored("bootstrap-defrag-threshold-megabytes", Uint, "0",
            "Defragment at the start if it frees so much."),
        works("max-learners", Int, "1",
            "Most learners in the cluster."),
        ignored("downgrade-check-time", Duration, "5s",
            "Time between checks of a downgrade."),
        works("snapshot-catchup-entries", Uint, "5000",
            "Entries that stay in the log for slow members when it is truncated."),
    ] },
    Section { title: "Unsafe", flags: &[
        works("force-new-cluster", Bool, "false",
            "Make this member the only one of its cluster, with its data."),
        later("unsafe-no-fsync", Bool, "false",
            "Do not make anything durable. Loses data."),
    ] },
    Section { title: "Varve", flags: &[
        works("experimental-varve-log-backend", OneOf(&["auto", "dsync", "buffered-dsync", "uring", "fdatasync"]), "auto",
            "How the log makes a write durable; 'auto' measures all of them at the start and takes the fastest."),
        works("experimental-varve-log-compress-min-bytes", Uint, "0",
            "Batches of the log with at least so many bytes are compressed with zstd; 0 for none."),
        works("experimental-varve-compress-cold-values", Bool, "false",
            "Compress values with zstd when a merge of files has to move them."),
        works("experimental-varve-lease-reads", Bool, "false",
            "The leader answers linearizable reads without asking a majority each time; for all members or none."),
        works("experimental-varve-snapshot-bytes-per-second", Uint, "67108864",
            "How fast this member sends its files to members that need them, all together; 0 for no bound."),
        works("experimental-varve-snapshots-from-followers", Bool, "false",
            "While this member leads, it asks others to send files to members that need them."),
    ] },
    Section { title: "Invocation", flags: &[
        works("config-file", Text, "",
            "Take the configuration from this YAML or JSON file; flags and environment are then ignored."),
        works("version", Bool, "false",
            "Print the version and exit."),
    ] },
];

const fn works(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, support: Support::Works, help }
}

const fn later(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, support: Support::Later, help }
}

const fn ignored(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, support: Support::Ignored, help }
}

/// Flags of older releases that etcd still accepts and does nothing about.
pub const FORGOTTEN: &[&str] = &[
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
];

/// Names that flags had before etcd 3.7, and those that they have.
pub const OLD_NAMES: &[(&str, &str)] = &[
    ("experimental-backend-bbolt-freelist-type", "backend-bbolt-freelist-type"),
    ("experimental-bootstrap-defrag-threshold-megabytes", "bootstrap-defrag-threshold-megabytes"),
    ("experimental-compact-hash-check-time", "compact-hash-check-time"),
    ("experimental-compaction-batch-limit", "compaction-batch-limit"),
    ("experimental-compaction-sleep-interval", "compaction-sleep-interval"),
    ("experimental-corrupt-check-time", "corrupt-check-time"),
    ("experimental-distributed-tracing-address", "distributed-tracing-address"),
    ("experimental-distributed-tracing-instance-id", "distributed-tracing-instance-id"),
    ("experimental-distributed-tracing-sampling-rate", "distributed-tracing-sampling-rate"),
    ("experimental-distributed-tracing-service-name", "distributed-tracing-service-name"),
    ("experimental-downgrade-check-time", "downgrade-check-time"),
    ("experimental-enable-distributed-tracing", "enable-distributed-tracing"),
    ("experimental-max-learners", "max-learners"),
    ("experimental-memory-mlock", "memory-mlock"),
    ("experimental-peer-skip-client-san-verification", "peer-skip-client-san-verification"),
    ("experimental-snapshot-catchup-entries", "snapshot-catchup-entries"),
    ("experimental-warning-apply-duration", "warning-apply-duration"),
    ("experimental-warning-unary-request-duration", "warning-unary-request-duration"),
    ("experimental-watch-progress-notify-interval", "watch-progress-notify-interval"),
];

/// Flags that have become feature gates, and those gates.
pub const OLD_GATES: &[(Flag, &str)] = &[
    (gate("experimental-compact-hash-check-enabled", "false"), "CompactHashCheck"),
    (gate("experimental-enable-lease-checkpoint", "false"), "LeaseCheckpoint"),
    (gate("experimental-enable-lease-checkpoint-persist", "false"), "LeaseCheckpointPersist"),
    (gate("experimental-initial-corrupt-check", "false"), "InitialCorruptCheck"),
    (gate("experimental-set-member-localaddr", "false"), "SetMemberLocalAddr"),
    (gate("experimental-stop-grpc-service-on-defrag", "false"), "StopGRPCServiceOnDefrag"),
    (
        gate("experimental-txn-mode-write-with-shared-buffer", "true"),
        "TxnModeWriteWithSharedBuffer",
    ),
];

const fn gate(name: &'static str, default: &'static str) -> Flag {
    works(name, Bool, default, "Now a feature gate.")
}

/// The flag of this name, or that has had it.
pub fn find(name: &str) -> Option<&'static Flag> {
    let renamed = OLD_NAMES.iter().find(|(old, _)| *old == name);
    let name = renamed.map_or(name, |(_, new)| new);
    all().chain(OLD_GATES.iter().map(|(flag, _)| flag)).find(|flag| flag.name == name)
}

/// All names that [`find`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    let old = OLD_NAMES.iter().map(|(old, _)| *old);
    all().map(|flag| flag.name).chain(old).chain(OLD_GATES.iter().map(|(flag, _)| flag.name))
}

/// All flags, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    SECTIONS.iter().flat_map(|section| section.flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_defaults_are_values_of_their_kind() {
        let mut names: Vec<&str> = names().collect();
        for flag in all() {
            assert_eq!(flag.kind.check(flag.default), Ok(()), "{}", flag.name);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in names {
            let flag = find(name).unwrap_or_else(|| panic!("{name} means no flag"));
            assert_eq!(flag.kind.check(flag.default), Ok(()), "{name}");
        }
    }
}
