//! How to start a member: its flags, as varve and etcd both take them.

use std::path::PathBuf;

use super::{free_port, fresh_directory};

/// How to start one member. Made by [`Options::single`] or by [`Cluster::start`](super::Cluster::start).
#[derive(Clone, Debug)]
pub struct Options {
    /// `--name`.
    pub name: String,
    /// The address it listens on and advertises.
    pub host: String,
    /// Port of `--listen-client-urls`.
    pub client_port: u16,
    /// Port of `--listen-peer-urls`.
    pub peer_port: u16,
    /// `--data-dir`.
    pub data_directory: PathBuf,
    /// `--initial-cluster`; not given if it is empty.
    pub initial_cluster: String,
    /// `--initial-cluster-state`: `new` or `existing`.
    pub initial_cluster_state: String,
    /// `--initial-cluster-token`.
    pub token: String,
    /// Further flags, as given.
    pub extra_flags: Vec<String>,
    /// Variables of its environment besides those of the test; of those, none begins with `ETCD_`.
    pub environment: Vec<(String, String)>,
    /// Words in front of the program, empty for none. What they start must become the program
    /// (exec), or else signals do not reach it.
    pub launcher: Vec<String>,
}

impl Options {
    /// A cluster of one member, on free ports and with a fresh data directory.
    pub fn single(label: &str) -> Options {
        let peer_port = free_port();
        let name = "default".to_owned();
        Options {
            host: "127.0.0.1".into(),
            client_port: free_port(),
            peer_port,
            data_directory: fresh_directory(label),
            initial_cluster: format!("{name}=http://127.0.0.1:{peer_port}"),
            initial_cluster_state: "new".into(),
            token: "etcd-cluster".into(),
            extra_flags: Vec::new(),
            environment: Vec::new(),
            launcher: Vec::new(),
            name,
        }
    }

    /// The URL other members use.
    pub fn peer_url(&self) -> String {
        format!("http://{}:{}", self.host, self.peer_port)
    }

    /// The command line without the program.
    pub fn flags(&self) -> Vec<String> {
        let client = format!("http://{}:{}", self.host, self.client_port);
        let peer = self.peer_url();
        let mut flags = Vec::new();
        for (flag, value) in [
            ("--name", self.name.as_str()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster-token", &self.token),
            ("--data-dir", &self.data_directory.display().to_string()),
            ("--initial-cluster", &self.initial_cluster),
            ("--initial-cluster-state", &self.initial_cluster_state),
        ] {
            // Founders that find each other are not named.
            if flag != "--initial-cluster" || !value.is_empty() {
                flags.push(flag.to_owned());
                flags.push(value.to_owned());
            }
        }
        flags.extend(self.extra_flags.iter().cloned());
        flags
    }
}
