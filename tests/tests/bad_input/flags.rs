//! Mistakes on the command line and in the environment: the exit code and the words are etcd's.
//!
//! Where etcd is at hand, its exit code for the same mistake is compared.

use std::process::{Command, Stdio};

use varve_tests::process::{Program, free_port, fresh_directory, wait_bounded};

use crate::{EXIT_TIMEOUT, assert_no_panic};

/// A mistake: flags behind those of a sound start, of which the later ones win.
struct Mistake {
    what: &'static str,
    flags: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// Flags of the sound start that are left out.
    without: &'static [&'static str],
    code: i32,
    says: &'static str,
}

const NONE: Mistake =
    Mistake { what: "", flags: &[], environment: &[], without: &[], code: 1, says: "" };

const MISTAKES: [Mistake; 16] = [
    Mistake {
        what: "founders that are named and to be found",
        flags: &["--discovery-srv", "example.com"],
        says: "multiple discovery or bootstrap flags are set",
        ..NONE
    },
    Mistake {
        what: "an unknown flag",
        flags: &["--no-such-flag"],
        code: 2,
        says: "flag provided but not defined: -no-such-flag",
        ..NONE
    },
    Mistake {
        what: "a flag without its value",
        flags: &["--heartbeat-interval"],
        code: 2,
        says: "flag needs an argument: -heartbeat-interval",
        ..NONE
    },
    Mistake {
        what: "a number that is none",
        flags: &["--heartbeat-interval", "abc"],
        code: 2,
        says: "invalid value \"abc\" for flag -heartbeat-interval: parse error",
        ..NONE
    },
    Mistake {
        what: "a choice that is none",
        flags: &["--initial-cluster-state", "old"],
        code: 2,
        says: "invalid value \"old\" for flag -initial-cluster-state",
        ..NONE
    },
    Mistake {
        what: "a URL without a scheme",
        flags: &["--listen-client-urls", "127.0.0.1:2379"],
        code: 2,
        says: "invalid value \"127.0.0.1:2379\" for flag -listen-client-urls",
        ..NONE
    },
    Mistake {
        what: "a URL with a path",
        flags: &["--listen-peer-urls", "http://127.0.0.1:2380/raft"],
        code: 2,
        says: "URL must not contain a path: http://127.0.0.1:2380/raft",
        ..NONE
    },
    Mistake {
        what: "a name to listen on",
        flags: &["--listen-client-urls", "http://some.name:2379"],
        says: "expected IP in URL for binding (http://some.name:2379)",
        ..NONE
    },
    Mistake {
        what: "a port that does not fit 16 bits",
        flags: &["--listen-client-urls", "http://127.0.0.1:99999"],
        says: "invalid port",
        ..NONE
    },
    Mistake {
        what: "no advertised client URLs",
        without: &["--advertise-client-urls"],
        says: "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ..NONE
    },
    Mistake {
        what: "a flag and its variable",
        environment: &[("ETCD_NAME", "other")],
        says: "conflicting environment variable is shadowed by corresponding command-line flag",
        ..NONE
    },
    Mistake {
        what: "a variable with a bad value",
        environment: &[("ETCD_MAX_TXN_OPS", "many")],
        says: "invalid value \\\"many\\\" for ETCD_MAX_TXN_OPS",
        ..NONE
    },
    Mistake {
        what: "a word that is no flag",
        flags: &["serve"],
        says: "\\\"serve\\\" is not a valid flag",
        ..NONE
    },
    Mistake {
        what: "an election as short as a heartbeat",
        flags: &["--heartbeat-interval", "1000", "--election-timeout", "1000"],
        says: "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[1000ms]",
        ..NONE
    },
    Mistake {
        what: "an initial cluster without this member",
        flags: &["--initial-cluster", "other=http://127.0.0.1:1"],
        says: "couldn't find local name \\\"m\\\" in the initial cluster configuration",
        ..NONE
    },
    Mistake {
        what: "a configuration file that is not there",
        flags: &["--config-file", "/nonexistent/varve.yml"],
        says: "open /nonexistent/varve.yml: no such file or directory",
        ..NONE
    },
];

/// Starts a program with the mistake in an empty directory; its exit code, its output and what is
/// in its data directory afterwards.
fn run(program: &Program, mistake: &Mistake) -> (Option<i32>, String, bool) {
    let directory = fresh_directory("flags");
    let data = directory.join("data");
    let (client, peer) = (free_port(), free_port());
    let client = format!("http://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    let cluster = format!("m={peer}");
    let data_text = data.display().to_string();
    let mut command = Command::new(&program.path);
    for (flag, value) in [
        ("--name", "m"),
        ("--data-dir", &data_text),
        ("--listen-client-urls", &client),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &cluster),
    ] {
        if !mistake.without.contains(&flag) {
            command.args([flag, value]);
        }
    }
    command.args(mistake.flags).current_dir(&directory);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(name);
        }
    }
    command.envs(mistake.environment.iter().copied());
    // To a file: a pipe that nobody reads could block the program.
    let output = directory.join("output");
    let file = std::fs::File::create(&output).expect("a fresh directory");
    command.stdin(Stdio::null()).stdout(file.try_clone().expect("one more handle")).stderr(file);
    let mut child = command.spawn().expect("the program starts");
    let status = wait_bounded(&mut child, EXIT_TIMEOUT);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = String::from_utf8_lossy(&std::fs::read(&output).expect("just written")).into_owned();
    let has_data = data.join("member").exists();
    let _ = std::fs::remove_dir_all(&directory);
    (status.and_then(|status| status.code()), text, has_data)
}

#[test]
fn a_mistake_on_the_command_line_is_named_with_etcds_exit_code_and_nothing_is_written() {
    let (varve, etcd) = (Program::varve(), Program::etcd());
    if etcd.is_none() {
        varve_tests::process::skip_or_fail("etcd to compare exit codes with");
    }
    for mistake in &MISTAKES {
        let (code, text, has_data) = run(&varve, mistake);
        assert_eq!(code, Some(mistake.code), "{}:\n{text}", mistake.what);
        assert!(text.contains(mistake.says), "{}: {:?} in:\n{text}", mistake.what, mistake.says);
        assert!(!has_data, "{}: the data directory was touched", mistake.what);
        assert_no_panic(&text);
        if let Some(etcd) = &etcd {
            let (etcds, text, _) = run(etcd, mistake);
            assert_eq!(code, etcds, "{}: etcd says\n{text}", mistake.what);
        }
    }
}
