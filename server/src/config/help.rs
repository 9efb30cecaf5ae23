//! `--help`, `--version` and the short usage.

use std::fmt::Write as _;

use super::flag::{Kind, Support};
use super::flags::SECTIONS;
use crate::version::ETCD_VERSION;

/// Printed to stderr after a mistake on the command line, and first by `--help`.
pub const USAGE: &str = "\
Usage:

  varve [flags]
    Start a server.

  varve snapshot restore | status
    Make a data directory from a backup, or look at one; `varve snapshot --help`.

  varve --version
    Print the versions.

  varve -h | --help
    Print all flags.

  varve --config-file <path>
    Start a server with the configuration in a YAML or JSON file; other flags and the
    environment are then ignored. Durations in it are integers of nanoseconds.
";

/// All flags with their defaults.
pub fn flags() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        writeln!(text, "{}:", section.title).expect("writing to a String cannot fail");
        for flag in section.flags {
            let default = match flag.kind {
                Kind::Bool if flag.default == "false" => String::new(),
                _ => format!(" '{}'", flag.default),
            };
            let remark = match flag.support {
                Support::Works => "",
                Support::Later => " (Accepted, without effect yet.)",
                Support::Ignored => " (Accepted, without effect.)",
            };
            writeln!(text, "  --{}{default}\n    {}{remark}", flag.name, flag.help)
                .expect("writing to a String cannot fail");
        }
        text.push('\n');
    }
    text
}

/// What `--version` prints. Programs read the first line to learn which etcd this stands in for.
pub fn version() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\n\
         Git SHA: Not provided\n\
         Go Version: none\n\
         Go OS/Arch: {}/{}\n\
         varve Version: {}\n",
        std::env::consts::OS,
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        env!("CARGO_PKG_VERSION"),
    )
}
