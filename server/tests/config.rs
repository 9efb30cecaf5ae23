//! Flags, environment and file against what etcd 3.7.1 did with the same ones: values, texts of
//! errors, exit codes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use varve_disk::os::OsDisk;
use varve_server::config::bootstrap;
use varve_server::config::{
    AutoCompaction, ClusterState, Config, ConfigError, Invocation, Note, load,
};
use varve_server::metrics::Detail;
use varve_wal::{Backend, BackendChoice};

fn attempt(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Invocation, ConfigError> {
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    let environment: Vec<(String, String)> =
        environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    load(&arguments, &environment, &OsDisk::new(), &mut Vec::new())
}

#[track_caller]
fn configured(arguments: &[&str], environment: &[(&str, &str)]) -> Config {
    match attempt(arguments, environment) {
        Ok(Invocation::Run(config)) => *config,
        other => panic!("expected a configuration, found {other:?}"),
    }
}

#[track_caller]
fn usage_error(arguments: &[&str]) -> String {
    match attempt(arguments, &[]) {
        Err(ConfigError::Usage(text)) => text,
        other => panic!("{arguments:?}: expected a usage error, found {other:?}"),
    }
}

#[track_caller]
fn invalid(arguments: &[&str]) -> String {
    match attempt(arguments, &[]) {
        Err(ConfigError::Invalid(text)) => text,
        other => panic!("{arguments:?}: expected an invalid configuration, found {other:?}"),
    }
}

fn texts(urls: &[varve_server::config::url::Url]) -> Vec<&str> {
    urls.iter().map(varve_server::config::url::Url::as_str).collect()
}

fn warnings(config: &Config) -> Vec<&Note> {
    config.notes.iter().filter(|note| note.is_warning).collect()
}

#[test]
fn without_flags_everything_is_as_in_etcd() {
    let config = configured(&[], &[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir.to_str(), Some("default.etcd"));
    assert_eq!(texts(&config.listen_client_urls), ["http://localhost:2379"]);
    assert_eq!(texts(&config.advertise_client_urls), ["http://localhost:2379"]);
    assert_eq!(texts(&config.listen_peer_urls), ["http://localhost:2380"]);
    assert_eq!(texts(&config.initial_advertise_peer_urls), ["http://localhost:2380"]);
    assert!(config.listen_metrics_urls.is_empty() && config.listen_client_http_urls.is_empty());
    assert_eq!(config.initial_cluster, "default=http://localhost:2380");
    assert_eq!(config.initial_cluster_token, "etcd-cluster");
    assert_eq!(config.initial_cluster_state, ClusterState::New);
    assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(config.election_timeout, Duration::from_secs(1));
    assert_eq!(config.request_timeout(), Duration::from_secs(7));
    assert_eq!(config.lease_ttl_min_seconds(), 2);
    assert_eq!((config.snapshot_count, config.snapshot_catchup_entries), (10_000, 5_000));
    assert_eq!(config.log_backend, BackendChoice::Auto);
    assert_eq!((config.txn_ops_max, config.request_bytes_max), (128, 1_572_864));
    assert_eq!(config.concurrent_streams_max, u32::MAX);
    assert_eq!(config.quota_bytes, Some(2 << 30));
    assert_eq!(config.grpc_keepalive_interval, Some(Duration::from_secs(7200)));
    assert_eq!(config.grpc_keepalive_timeout, Duration::from_secs(20));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
    assert_eq!((config.bcrypt_cost, config.auth_token_ttl), (10, Duration::from_secs(300)));
    assert!(config.pre_vote && config.strict_reconfig_check);
    assert_eq!(config.learners_max, 1);
    assert_eq!(config.metrics, Detail::Basic);
    let founders = bootstrap::verify_new(&config).unwrap();
    assert_eq!(founders.len(), 1);
    assert_eq!(founders[0].id, 0x8e9e_05c5_2164_694d);
}

#[test]
fn flags_come_in_all_of_gos_forms() {
    let config = configured(
        &["-name=m1", "--max-txn-ops", "0x10", "--pre-vote=false", "-unsafe-no-fsync", "--"],
        &[],
    );
    assert_eq!((config.name.as_str(), config.txn_ops_max), ("m1", 16));
    assert!(!config.pre_vote && config.unsafe_no_fsync);
    assert_eq!(config.initial_cluster, "m1=http://localhost:2380");
    assert_eq!(config.data_dir.to_str(), Some("m1.etcd"));
    // The last one counts.
    assert_eq!(configured(&["--name", "a", "--name", "b"], &[]).name, "b");
}

#[test]
fn mistakes_on_the_command_line_have_gos_texts() {
    for (arguments, text) in [
        (&["--foo"][..], "flag provided but not defined: -foo"),
        (&["--discovery=http://x"], "flag provided but not defined: -discovery"),
        (&["--experimental-no-such=true"], "flag provided but not defined: -experimental-no-such"),
        (&["--max-txn-ops=x"], "invalid value \"x\" for flag -max-txn-ops: parse error"),
        (&["--max-txn-ops", "-1"], "invalid value \"-1\" for flag -max-txn-ops: parse error"),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (&["--name"], "flag needs an argument: -name"),
        (&["---x"], "bad flag syntax: ---x"),
        (&["--=x"], "bad flag syntax: --=x"),
        (
            &["--initial-cluster-state=foo"],
            "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
        ),
        (
            &["--grpc-keepalive-interval", "5"],
            "invalid value \"5\" for flag -grpc-keepalive-interval: parse error",
        ),
        (
            &["--quota-backend-bytes=99999999999999999999"],
            "invalid value \"99999999999999999999\" for flag -quota-backend-bytes: value out of range",
        ),
        (
            &["--feature-gates=Foo=true"],
            "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo",
        ),
        (
            &["--listen-client-urls", "foo"],
            "invalid value \"foo\" for flag -listen-client-urls: \
          URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1"],
            "invalid value \"http://127.0.0.1\" for flag -listen-client-urls: \
          URL address does not have the form \"host:port\": http://127.0.0.1",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:5000/path"],
            "invalid value \"http://127.0.0.1:5000/path\" for flag -listen-client-urls: \
          URL must not contain a path: http://127.0.0.1:5000/path",
        ),
        (
            &["--cors=foo"],
            "invalid value \"foo\" for flag -cors: URL scheme must be http, https, unix, or unixs: foo",
        ),
    ] {
        assert_eq!(usage_error(arguments), text);
    }
}

#[test]
fn impossible_configurations_have_etcds_texts() {
    for (arguments, text) in [
        (&["foo"][..], "\"foo\" is not a valid flag"),
        (&["--pre-vote", "false"], "\"false\" is not a valid flag"),
        (
            &["--listen-client-urls", "http://127.0.0.1:5000"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--listen-client-urls="],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &[
                "--listen-client-urls",
                "http://foo.bar:5000",
                "--advertise-client-urls",
                "http://foo.bar:5000",
            ],
            "expected IP in URL for binding (http://foo.bar:5000)",
        ),
        (
            &["--initial-advertise-peer-urls", "http://:2380"],
            "--initial-advertise-peer-urls \"http://:2380\" must be \"host:port\" (unexpected empty host (http://:2380))",
        ),
        (
            &["--election-timeout", "300"],
            "--election-timeout[300ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (&["--heartbeat-interval", "0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            &["--election-timeout", "60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (&["--auto-compaction-mode", "foo"], "unknown auto-compaction-mode \"foo\""),
        (
            &["--auto-compaction-retention=foo"],
            "error parsing CompactionRetention: time: invalid duration \"foo\"",
        ),
        (&["--log-format", "foo"], "unknown log format: foo, supported values json, console"),
        (&["--logger", "foo"], "unknown logger option \"foo\""),
        (
            &["--discovery-token", "x"],
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (&["--config-file", "/nonexistent"], "open /nonexistent: no such file or directory"),
        (
            &["--listen-peer-urls=https://127.0.0.1:1"],
            "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented",
        ),
        (&["--auth-token=jwt"], "auth: invalid auth options"),
        (&["--auth-token=jwt,ttl"], "auth: invalid auth options"),
        (&["--auth-token=jwt,ttl=1h,ttl=2h"], "auth: invalid auth options"),
        (&["--auth-token=jwt,sign-method=RS256,ttl=soon"], "auth: invalid auth options"),
        (&["gateway", "start"], "the command \"gateway\" is not supported"),
    ] {
        assert_eq!(invalid(arguments), text);
    }
}

#[test]
fn the_backend_of_the_log_can_be_forced() {
    for backend in Backend::ALL {
        let flag = format!("--experimental-varve-log-backend={backend}");
        assert_eq!(configured(&[&flag], &[]).log_backend, BackendChoice::Only(backend));
    }
    let config = configured(&["--experimental-varve-log-backend=auto"], &[]);
    assert_eq!(config.log_backend, BackendChoice::Auto);
}

#[test]
fn the_log_is_compressed_when_asked_for() {
    assert_eq!(configured(&[], &[]).log_compress_bytes_min, None);
    for (text, expected) in [("0", None), ("65536", Some(65536)), ("99999999999", Some(u32::MAX))] {
        let flag = format!("--experimental-varve-log-compress-min-bytes={text}");
        assert_eq!(configured(&[&flag], &[]).log_compress_bytes_min, expected);
    }
}

#[test]
fn cold_values_are_compressed_when_asked_for() {
    let is_on = |flags: &[&str]| configured(flags, &[]).compress_cold_values;
    assert!(!is_on(&[]));
    assert!(is_on(&["--experimental-varve-compress-cold-values"]));
    assert!(!is_on(&["--experimental-varve-compress-cold-values=false"]));
}

#[test]
fn snapshots_between_members_are_sent_at_a_rate() {
    let rate = |flags: &[&str]| configured(flags, &[]).snapshot_bytes_per_second;
    assert_eq!(rate(&[]), 64 << 20);
    assert_eq!(rate(&["--experimental-varve-snapshot-bytes-per-second=0"]), 0);
    assert_eq!(rate(&["--experimental-varve-snapshot-bytes-per-second=5"]), 5);
}

#[test]
fn followers_send_snapshots_only_if_asked_for() {
    assert!(!configured(&[], &[]).snapshots_from_followers);
    let flag = "--experimental-varve-snapshots-from-followers";
    assert!(configured(&[flag], &[]).snapshots_from_followers);
}

#[test]
fn reads_by_lease_are_off_unless_asked_for() {
    assert!(!configured(&[], &[]).lease_reads);
    assert!(configured(&["--experimental-varve-lease-reads"], &[]).lease_reads);
}

#[test]
fn flags_of_other_tools_are_accepted_as_they_are() {
    // kubeadm's static pod without TLS, and what etcd's own tests add.
    let config = configured(
        &[
            "--name=node",
            "--feature-gates=InitialCorruptCheck=true",
            "--listen-client-urls=http://127.0.0.1:2379,http://10.0.0.1:2379",
            "--advertise-client-urls=http://10.0.0.1:2379",
            "--listen-peer-urls=http://10.0.0.1:2380",
            "--initial-advertise-peer-urls=http://10.0.0.1:2380",
            "--data-dir=/var/lib/etcd",
            "--client-cert-auth=false",
            "--cert-file=",
            "--snapshot-count=10000",
            "--listen-metrics-urls=http://127.0.0.1:2381",
            "--watch-progress-notify-interval=5s",
            "--initial-cluster=node=http://10.0.0.1:2380",
            "--initial-cluster-state=existing",
            "--initial-cluster-token",
            "new",
            "--strict-reconfig-check=false",
            "--quota-backend-bytes=8589934592",
            "--metrics=extensive",
            "--enable-pprof",
            "--snapshot=x",
            "--auto-compaction-retention=8",
            "--max-wals=0",
        ],
        &[],
    );
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(config.initial_cluster_state, ClusterState::Existing);
    assert_eq!(config.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(8 * 3600)));
    assert_eq!(config.metrics, Detail::Extensive);
    assert!(config.features.is_on("InitialCorruptCheck"));
    assert!(bootstrap::verify_existing(&config).is_ok());
    let ignored: Vec<&str> = warnings(&config)
        .iter()
        .filter(|note| note.message == "flag has no effect here")
        .map(|note| note.fields[0].1.as_str())
        .collect();
    assert_eq!(ignored, ["max-wals"]);
}

#[test]
fn auto_compaction_is_read_by_mode() {
    for (mode, retention, expected) in [
        ("periodic", "0", AutoCompaction::Off),
        ("periodic", "1", AutoCompaction::Periodic(Duration::from_secs(3600))),
        ("periodic", "5m", AutoCompaction::Periodic(Duration::from_secs(300))),
        ("revision", "1000", AutoCompaction::Revision(1000)),
        ("revision", "0", AutoCompaction::Off),
    ] {
        let mode = format!("--auto-compaction-mode={mode}");
        let retention = format!("--auto-compaction-retention={retention}");
        assert_eq!(configured(&[&mode, &retention], &[]).auto_compaction, expected);
    }
}

#[test]
fn the_environment_counts_unless_a_flag_says_the_same() {
    let config = configured(&[], &[("ETCD_NAME", "m1"), ("ETCD_MAX_TXN_OPS", ""), ("HOME", "/x")]);
    assert_eq!((config.name.as_str(), config.txn_ops_max), ("m1", 128));
    let error = attempt(&["--name", "q"], &[("ETCD_NAME", "m1")]).unwrap_err();
    assert_eq!(error, ConfigError::Conflict("ETCD_NAME".into()));
    let error = attempt(&[], &[("ETCD_MAX_TXN_OPS", "q")]).unwrap_err();
    let text = "invalid value \"q\" for ETCD_MAX_TXN_OPS: parse error";
    assert_eq!(error, ConfigError::Invalid(text.into()));
    let config = configured(&["--name=x"], &[("ETCD_FOO", "1"), ("ETCD_VERSION", "9")]);
    let warned: Vec<&str> = warnings(&config).iter().map(|note| note.message.as_str()).collect();
    assert!(warned.contains(&"unrecognized environment variable"));
    assert!(warned.contains(&"cannot set special environment variable"));
}

#[test]
fn a_configuration_file_replaces_flags_and_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.yaml");
    std::fs::write(
        &path,
        "name: from-file\nlisten-client-urls: http://127.0.0.1:1\nheartbeat-interval: 50\n\
         grpc-keepalive-timeout: 1000000000\nlog-outputs: [stdout]\nproxy: 'off'\n",
    )
    .unwrap();
    let path = path.to_str().unwrap();
    let config = configured(&["--name=flag", "--config-file", path], &[("ETCD_NAME", "env")]);
    assert_eq!(config.name, "from-file");
    assert_eq!(config.heartbeat_interval, Duration::from_millis(50));
    assert_eq!(config.grpc_keepalive_timeout, Duration::from_secs(1));
    assert_eq!(config.log.outputs, ["stdout"]);
    // Only the command line asks for the advertised URLs to be given with the others.
    assert_eq!(texts(&config.advertise_client_urls), ["http://localhost:2379"]);
    let config = configured(&[], &[("ETCD_CONFIG_FILE", path)]);
    assert_eq!(config.name, "from-file");
}

#[test]
fn founders_must_fit_this_member() {
    for (arguments, text) in [
        (
            &["--initial-cluster", "a=http://localhost:2380"][..],
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            &[
                "--name",
                "a",
                "--initial-cluster",
                "a=http://127.0.0.1:2390,a=http://127.0.0.1:2391",
                "--initial-advertise-peer-urls",
                "http://127.0.0.1:2390",
            ],
            "--initial-cluster has a=http://127.0.0.1:2391 but missing from \
          --initial-advertise-peer-urls=http://127.0.0.1:2390",
        ),
        (
            &[
                "--name",
                "a",
                "--initial-cluster",
                "a=http://127.0.0.1:2390",
                "--initial-advertise-peer-urls",
                "http://127.0.0.1:2390,http://127.0.0.1:2391",
            ],
            "--initial-advertise-peer-urls has http://127.0.0.1:2391 but missing from \
          --initial-cluster=a=http://127.0.0.1:2390,a=http://127.0.0.1:2391",
        ),
        (
            &[
                "--name",
                "a",
                "--initial-cluster",
                "a=http://127.0.0.1:2390,b=http://127.0.0.1:2390",
                "--initial-advertise-peer-urls",
                "http://127.0.0.1:2390",
            ],
            "initial cluster a=http://127.0.0.1:2390,b=http://127.0.0.1:2390 has duplicate url",
        ),
        (
            &["--initial-cluster", "default=foo"],
            "URL scheme must be http, https, unix, or unixs: foo",
        ),
    ] {
        let error = bootstrap::verify_new(&configured(arguments, &[])).unwrap_err();
        assert!(error.starts_with(text), "expected {text}, found {error}");
    }
}

#[test]
fn help_and_version_are_printed() {
    for arguments in [["-h"], ["--help"]] {
        let Ok(Invocation::Print(text)) = attempt(&arguments, &[]) else { panic!("help") };
        assert!(text.contains("--listen-client-urls 'http://localhost:2379'"));
        assert!(text.is_ascii());
    }
    let Ok(Invocation::Print(text)) = attempt(&["--version"], &[]) else { panic!("version") };
    assert_eq!(text.lines().next(), Some("etcd Version: 3.7.1"));
    assert!(text.lines().any(|line| line.starts_with("varve Version: ")));
}
