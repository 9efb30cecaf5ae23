//! Several members on loopback that know each other from the start.

use super::{Options, Program, READY_TEXT, READY_TIMEOUT, START_ATTEMPTS_MAX, Server};

/// Several members that know each other from the start.
pub struct Cluster {
    /// The members, named `m0`, `m1`, ...
    pub servers: Vec<Server>,
}

impl Cluster {
    /// Starts `count` members with further flags and waits until all serve.
    ///
    /// # Panics
    ///
    /// If one does not serve in [`READY_TIMEOUT`].
    pub fn start(program: &Program, count: usize, extra_flags: &[&str]) -> Cluster {
        for _ in 1..START_ATTEMPTS_MAX {
            let cluster = Cluster::spawn(program, count, extra_flags);
            let is_ready = |server: &Server| server.log.wait_for(READY_TEXT, READY_TIMEOUT);
            let waiting = cluster.servers.iter().find(|server| !is_ready(server));
            match waiting {
                None => return cluster,
                Some(server) if server.log().contains("address already in use") => {}
                Some(server) => server.wait_ready(),
            }
        }
        let cluster = Cluster::spawn(program, count, extra_flags);
        cluster.servers.iter().for_each(Server::wait_ready);
        cluster
    }

    fn spawn(program: &Program, count: usize, extra_flags: &[&str]) -> Cluster {
        let mut members: Vec<Options> = (0..count)
            .map(|number| Options { name: format!("m{number}"), ..Options::single(&program.label) })
            .collect();
        let initial_cluster: Vec<String> = members
            .iter()
            .map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer_port))
            .collect();
        for member in &mut members {
            member.initial_cluster = initial_cluster.join(",");
            member.extra_flags = extra_flags.iter().map(|flag| (*flag).to_owned()).collect();
        }
        let servers = members.into_iter().map(|options| Server::spawn(program, options)).collect();
        Cluster { servers }
    }

    /// Starts all members again that were stopped, at the same time: none is ready before a quorum
    /// runs.
    ///
    /// # Panics
    ///
    /// If one does not serve in [`READY_TIMEOUT`].
    pub fn restart_all(&mut self) {
        for server in &mut self.servers {
            assert!(server.child.is_none(), "stop the members before they are started again");
            server.spawn_child();
        }
        self.servers.iter().for_each(Server::wait_ready);
    }

    /// The addresses of all members, separated by commas, as `--endpoints` takes them.
    pub fn endpoints(&self) -> String {
        let addresses: Vec<String> = self.servers.iter().map(Server::client_address).collect();
        addresses.join(",")
    }
}
