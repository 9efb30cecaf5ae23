//! Programs in Python, Node and Java, as users would write them, against varve: `interop/python`,
//! `interop/node` and `interop/java` print PASS or FAIL a case. Go and Rust have tests of their own.
//!
//! One idea: the client libraries are those that people install, in pinned versions, by the
//! language's own package manager. Every program has the same cases, with the same server in plain
//! and with TLS. `VARVE_BIN` names another server: etcd 3.4 and 3.7 pass.
//!
//! What is installed stays below `target/tmp/interop-*` until its list of packages changes.
//!
//! What it does not do: run where the language, its package manager or the registry is not to be
//! had (a message says so; with `CI=true` it fails).

#![expect(clippy::disallowed_methods, reason = "what a program writes, no file of a server")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use varve_tests::certificates::{Authority, CLIENT, SERVER, put};
use varve_tests::process::{
    Options, Program, Server, find_in_path, free_port, scratch_directory, skip_or_fail,
    wait_bounded,
};

/// What every program prints as passed.
const CASES: [&str; 6] = ["keys", "watch", "lease", "transaction", "tls", "users"];
/// How long a package manager may take; without a network some try for minutes.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a program may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(240);
/// How often a start is repeated because another process took a port.
const START_ATTEMPTS_MAX: usize = 3;

/// A program of one language, and where it is installed.
struct Client {
    sources: PathBuf,
    directory: PathBuf,
}

impl Client {
    fn new(language: &str) -> Client {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(language);
        let directory = scratch_directory().join(format!("interop-{language}"));
        std::fs::create_dir_all(&directory).expect("target/tmp is writable");
        Client { sources, directory }
    }

    /// Runs the commands that install what `manifest` lists, unless that was done before.
    ///
    /// # Errors
    /// What the first of them says that fails.
    fn install(&self, manifest: &str, commands: Vec<Command>) -> Result<(), String> {
        let wanted = std::fs::read(self.sources.join(manifest)).expect("a list of packages");
        let installed = self.directory.join("installed");
        if std::fs::read(&installed).is_ok_and(|found| found == wanted) {
            return Ok(());
        }
        for mut command in commands {
            self.run(&mut command, INSTALL_TIMEOUT)?;
        }
        put(&self.directory, "installed", &wanted);
        Ok(())
    }

    /// What a command wrote.
    ///
    /// # Errors
    /// The same, if it fails or takes too long.
    fn run(&self, command: &mut Command, timeout: Duration) -> Result<String, String> {
        let path = self.directory.join("output");
        let output = File::create(&path).expect("target/tmp is writable");
        command.current_dir(&self.directory).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("a file")).stderr(output);
        // Nothing stands between this machine and itself, whatever else needs a proxy.
        command.env("no_proxy", "127.0.0.1").env("NO_PROXY", "127.0.0.1");
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let status = wait_bounded(&mut child, timeout);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let text = std::fs::read(&path).expect("it was made above");
        let text = String::from_utf8_lossy(&text).into_owned();
        match status {
            Some(status) if status.success() => Ok(text),
            Some(status) => Err(format!("{command:?}: {status}\n{text}")),
            None => Err(format!("{command:?}: not done after {timeout:?}\n{text}")),
        }
    }

    /// Starts a server and runs the program, with the addresses and certificates that it wants.
    fn check(&self, mut program: Command) {
        let authority = Authority::new("authority");
        let (cert, key) = authority.sign(&SERVER).write(&self.directory, "server");
        authority.sign(&CLIENT).write(&self.directory, "client");
        let ca = put(&self.directory, "ca.crt", authority.pem().as_bytes());
        put(&self.directory, "other.crt", Authority::new("other").pem().as_bytes());
        let files = [("--cert-file", &cert), ("--key-file", &key), ("--trusted-ca-file", &ca)];
        let (server, tls_address) = start(&files);
        program.args([&server.client_address(), &tls_address]).arg(&self.directory);
        let outcome = self.run(&mut program, RUN_TIMEOUT);
        let text =
            outcome.unwrap_or_else(|text| panic!("{text}\nthe server's log:\n{}", server.log()));
        println!("{text}");
        for case in CASES {
            assert!(text.lines().any(|line| line == format!("PASS {case}")), "{case}: {text}");
        }
    }
}

/// Starts a member that serves clients in plain and, at the address that is returned, with TLS.
fn start(files: &[(&str, &PathBuf)]) -> (Server, String) {
    for _ in 0..START_ATTEMPTS_MAX {
        let mut options = Options::single("interop");
        let tls_address = format!("127.0.0.1:{}", free_port());
        let plain = format!("http://127.0.0.1:{}", options.client_port);
        options.extra_flags = vec![
            "--listen-client-urls".to_owned(),
            format!("{plain},https://{tls_address}"),
            "--client-cert-auth".to_owned(),
            "--bcrypt-cost=4".to_owned(),
        ];
        for (flag, path) in files {
            options.extra_flags.extend([(*flag).to_owned(), path.display().to_string()]);
        }
        match Server::start_with(&Program::varve(), options) {
            Ok(server) => return (server, tls_address),
            Err(log) if log.contains("address already in use") => {}
            Err(log) => panic!("does not serve:\n{log}"),
        }
    }
    panic!("{START_ATTEMPTS_MAX} times another process took a port");
}

fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

#[test]
fn a_python_program_finds_what_it_finds_in_etcd() {
    let Some(python) = find_in_path("python3") else { return skip_or_fail("python3") };
    let client = Client::new("python");
    let in_environment = client.directory.join("environment/bin/python");
    let arguments = ["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--requirement"];
    let mut install = command(&in_environment, &arguments);
    install.arg(client.sources.join("requirements.txt"));
    let environment = command(&python, &["-m", "venv", "environment"]);
    if let Err(text) = client.install("requirements.txt", vec![environment, install]) {
        return skip_or_fail(&format!("what requirements.txt lists, from PyPI: {text}"));
    }
    let mut program = command(&in_environment, &[]);
    program.arg(client.sources.join("client.py"));
    client.check(program);
}

#[test]
fn a_node_program_finds_what_it_finds_in_etcd() {
    let (Some(node), Some(npm)) = (find_in_path("node"), find_in_path("npm")) else {
        return skip_or_fail("node and npm");
    };
    let client = Client::new("node");
    // Modules are looked for beside the program.
    for name in ["package.json", "package-lock.json", "client.js"] {
        std::fs::copy(client.sources.join(name), client.directory.join(name)).expect("a source");
    }
    let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"];
    let install = command(&npm, &arguments);
    if let Err(text) = client.install("package-lock.json", vec![install]) {
        return skip_or_fail(&format!("what package-lock.json lists, from npm: {text}"));
    }
    client.check(command(&node, &["client.js"]));
}

#[test]
fn a_java_program_finds_what_it_finds_in_etcd() {
    let (Some(java), Some(maven)) = (find_in_path("java"), find_in_path("mvn")) else {
        return skip_or_fail("java and mvn");
    };
    let client = Client::new("java");
    let arguments = ["--quiet", "--batch-mode", "dependency:copy-dependencies"];
    let mut install = command(&maven, &arguments);
    let libraries = client.directory.join("libraries");
    install.arg(format!("-DoutputDirectory={}", libraries.display()));
    install.arg("--file").arg(client.sources.join("pom.xml"));
    if let Err(text) = client.install("pom.xml", vec![install]) {
        return skip_or_fail(&format!("what pom.xml lists, from Maven Central: {text}"));
    }
    let mut program = command(&java, &["-classpath"]);
    program.arg(libraries.join("*")).arg(client.sources.join("Main.java"));
    client.check(program);
}
