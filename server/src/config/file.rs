//! The configuration file: YAML (of which JSON is a part), keys are flag names.
//!
//! One idea: each entry becomes the text that the flag would have, and is checked as the flag is.
//! Durations are integers of nanoseconds, as etcd's files have them. Unknown keys are tolerated,
//! because etcd's own sample file has some of long-gone features, and the log says so.

use serde_norway::Value;

use super::flag::{Flag, Kind};
use super::settings::Settings;
use super::{ConfigError, flags};

/// Sections of a file and what its keys mean as flags; a dot is for a section within.
const SECTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-cn", "client-cert-allowed-cn"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
        ],
    ),
    (
        "socket-options",
        &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")],
    ),
    (
        "discovery-config",
        &[
            ("token", "discovery-token"),
            ("client.endpoints", "discovery-endpoints"),
            ("client.dial-timeout", "discovery-dial-timeout"),
            ("client.request-timeout", "discovery-request-timeout"),
            ("client.keepalive-time", "discovery-keepalive-time"),
            ("client.keepalive-timeout", "discovery-keepalive-timeout"),
            ("client.secure.cert", "discovery-cert"),
            ("client.secure.key", "discovery-key"),
            ("client.secure.cacert", "discovery-cacert"),
            ("client.secure.insecure-transport", "discovery-insecure-transport"),
            ("client.secure.insecure-skip-tls-verify", "discovery-insecure-skip-tls-verify"),
            ("client.auth.username", "discovery-user"),
            ("client.auth.password", "discovery-password"),
        ],
    ),
];

/// Reads the text of a configuration file.
///
/// # Errors
/// `Invalid`, with the key and what was expected.
pub fn parse(text: &str) -> Result<Settings, ConfigError> {
    let document: Value = serde_norway::from_str(text)
        .map_err(|error| ConfigError::Invalid(format!("configuration file: {error}")))?;
    let mut settings = Settings::default();
    let mapping = match &document {
        Value::Null => return Ok(settings),
        Value::Mapping(mapping) => mapping,
        _ => return Err(ConfigError::Invalid("configuration file: not a mapping".to_owned())),
    };
    for (key, value) in mapping {
        let Some(key) = key.as_str() else { continue };
        if let Some((_, names)) = SECTIONS.iter().find(|(section, _)| *section == key) {
            read_section(key, "", names, value, &mut settings)?;
        } else if let Some(flag) = flags::find(key) {
            read_entry(key, flag, value, &mut settings)?;
        } else {
            settings.note_unknown(key.to_owned());
        }
    }
    Ok(settings)
}

/// `path` is that of the section within, with a dot behind each part; empty for the whole.
fn read_section(
    section: &str,
    path: &str,
    names: &[(&str, &str)],
    value: &Value,
    settings: &mut Settings,
) -> Result<(), ConfigError> {
    let mapping = match value {
        Value::Null => return Ok(()),
        Value::Mapping(mapping) => mapping,
        _ => {
            let text = format!("invalid {section}.{path}");
            return Err(ConfigError::Invalid(text.trim_end_matches('.').to_owned()));
        }
    };
    for (key, value) in mapping {
        let Some(key) = key.as_str() else { continue };
        let name = format!("{path}{key}");
        let within = format!("{name}.");
        let flag = names.iter().find(|(known, _)| *known == name);
        if let Some(flag) = flag.and_then(|(_, flag)| flags::find(flag)) {
            read_entry(&format!("{section}.{name}"), flag, value, settings)?;
        } else if names.iter().any(|(known, _)| known.starts_with(&within)) {
            read_section(section, &within, names, value, settings)?;
        } else {
            settings.note_unknown(format!("{section}.{name}"));
        }
    }
    Ok(())
}

