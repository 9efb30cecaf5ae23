//! Every flag of etcd 3.7.1: name, kind, default, what we do about it, and a line of help.
//!
//! One idea: a table and nothing else. Defaults are those of `etcd --help`, except where that
//! prints a constant's name.

use super::flag::Flag;
use super::flag::Kind::{
    Bool, Duration, FeatureGates, Int, List, OneOf, Origins, Text, Uint, Uint32, Urls,
};
use super::flag::Support::{Ignored, Refused, Works};

/// A heading of `--help` and its flags.
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// Its flags.
    pub flags: &'static [Flag],
}

/// All flags.
pub const SECTIONS: &[Section] = &[
    Section {
        title: "Member",
        flags: &[
            Flag {
                name: "name",
                kind: Text,
                default: "default",
                support: Works,
                help: "Name of this member in --initial-cluster and in member lists.",
            },
            Flag {
                name: "data-dir",
                kind: Text,
                default: "",
                support: Works,
                help: "Directory of everything that is stored; <name>.etcd if not given.",
            },
            Flag {
                name: "wal-dir",
                kind: Text,
                default: "",
                support: Works,
                help: "Separate directory for the log.",
            },
            Flag {
                name: "snapshot-count",
                kind: Uint,
                default: "10000",
                support: Works,
                help: "Entries after which the log may be truncated.",
            },
            Flag {
                name: "heartbeat-interval",
                kind: Uint,
                default: "100",
                support: Works,
                help: "Milliseconds between heartbeats of the leader.",
            },
            Flag {
                name: "election-timeout",
                kind: Uint,
                default: "1000",
                support: Works,
                help: "Milliseconds without a leader after which a member stands for election.",
            },
            Flag {
                name: "initial-election-tick-advance",
                kind: Bool,
                default: "true",
                support: Works,
                help: "Hold the first election sooner after a start.",
            },
            Flag {
                name: "listen-peer-urls",
                kind: Urls,
                default: "http://localhost:2380",
                support: Works,
                help: "URLs to accept other members on.",
            },
            Flag {
                name: "listen-client-urls",
                kind: Urls,
                default: "http://localhost:2379",
                support: Works,
                help: "URLs to accept clients on: gRPC, and HTTP unless --listen-client-http-urls is given.",
            },
            Flag {
                name: "listen-client-http-urls",
                kind: Urls,
                default: "",
                support: Works,
                help: "URLs to accept HTTP of clients on; --listen-client-urls is then for gRPC only.",
            },
            Flag {
                name: "max-snapshots",
                kind: Uint,
                default: "5",
                support: Ignored,
                help: "Number of snapshot files to keep.",
            },
            Flag {
                name: "max-wals",
                kind: Uint,
                default: "5",
                support: Ignored,
                help: "Number of log files to keep.",
            },
            Flag {
                name: "memory-mlock",
                kind: Bool,
                default: "false",
                support: Ignored,
                help: "Keep pages of the process in memory.",
            },
            Flag {
                name: "quota-backend-bytes",
                kind: Int,
                default: "0",
                support: Works,
                help: "Size of the store at which writes are refused: 0 is 2 GiB, negative is no limit.",
            },
            Flag {
                name: "backend-bbolt-freelist-type",
                kind: Text,
                default: "",
                support: Ignored,
                help: "Free list of bbolt.",
            },
            Flag {
                name: "backend-batch-interval",
                kind: Duration,
                default: "0s",
                support: Ignored,
                help: "Longest time between two commits of bbolt.",
            },
            Flag {
                name: "backend-batch-limit",
                kind: Int,
                default: "0",
                support: Ignored,
                help: "Most operations between two commits of bbolt.",
            },
            Flag {
                name: "max-txn-ops",
                kind: Uint,
                default: "128",
                support: Works,
                help: "Most operations in a transaction.",
            },
            Flag {
                name: "max-request-bytes",
                kind: Uint,
                default: "1572864",
                support: Works,
                help: "Largest request of a client, in bytes.",
            },
            Flag {
                name: "max-concurrent-streams",
                kind: Uint32,
                default: "4294967295",
                support: Works,
                help: "Most streams of a connection at once.",
            },
            Flag {
                name: "grpc-keepalive-min-time",
                kind: Duration,
                default: "5s",
                support: Ignored,
                help: "Shortest time between two pings of a client.",
            },
            Flag {
                name: "grpc-keepalive-interval",
                kind: Duration,
                default: "2h",
                support: Works,
                help: "Time without a sign of life after which a client is pinged; 0 is never.",
            },
            Flag {
                name: "grpc-keepalive-timeout",
                kind: Duration,
                default: "20s",
                support: Works,
                help: "Time to answer a ping before the connection is closed; 0 is no time limit.",
            },
            Flag {
                name: "socket-reuse-port",
                kind: Bool,
                default: "false",
                support: Works,
                help: "Set SO_REUSEPORT on listening sockets.",
            },
            Flag {
                name: "socket-reuse-address",
                kind: Bool,
                default: "false",
                support: Ignored,
                help: "Set SO_REUSEADDR on listening sockets; here it always is.",
            },
            Flag {
                name: "enable-grpc-gateway",
                kind: Bool,
                default: "true",
                support: Ignored,
                help: "Answer JSON over HTTP below /v3/.",
            },
            Flag {
                name: "raft-read-timeout",
                kind: Duration,
                default: "5s",
                support: Ignored,
                help: "Read timeout of connections between members.",
            },
            Flag {
                name: "raft-write-timeout",
                kind: Duration,
                default: "5s",
                support: Ignored,
                help: "Write timeout of connections between members.",
            },
            Flag {
                name: "feature-gates",
                kind: FeatureGates,
                default: "",
                support: Works,
                help: "Features to switch, as Name=true,Other=false.",
            },
        ],
    },
    Section {
        title: "Clustering",
        flags: &[
            Flag {
                name: "initial-advertise-peer-urls",
                kind: Urls,
                default: "http://localhost:2380",
                support: Works,
                help: "Peer URLs of this member as others reach them.",
            },
            Flag {
                name: "initial-cluster",
                kind: Text,
                default: "default=http://localhost:2380",
                support: Works,
                help: "Founding members, as name=url,name=url.",
            },
            Flag {
                name: "initial-cluster-state",
                kind: OneOf(&["new", "existing"]),
                default: "new",
                support: Works,
                help: "'new' to found a cluster, 'existing' to join one; without effect on a restart.",
            },
            Flag {
                name: "initial-cluster-token",
                kind: Text,
                default: "etcd-cluster",
                support: Works,
                help: "Text that makes the ids of a cluster's founders its own.",
            },
            Flag {
                name: "advertise-client-urls",
                kind: Urls,
                default: "http://localhost:2379",
                support: Works,
                help: "Client URLs of this member as others reach them.",
            },
            Flag {
                name: "discovery-token",
                kind: Text,
                default: "",
                support: Refused,
                help: "Token of a discovery service.",
            },
            Flag {
                name: "discovery-endpoints",
                kind: List,
                default: "",
                support: Refused,
                help: "Endpoints of a discovery service.",
            },
            Flag {
                name: "discovery-dial-timeout",
                kind: Duration,
                default: "2s",
                support: Ignored,
                help: "Dial timeout for discovery.",
            },
            Flag {
                name: "discovery-request-timeout",
                kind: Duration,
                default: "5s",
                support: Ignored,
                help: "Request timeout for discovery.",
            },
            Flag {
                name: "discovery-keepalive-time",
                kind: Duration,
                default: "2s",
                support: Ignored,
                help: "Keep-alive interval for discovery.",
            },
            Flag {
                name: "discovery-keepalive-timeout",
                kind: Duration,
                default: "6s",
                support: Ignored,
                help: "Keep-alive timeout for discovery.",
            },
            Flag {
                name: "discovery-insecure-transport",
                kind: Bool,
                default: "true",
                support: Ignored,
                help: "No TLS for discovery.",
            },
            Flag {
                name: "discovery-insecure-skip-tls-verify",
                kind: Bool,
                default: "false",
                support: Ignored,
                help: "Do not verify certificates of discovery.",
            },
            Flag {
                name: "discovery-cert",
                kind: Text,
                default: "",
                support: Refused,
                help: "Client certificate for discovery.",
            },
            Flag {
                name: "discovery-key",
                kind: Text,
                default: "",
                support: Refused,
                help: "Client key for discovery.",
            },
            Flag {
                name: "discovery-cacert",
                kind: Text,
                default: "",
                support: Refused,
                help: "Certificate authority of discovery.",
            },
            Flag {
                name: "discovery-user",
                kind: Text,
                default: "",
                support: Refused,
                help: "User for discovery.",
            },
            Flag {
                name: "discovery-password",
                kind: Text,
                default: "",
                support: Refused,
                help: "Password for discovery.",
            },
            Flag {
                name: "discovery-fallback",
                kind: OneOf(&["exit", "proxy"]),
                default: "exit",
                support: Works,
                help: "What to do if discovery fails; only 'exit' is left.",
            },
            Flag {
                name: "discovery-srv",
                kind: Text,
                default: "",
                support: Refused,
                help: "DNS domain to find the founders in.",
            },
            Flag {
                name: "discovery-srv-name",
                kind: Text,
                default: "",
                support: Refused,
                help: "Suffix of the DNS service name.",
            },
            Flag {
                name: "strict-reconfig-check",
                kind: Bool,
                default: "true",
                support: Works,
                help: "Refuse membership changes that would lose the quorum.",
            },
            Flag {
                name: "pre-vote",
                kind: Bool,
                default: "true",
                support: Works,
                help: "Ask before standing for election, so that a rejoining member does not disturb.",
            },
            Flag {
                name: "auto-compaction-retention",
                kind: Text,
                default: "0",
                support: Works,
                help: "How much history to keep; 0 is all.",
            },
            Flag {
                name: "auto-compaction-mode",
                kind: Text,
                default: "periodic",
                support: Works,
                help: "'periodic': the retention is a duration, hours if it has no unit; 'revision': a number of revisions.",
            },
            Flag {
                name: "v2-deprecation",
                kind: OneOf(&[
                    "write-only",
                    "write-only-skip-check",
                    "write-only-drop-data",
                    "gone",
                ]),
                default: "write-only",
                support: Ignored,
                help: "Phase of the end of etcd's v2 store.",
            },
        ],
    },
    Section {
        title: "Security",
        flags: &[
            Flag {
                name: "cert-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Certificate for clients.",
            },
            Flag {
                name: "key-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Key for clients.",
            },
            Flag {
                name: "client-cert-auth",
                kind: Bool,
                default: "false",
                support: Refused,
                help: "Ask clients for certificates.",
            },
            Flag {
                name: "client-cert-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Certificate when this member is a client.",
            },
            Flag {
                name: "client-key-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Key when this member is a client.",
            },
            Flag {
                name: "client-crl-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Revoked certificates of clients.",
            },
            Flag {
                name: "client-cert-allowed-hostname",
                kind: List,
                default: "",
                support: Refused,
                help: "Names allowed in certificates of clients.",
            },
            Flag {
                name: "trusted-ca-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Certificate authority of clients.",
            },
            Flag {
                name: "auto-tls",
                kind: Bool,
                default: "false",
                support: Refused,
                help: "Make up a certificate for clients.",
            },
            Flag {
                name: "peer-cert-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Certificate for members.",
            },
            Flag {
                name: "peer-key-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Key for members.",
            },
            Flag {
                name: "peer-client-cert-auth",
                kind: Bool,
                default: "false",
                support: Refused,
                help: "Ask members for certificates.",
            },
            Flag {
                name: "peer-client-cert-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Certificate when this member dials another.",
            },
            Flag {
                name: "peer-client-key-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Key when this member dials another.",
            },
            Flag {
                name: "peer-trusted-ca-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Certificate authority of members.",
            },
            Flag {
                name: "peer-cert-allowed-cn",
                kind: List,
                default: "",
                support: Refused,
                help: "Common names allowed in certificates of members.",
            },
            Flag {
                name: "peer-cert-allowed-hostname",
                kind: List,
                default: "",
                support: Refused,
                help: "Names allowed in certificates of members.",
            },
            Flag {
                name: "peer-auto-tls",
                kind: Bool,
                default: "false",
                support: Refused,
                help: "Make up a certificate for members.",
            },
            Flag {
                name: "peer-crl-file",
                kind: Text,
                default: "",
                support: Refused,
                help: "Revoked certificates of members.",
            },
            Flag {
                name: "peer-skip-client-san-verification",
                kind: Bool,
                default: "false",
                support: Ignored,
                help: "Do not compare the names in certificates of members.",
            },
            Flag {
                name: "self-signed-cert-validity",
                kind: Uint,
                default: "1",
                support: Ignored,
                help: "Years that made-up certificates are valid.",
            },
            Flag {
                name: "cipher-suites",
                kind: List,
                default: "",
                support: Ignored,
                help: "TLS cipher suites.",
            },
            Flag {
                name: "tls-min-version",
                kind: Text,
                default: "TLS1.2",
                support: Ignored,
                help: "Lowest TLS version.",
            },
            Flag {
                name: "tls-max-version",
                kind: Text,
                default: "",
                support: Ignored,
                help: "Highest TLS version.",
            },
            Flag {
                name: "cors",
                kind: Origins,
                default: "*",
                support: Works,
                help: "Origins that may use the HTTP paths; empty or * is all.",
            },
            Flag {
                name: "host-whitelist",
                kind: List,
                default: "*",
                support: Works,
                help: "Host names acceptable in HTTP requests; empty or * is all.",
            },
        ],
    },
    Section {
        title: "Auth",
        flags: &[
            Flag {
                name: "auth-token",
                kind: Text,
                default: "simple",
                support: Works,
                help: "Kind of auth tokens; only 'simple' so far.",
            },
            Flag {
                name: "bcrypt-cost",
                kind: Uint,
                default: "10",
                support: Works,
                help: "Cost of hashing passwords, 4 to 31.",
            },
            Flag {
                name: "auth-token-ttl",
                kind: Uint,
                default: "300",
                support: Works,
                help: "Seconds that an auth token lives.",
            },
        ],
    },
    Section {
        title: "Monitoring and logging",
        flags: &[
            Flag {
                name: "enable-pprof",
                kind: Bool,
                default: "false",
                support: Ignored,
                help: "Serve Go profiles.",
            },
            Flag {
                name: "metrics",
                kind: Text,
                default: "basic",
                support: Works,
                help: "'extensive' adds latency histograms of calls.",
            },
            Flag {
                name: "listen-metrics-urls",
                kind: Urls,
                default: "",
                support: Works,
                help: "URLs for metrics and health checks only.",
            },
            Flag {
                name: "logger",
                kind: Text,
                default: "zap",
                support: Works,
                help: "Only 'zap' is known: structured logs.",
            },
            Flag {
                name: "log-outputs",
                kind: List,
                default: "default",
                support: Works,
                help: "Where logs go: default, stderr, stdout, or paths of files.",
            },
            Flag {
                name: "log-level",
                kind: Text,
                default: "info",
                support: Works,
                help: "debug, info, warn, error, panic or fatal.",
            },
            Flag {
                name: "log-format",
                kind: Text,
                default: "json",
                support: Works,
                help: "json or console.",
            },
            Flag {
                name: "enable-log-rotation",
                kind: Bool,
                default: "false",
                support: Ignored,
                help: "Rotate a log file.",
            },
            Flag {
                name: "log-rotation-config-json",
                kind: Text,
                default: r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
                support: Ignored,
                help: "How to rotate a log file.",
            },
            Flag {
                name: "warning-unary-request-duration",
                kind: Duration,
                default: "300ms",
                support: Works,
                help: "Calls that take longer are logged.",
            },
            Flag {
                name: "warning-apply-duration",
                kind: Duration,
                default: "100ms",
                support: Works,
                help: "Executions that take longer are logged.",
            },
            Flag {
                name: "enable-distributed-tracing",
                kind: Bool,
                default: "false",
                support: Ignored,
                help: "Send traces.",
            },
            Flag {
                name: "distributed-tracing-address",
                kind: Text,
                default: "localhost:4317",
                support: Ignored,
                help: "Where to send traces.",
            },
            Flag {
                name: "distributed-tracing-service-name",
                kind: Text,
                default: "etcd",
                support: Ignored,
                help: "Name in traces.",
            },
            Flag {
                name: "distributed-tracing-instance-id",
                kind: Text,
                default: "",
                support: Ignored,
                help: "Instance in traces.",
            },
            Flag {
                name: "distributed-tracing-sampling-rate",
                kind: Int,
                default: "0",
                support: Ignored,
                help: "Traces per million requests.",
            },
        ],
    },
    Section {
        title: "Tuning",
        flags: &[
            Flag {
                name: "corrupt-check-time",
                kind: Duration,
                default: "0s",
                support: Works,
                help: "Time between comparisons of members' data; 0 is never.",
            },
            Flag {
                name: "compact-hash-check-time",
                kind: Duration,
                default: "1m",
                support: Works,
                help: "Time between comparisons of hashes of compactions.",
            },
            Flag {
                name: "compaction-batch-limit",
                kind: Int,
                default: "0",
                support: Ignored,
                help: "Most revisions in a step of a compaction.",
            },
            Flag {
                name: "compaction-sleep-interval",
                kind: Duration,
                default: "0s",
                support: Ignored,
                help: "Pause between steps of a compaction.",
            },
            Flag {
                name: "watch-progress-notify-interval",
                kind: Duration,
                default: "0s",
                support: Works,
                help: "Time between progress notifications; 0 is 10 minutes.",
            },
            Flag {
                name: "bootstrap-defrag-threshold-megabytes",
                kind: Uint,
                default: "0",
                support: Ignored,
                help: "Defragment at the start if it frees so much.",
            },
            Flag {
                name: "max-learners",
                kind: Int,
                default: "1",
                support: Works,
                help: "Most learners in the cluster.",
            },
            Flag {
                name: "downgrade-check-time",
                kind: Duration,
                default: "5s",
                support: Ignored,
                help: "Time between checks of a downgrade.",
            },
            Flag {
                name: "snapshot-catchup-entries",
                kind: Uint,
                default: "5000",
                support: Works,
                help: "Entries that stay in the log for slow members when it is truncated.",
            },
        ],
    },
    Section {
        title: "Unsafe",
        flags: &[
            Flag {
                name: "force-new-cluster",
                kind: Bool,
                default: "false",
                support: Works,
                help: "Make this member the only one of its cluster, with its data.",
            },
            Flag {
                name: "unsafe-no-fsync",
                kind: Bool,
                default: "false",
                support: Works,
                help: "Do not make anything durable. Loses data.",
            },
        ],
    },
    Section {
        title: "Invocation",
        flags: &[
            Flag {
                name: "config-file",
                kind: Text,
                default: "",
                support: Works,
                help: "Take the configuration from this YAML or JSON file; flags and environment are then ignored.",
            },
            Flag {
                name: "version",
                kind: Bool,
                default: "false",
                support: Works,
                help: "Print the version and exit.",
            },
        ],
    },
];

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

/// The flag of this name.
pub fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
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
        let mut names: Vec<&str> = all().map(|flag| flag.name).collect();
        for flag in all() {
            assert_eq!(flag.kind.check(flag.default), Ok(()), "{}", flag.name);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
