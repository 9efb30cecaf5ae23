//! The log line "starting an etcd server": what the server was started with.
//!
//! One idea: it is made from the table of flags, so it has every flag under its own name, numbers as
//! numbers and lists as lists. A flag without effect here has its default, whatever was given. That
//! is more than etcd shows and has the same names where both show something.

use serde_json::Value;

use super::flag::{Flag, Kind, Support, parse_bool};
use super::flags;
use super::settings::Settings;

/// Flags that are about one start.
const OF_ONE_START: [&str; 2] = ["config-file", "version"];
/// Flags whose values nobody is shown.
const SECRET: [&str; 2] = ["discovery-user", "discovery-password"];
const HIDDEN: &str = "***";

/// What may be shown of the value of a flag.
pub fn without_secret<'a>(flag: &str, value: &'a str) -> &'a str {
    if SECRET.contains(&flag) { HIDDEN } else { value }
}

/// A command line as it may be shown.
pub fn without_secrets(arguments: &[String]) -> Vec<String> {
    let mut hides_next = false;
    let show = |argument: &String| {
        let hides = std::mem::take(&mut hides_next);
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (argument.as_str(), None),
        };
        let is_secret = flag.starts_with('-') && SECRET.contains(&flag.trim_start_matches('-'));
        match value {
            _ if hides => HIDDEN.to_owned(),
            Some(_) if is_secret => format!("{flag}={HIDDEN}"),
            _ => {
                hides_next = is_secret;
                argument.clone()
            }
        }
    };
    arguments.iter().map(show).collect()
}

/// All flags as JSON fields, each after a comma.
pub fn fields(settings: &Settings) -> String {
    let is_shown =
        |flag: &&Flag| !OF_ONE_START.contains(&flag.name) && !SECRET.contains(&flag.name);
    let shown = flags::all().filter(is_shown);
    shown.map(|flag| format!(",\"{}\":{}", flag.name, value(flag, settings))).collect()
}

fn value(flag: &Flag, settings: &Settings) -> Value {
    let text = match flag.support {
        Support::Ignored => flag.default,
        Support::Works | Support::Later => settings.get(flag.name),
    };
    let number =
        || text.parse::<serde_json::Number>().map_or_else(|_| Value::from(text), Value::from);
    match flag.kind {
        Kind::Bool => Value::from(parse_bool(text).unwrap_or(false)),
        Kind::Uint32 | Kind::Uint | Kind::Int => number(),
        Kind::List | Kind::Urls | Kind::Origins => {
            text.split(',').filter(|entry| !entry.is_empty()).collect()
        }
        Kind::Duration | Kind::Text | Kind::OneOf(_) | Kind::Phase(_) | Kind::FeatureGates => {
            Value::from(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::CommandLine;

    #[test]
    fn secrets_are_hidden_however_they_are_given() {
        let given = ["varve", "--discovery-user=a:b", "-discovery-password", "b", "--name", "b"];
        let shown = without_secrets(&given.map(str::to_owned));
        let expected =
            ["varve", "--discovery-user=***", "-discovery-password", "***", "--name", "b"];
        assert_eq!(shown, expected);
        assert_eq!(without_secret("discovery-password", "b"), "***");
        assert_eq!(without_secret("name", "b"), "b");
    }

    #[test]
    fn every_flag_is_shown_as_what_it_is() {
        let arguments = [
            "--snapshot-catchup-entries=1000",
            "--v2-deprecation=gone",
            "--listen-client-urls=http://127.0.0.1:1,http://127.0.0.1:2",
            "--pre-vote=f",
        ];
        let CommandLine::Settings(settings) =
            Settings::from_arguments(&arguments.map(str::to_owned)).unwrap()
        else {
            panic!("no help was asked for")
        };
        let text = fields(&settings);
        let line: Value = serde_json::from_str(&format!("{{\"msg\":\"\"{text}}}")).unwrap();
        assert_eq!(line["snapshot-catchup-entries"], 1000);
        assert_eq!(line["v2-deprecation"], "write-only", "it has no effect");
        assert_eq!(line["listen-client-urls"][1], "http://127.0.0.1:2");
        assert_eq!(line["pre-vote"], false);
        assert_eq!(line["heartbeat-interval"], 100);
        assert_eq!(line["election-timeout"], 1000);
        let shown = line.as_object().unwrap().len() - 1;
        let left_out = OF_ONE_START.len() + SECRET.len();
        assert_eq!(shown, flags::all().count() - left_out);
    }
}
