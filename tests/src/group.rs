//! The members of a cluster on a [`Network`]: one process a node, and what an operator or a fault may
//! do to each.
//!
//! One idea: a member is a place: node, address and name stay, also when the process dies and when a
//! new member with a new directory takes the place of one that was removed. All have the same ports,
//! at addresses of their own.
//!
//! What it does not do: decide what happens when; see `trouble`.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use varve_api::etcdserverpb::{
    HashKvRequest, HashKvResponse, MemberAddRequest, MemberAddResponse, MemberListRequest,
    MemberListResponse, MemberRemoveRequest, MemberRemoveResponse, StatusRequest, StatusResponse,
};
use varve_api::method;

use crate::grpc_client::Client;
use crate::network::{self, Network};
use crate::process::{Options, Program, Server};
use crate::program::fresh_directory;

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// How long one question to one member may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a change of the membership may take: the cluster refuses while it has no leader, or
/// while members have only just come back.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// Whether the process of a member can act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs.
    Running,
    /// It is stopped by SIGSTOP.
    Paused,
    /// There is no process.
    Down,
}

/// A place in the cluster.
pub struct Place {
    /// Its process, or the last one.
    pub server: Server,
    /// What the process is doing.
    pub life: Life,
}

/// Members of one cluster.
pub struct Group<'a> {
    /// The network; node `n + 1` is member `n`.
    pub network: &'a Network,
    /// The members.
    pub places: Vec<Place>,
    program: Program,
    runtime: &'a Runtime,
}