fn read_entry(
    key: &str,
    flag: &'static Flag,
    value: &Value,
    settings: &mut Settings,
) -> Result<(), ConfigError> {
    let wrong = |reason: &str| ConfigError::Invalid(format!("configuration file: {key}: {reason}"));
    let text = match (value, flag.kind) {
        (Value::Null, _) => return Ok(()),
        (Value::Number(number), Kind::Duration) => match number.as_i64() {
            Some(nanos) => format!("{nanos}ns"),
            None => return Err(wrong("expected an integer number of nanoseconds")),
        },
        (_, Kind::Duration) => {
            return Err(wrong("expected an integer number of nanoseconds"));
        }
        (Value::Bool(flag), _) => flag.to_string(),
        (Value::Number(number), _) => number.to_string(),
        (Value::String(text), _) => text.clone(),
        (Value::Sequence(entries), Kind::List | Kind::Urls) => {
            let texts: Option<Vec<&str>> = entries.iter().map(Value::as_str).collect();
            texts.ok_or_else(|| wrong("expected a list of texts"))?.join(",")
        }
        _ => return Err(wrong("a value of an unexpected kind")),
    };
    settings
        .give(flag, text)
        .map_err(|(value, reason)| wrong(&format!("invalid value {value:?}: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::build::{Source, build};

    #[test]
    fn etcds_sample_may_name_the_proxy_that_a_flag_may_not() {
        let settings = parse("name: m1\ndiscovery-fallback: 'proxy'\n").unwrap();
        assert!(build(&settings, Source::File).is_ok());
        let error = build(&settings, Source::CommandLine).unwrap_err();
        assert!(error.to_string().contains("v2 proxy is deprecated"), "{error}");
    }

    #[test]
    fn what_etcd_says_of_flags_without_effect_is_said() {
        let settings = parse("v2-deprecation: gone\nmax-snapshots: 5\n").unwrap();
        let config = build(&settings, Source::File).unwrap();
        for text in ["--max-snapshots is deprecated in 3.6", "--v2-deprecation is deprecated"] {
            assert!(config.notes.iter().any(|note| note.message.starts_with(text)), "{text}");
        }
    }

    #[test]
    fn entries_become_the_texts_of_flags() {
        let settings = parse(
            "name: m1\n\
             heartbeat-interval: 250\n\
             pre-vote: false\n\
             wal-dir:\n\
             log-outputs: [stderr, /tmp/log]\n\
             watch-progress-notify-interval: 5000000000\n\
             proxy: 'off'\n\
             client-transport-security:\n  client-cert-auth: false\n  cert-file:\n\
             socket-options:\n  reuse-port: true\n",
        )
        .unwrap();
        for (name, value) in [
            ("name", "m1"),
            ("heartbeat-interval", "250"),
            ("pre-vote", "false"),
            ("log-outputs", "stderr,/tmp/log"),
            ("watch-progress-notify-interval", "5000000000ns"),
            ("client-cert-auth", "false"),
            ("socket-reuse-port", "true"),
        ] {
            assert_eq!(settings.get(name), value, "{name}");
        }
        assert!(!settings.is_given("wal-dir"));
    }

    #[test]
    fn the_section_of_discovery_means_its_flags() {
        let settings = parse(
            "name: m1\n\
             discovery-config:\n  \
               token: t\n  \
               client:\n    \
                 endpoints: [a:1, b:1]\n    \
                 request-timeout: 7000000000\n    \
                 auto-sync: 5\n    \
                 secure:\n      cacert: ca.pem\n      insecure-transport: false\n    \
                 auth:\n      username: root\n      password: secret\n",
        )
        .unwrap();
        let config = build(&settings, Source::File).unwrap();
        let found = &config.discovery;
        assert_eq!((found.endpoints.join(" "), found.token.as_str()), ("a:1 b:1".into(), "t"));
        assert_eq!(found.request_timeout, std::time::Duration::from_secs(7));
        assert_eq!(found.ca_file, Some("ca.pem".into()));
        assert_eq!((found.user.as_str(), found.password.as_str()), ("root", "secret"));
        assert!(!found.is_plain && found.is_wanted());
        assert_eq!(config.initial_cluster, "");
        let error = parse("discovery-config: {client: {secure: 5}}").unwrap_err();
        assert_eq!(error.to_string(), "invalid discovery-config.client.secure");
    }

    #[test]
    fn unknown_keys_are_told() {
        let text = "nam: m1\ndiscovery-config: {client: {tls: 5}}\nsocket-options: {x: 1}\n";
        let config = build(&parse(text).unwrap(), Source::File).unwrap();
        for key in ["nam", "discovery-config.client.tls", "socket-options.x"] {
            let field = ("key".to_owned(), key.to_owned());
            assert!(config.notes.iter().any(|note| note.fields.contains(&field)), "{key}");
        }
    }

    #[test]
    fn json_is_read_as_well() {
        let settings = parse(r#"{"name": "m1", "max-txn-ops": 5}"#).unwrap();
        assert_eq!((settings.get("name"), settings.get("max-txn-ops")), ("m1", "5"));
    }

    #[test]
    fn bad_entries_name_their_key() {
        for (text, part) in [
            ("max-txn-ops: many", "max-txn-ops: invalid value \"many\": parse error"),
            ("grpc-keepalive-timeout: 5s", "expected an integer number of nanoseconds"),
            ("peer-transport-security: 5", "invalid peer-transport-security"),
            ("- a list", "not a mapping"),
            ("name: [", "configuration file"),
        ] {
            let ConfigError::Invalid(error) = parse(text).unwrap_err() else { panic!("{text}") };
            assert!(error.contains(part), "{error}");
        }
    }
}
