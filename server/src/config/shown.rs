//! The log line "starting an etcd server": what the server was started with.
//!
//! One idea: it is made from the table of flags, so it has every flag under its own name, numbers as
//! numbers and lists as lists. A flag without effect here has its default, whatever was given. That
//! is more than etcd shows and has the same names where both show something.

use serde_json::Value;

use super::flag::{Flag, Kind, Support, parse_bool};
use super::flags;
use super::settings::Settings;

/// Flags that are not shown: they are about one start, or name a secret.
const LEFT_OUT: [&str; 4] = ["config-file", "version", "discovery-user", "discovery-password"];

/// All flags as JSON fields, each after a comma.
pub fn fields(settings: &Settings) -> String {
    let shown = flags::all().filter(|flag| !LEFT_OUT.contains(&flag.name));
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
        let left_out = flags::all().filter(|flag| LEFT_OUT.contains(&flag.name)).count();
        assert_eq!(shown, flags::all().count() - left_out);
    }
}