impl<'a> Group<'a> {
    /// Starts `count` members with further flags, without waiting.
    pub fn start(
        network: &'a Network,
        runtime: &'a Runtime,
        program: &Program,
        count: usize,
        flags: &[String],
    ) -> Group<'a> {
        let mut group = Group { network, places: Vec::new(), program: program.clone(), runtime };
        let founders: Vec<String> =
            (0..count).map(|number| format!("m{number}={}", peer_url(number))).collect();
        for number in 0..count {
            let mut options = group.options(number, flags);
            options.initial_cluster = founders.join(",");
            group
                .places
                .push(Place { server: Server::spawn(program, options), life: Life::Running });
        }
        group
    }

    fn options(&self, number: usize, flags: &[String]) -> Options {
        Options {
            name: format!("m{number}"),
            host: network::address(number + 1),
            client_port: CLIENT_PORT,
            peer_port: PEER_PORT,
            data_directory: fresh_directory(&self.program.label),
            initial_cluster: String::new(),
            initial_cluster_state: "new".into(),
            token: "trouble".into(),
            extra_flags: flags.to_vec(),
            environment: Vec::new(),
            launcher: self.network.launcher(number + 1),
        }
    }

    /// Where clients find the members.
    pub fn addresses(&self) -> Vec<String> {
        self.places.iter().map(|place| place.server.client_address()).collect()
    }

    /// The member that leads: of those that say so the one with the highest term, for a leader that
    /// is cut off does not know yet.
    pub fn leader(&self) -> Option<usize> {
        let statuses: Vec<_> = self.runtime.block_on(async {
            let asked: Vec<_> = (0..self.places.len())
                .filter(|number| self.places[*number].life == Life::Running)
                .map(|number| (number, tokio::spawn(status(self.client(number)))))
                .collect();
            let mut statuses = Vec::new();
            for (number, asked) in asked {
                statuses.push((number, asked.await.expect("asking does not panic")));
            }
            statuses
        });
        let leads = |status: &StatusResponse| {
            status.header.is_some_and(|header| header.member_id == status.leader)
        };
        let leading = statuses.into_iter().filter_map(|(number, status)| {
            status
                .filter(|status| status.leader != 0 && leads(status))
                .map(|s| (s.raft_term, number))
        });
        leading.max().map(|(_, number)| number)
    }

    /// As [`Group::leader`], and waits for one.
    ///
    /// # Panics
    /// If there is none after `patience`.
    pub fn wait_leader(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(leader) = self.leader() {
                return leader;
            }
            assert!(Instant::now() < deadline, "no leader in {patience:?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn client(&self, number: usize) -> Client {
        Client::new(&self.places[number].server.client_address(), ASK_TIMEOUT)
    }

    /// Kills a member, as a power cut would.
    pub fn kill(&mut self, number: usize) {
        self.places[number].server.kill();
        self.places[number].life = Life::Down;
    }

    /// Ends a member by SIGTERM.
    ///
    /// # Panics
    /// If varve has to be killed, or does not end well.
    pub fn terminate(&mut self, number: usize) {
        let place = &mut self.places[number];
        let status = place.server.terminate();
        place.life = Life::Down;
        let log = place.server.log();
        // etcd waits for its clients, longer than anybody would.
        let is_well = status.is_some_and(|status| status.success()) || !self.program.is_varve();
        assert!(is_well, "m{number} ended by SIGTERM with {status:?}:\n{log}");
    }

    /// Freezes a member.
    pub fn pause(&mut self, number: usize) {
        self.places[number].server.pause();
        self.places[number].life = Life::Paused;
    }

    /// Starts, or goes on with, a member that is not running; without waiting.
    pub fn revive(&mut self, number: usize) {
        let place = &mut self.places[number];
        match place.life {
            Life::Running => {}
            Life::Paused => place.server.resume(),
            Life::Down => place.server.restart_unawaited(),
        }
        place.life = Life::Running;
    }

    /// All members run, and all links are whole.
    pub fn revive_all(&mut self) {
        self.network.heal();
        (0..self.places.len()).for_each(|number| self.revive(number));
    }

    /// Removes a member and puts a new one, with an empty directory, in its place. All others should
    /// run. Started again with its old data, the removed one would end by itself; here it is killed.
    ///
    /// # Panics
    /// If the cluster does not do it in time.
    pub fn replace(&mut self, number: usize) {
        let id = self.id_at(number);
        self.until_done(number, |client| async move {
            let request = MemberRemoveRequest { id };
            let answer: Result<MemberRemoveResponse, _> =
                client.unary(&method::CLUSTER_MEMBER_REMOVE, request).await;
            // Gone: an attempt before, whose answer was lost.
            answer.map(|_| ()).or_else(|status| {
                let is_gone = status.code() == tonic::Code::NotFound;
                if is_gone { Ok(()) } else { Err(status) }
            })
        });
        self.kill(number);
        let old = self.places[number].server.options().data_directory.clone();
        std::fs::remove_dir_all(&old).expect("the member's own directory");
        self.add(number);
    }

    /// Adds a member in an empty place, or in a new one at the end.
    ///
    /// # Panics
    /// If the cluster does not do it in time.
    pub fn add(&mut self, number: usize) {
        let url = peer_url(number);
        let members = self.until_done(number, |client| {
            let url = url.clone();
            async move {
                let request = MemberAddRequest { peer_urls: vec![url.clone()], is_learner: false };
                let answer: Result<MemberAddResponse, _> =
                    client.unary(&method::CLUSTER_MEMBER_ADD, request).await;
                match answer {
                    Ok(added) => Ok(added.members),
                    // There already: an attempt before, whose answer was lost.
                    Err(_) => members(&client).await.and_then(|members| {
                        let is_there = members.iter().any(|member| member.peer_urls[0] == url);
                        let wait = tonic::Status::unavailable("not added yet");
                        if is_there { Ok(members) } else { Err(wait) }
                    }),
                }
            }
        });
        let named = members.iter().map(|member| {
            let name =
                if member.peer_urls[0] == url { &format!("m{number}") } else { &member.name };
            format!("{name}={}", member.peer_urls[0])
        });
        let flags = self.places[0].server.options().extra_flags.clone();
        let mut options = self.options(number, &flags);
        options.initial_cluster = named.collect::<Vec<_>>().join(",");
        options.initial_cluster_state = "existing".into();
        let server = Server::spawn(&self.program, options);
        let place = Place { server, life: Life::Running };
        if number == self.places.len() {
            self.places.push(place);
        } else {
            self.places[number] = place;
        }
    }

    /// Asks members other than `except`, one after the other, until one has done it.
    fn until_done<T, F: Future<Output = Result<T, tonic::Status>>>(
        &self,
        except: usize,
        attempt: impl Fn(Client) -> F,
    ) -> T {
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        let others = (0..self.places.len()).filter(|number| *number != except).cycle();
        for other in others {
            let address = self.places[other].server.client_address();
            // A client is made within an executor.
            let done = self
                .runtime
                .block_on(async { attempt(Client::new(&address, Duration::from_secs(5))).await });
            match done {
                Ok(done) => return done,
                Err(status) => {
                    assert!(Instant::now() < deadline, "m{other}: {status}\n{}", self.logs());
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        unreachable!("a cluster has other members")
    }

    fn id_at(&self, number: usize) -> u64 {
        let url = peer_url(number);
        self.until_done(number, |client| {
            let url = url.clone();
            async move {
                let members = members(&client).await?;
                let found = members.iter().find(|member| member.peer_urls.contains(&url));
                found.map(|member| member.id).ok_or_else(|| tonic::Status::not_found(url))
            }
        })
    }

    /// The hash of all keys up to a revision, as a member computes it.
    pub async fn hash(client: &Client, revision: i64) -> Result<u32, tonic::Status> {
        let request = HashKvRequest { revision };
        let answer: HashKvResponse = client.unary(&method::MAINTENANCE_HASH_KV, request).await?;
        Ok(answer.hash)
    }

    /// What all members wrote to their logs.
    pub fn logs(&self) -> String {
        let log = |(number, place): (usize, &Place)| {
            let lines: Vec<String> = place.server.log().lines().map(str::to_owned).collect();
            let shown = lines.len().saturating_sub(60);
            format!("--- m{number}, {:?}\n{}\n", place.life, lines[shown..].join("\n"))
        };
        self.places.iter().enumerate().map(log).collect()
    }
}

fn peer_url(number: usize) -> String {
    format!("http://{}:{PEER_PORT}", network::address(number + 1))
}

async fn status(client: Client) -> Option<StatusResponse> {
    let asked = client.unary(&method::MAINTENANCE_STATUS, StatusRequest::default());
    asked.await.ok()
}

async fn members(client: &Client) -> Result<Vec<varve_api::etcdserverpb::Member>, tonic::Status> {
    let request = MemberListRequest { linearizable: true };
    let list: MemberListResponse = client.unary(&method::CLUSTER_MEMBER_LIST, request).await?;
    Ok(list.members)
}
