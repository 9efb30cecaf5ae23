//! A member joins a cluster full of data while clients write, leaves for a while, and comes back.
//!
//! One idea: what clients notice of it and what travels. Puts come at a fixed rate all the time, so
//! that their latencies tell what the transfer costs those who do not know of it; bytes are what the
//! members say that they have sent to each other (`etcd_network_peer_sent_bytes_total`), less what
//! replication of the puts themselves takes in the same time, which is in the figure as well.

use std::time::Duration;

use varve_api::etcdserverpb::{MemberAddRequest, MemberAddResponse};
use varve_api::method::CLUSTER_MEMBER_ADD;

use super::{HEADS, Settings, block_on, cells, checked, fill, say, side_by_side};
use crate::grpc::Connection;
use crate::load::{self, Limit, Operation, Report, Spec};
use crate::server::{Error, Member, Program, Server};
use crate::table::{Cell, Table};
use crate::workload::{Order, ValueSizes};

/// Puts in flight at most: enough for a stall of a second and more.
const WRITERS: usize = 1000;
/// One burst of the puts beside a transfer; it is asked for its end between two of them.
const BURST: Duration = Duration::from_secs(1);

/// Of each member: what it has sent to others, snapshots included.
const SENT_BYTES: &str = "etcd_network_peer_sent_bytes_total{";

/// How much there is, and what is written meanwhile.
#[derive(Clone, Debug)]
pub struct Join {
    /// Keys in the cluster.
    pub keys: u64,
    /// How long their values are.
    pub value_sizes: ValueSizes,
    /// Puts a second, of random keys.
    pub rate: f64,
}

/// What one program did.
struct Measured {
    alone: Report,
    joining: Transfer,
    returning: Transfer,
    /// Of the new member, when it had joined.
    disk_bytes: u64,
}

/// A start of the new member until it answered a linearizable get.
struct Transfer {
    beside: Report,
    took: Duration,
    sent_bytes: f64,
}

/// Measures, and makes a table of the puts and one of the transfers.
///
/// # Errors
/// A server does not serve, or a call failed.
pub fn run(settings: &Settings, scenario: &Join) -> Result<(Table, Table), Error> {
    let measured =
        settings.interleave(|program, server| measure(settings, scenario, program, server))?;
    let heads: Vec<&str> = ["puts", "server"].into_iter().chain(HEADS).collect();
    let mut puts = Table::new(&heads);
    let last: Vec<&Measured> = measured.iter().filter_map(|rounds| rounds.last()).collect();
    for (program, one) in settings.programs().iter().zip(&last) {
        let all = [
            ("alone", &one.alone),
            ("a member joins", &one.joining.beside),
            ("it comes back", &one.returning.beside),
        ];
        for (what, report) in all {
            let mut row = [what, program.label.as_str()].map(Cell::text).to_vec();
            row.extend(cells(report));
            puts.row(row);
        }
        puts.ratio("joins / alone", 1, 1, 2);
    }
    let columns = last.iter().map(|one| column(one)).collect();
    Ok((puts, side_by_side(settings, columns)))
}

fn column(measured: &Measured) -> Vec<(&'static str, Cell)> {
    let Measured { joining, returning, disk_bytes, .. } = measured;
    let seconds = |time: Duration| Cell::Number(time.as_secs_f64(), "", 1);
    vec![
        ("join, s", seconds(joining.took)),
        ("join, MiB sent by all members", Cell::mebibytes(joining.sent_bytes as u64)),
        ("disk of the new member, MiB", Cell::mebibytes(*disk_bytes)),
        ("return, s", seconds(returning.took)),
        ("return, MiB sent by all members", Cell::mebibytes(returning.sent_bytes as u64)),
    ]
}

fn measure(
    settings: &Settings,
    scenario: &Join,
    program: &Program,
    server: &mut Server,
) -> Result<Measured, Error> {
    let workload = settings.workload(scenario.keys, Order::Random, scenario.value_sizes);
    let filled = fill(settings, server, &workload)?;
    say(&format!("{}: filled", program.label), &filled);
    let mut puts = settings.spec(server, Operation::Put, WRITERS, &workload);
    puts.connections = 10;
    puts.rate = Some(scenario.rate);
    let alone = checked(load::run(&puts)?)?;
    say(&format!("{}: alone", program.label), &alone);

    let mut newcomer = server.newcomer(program)?;
    let (first, peer_url) = (server.addresses()[0], newcomer.peer_url());
    block_on(async {
        let connection = Connection::open(first).await?;
        let request = MemberAddRequest { peer_urls: vec![peer_url], is_learner: false };
        let target = connection.target(&CLUSTER_MEMBER_ADD);
        connection.unary::<MemberAddResponse>(&target, &request).await
    })?;
    let joining = beside_a_start(server, &mut newcomer, &puts)?;
    say(&format!("{}: joined in {:?}, puts", program.label, joining.took), &joining.beside);
    let disk_bytes = newcomer.disk_bytes()?;

    newcomer.terminate()?;
    // A tenth of the data is written anew while it is away.
    let mut rewrite = settings.spec(server, Operation::Put, 256, &workload);
    rewrite.limit = Limit::Calls(scenario.keys / 10);
    checked(load::run(&rewrite)?)?;
    let returning = beside_a_start(server, &mut newcomer, &puts)?;
    say(&format!("{}: back in {:?}, puts", program.label, returning.took), &returning.beside);
    Ok(Measured { alone, joining, returning, disk_bytes })
}

/// Starts the new member, and writes until it has what the others have.
fn beside_a_start(server: &Server, newcomer: &mut Member, puts: &Spec) -> Result<Transfer, Error> {
    let mut burst = puts.clone();
    burst.limit = Limit::Time(BURST);
    let before = server.metric(SENT_BYTES)?;
    // A process ends with the thread that starts it, so that is this one.
    newcomer.spawn()?;
    let mut beside = Report::default();
    let took = std::thread::scope(|scope| {
        let start = scope.spawn(|| newcomer.wait());
        while !start.is_finished() {
            beside.add(&checked(load::run(&burst)?)?);
        }
        Ok::<_, Error>(start.join().expect("a start does not panic")?.first_get)
    })?;
    let sent_bytes = server.metric(SENT_BYTES)? - before;
    Ok(Transfer { beside, took, sent_bytes })
}
