//! A network on one machine whose every packet goes through this process: members in namespaces of
//! their own, and links between them that lose, delay, reorder, or carry one way only.
//!
//! One idea: each node has a network namespace with one device (TUN), and the other end of each
//! device is a file of ours. What a node sends is read there, and written to the device of its
//! receiver, or later, or never. So programs, kernels and TCP are real, and the wire is a table of
//! links, one for each direction, that a test changes while packets fly.
//!
//! Node 0 is the test itself: [`within`] runs it on a thread in that node's namespace, with whatever
//! threads and processes it starts. Nothing is left behind and nothing outside is touched: a
//! namespace ends with the last process in it. All networks have the same addresses, and none sees
//! another.
//!
//! Needs root, `/dev/net/tun`, `ip` and `nsenter`, and says so where it skips.
//!
//! What it does not do: bound the rate of a link.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use varve_disk::sim::Random;

use crate::program::find_in_path;

/// Large packets: fewer turns through this process.
const MTU_BYTES: usize = 9_000;
/// `_IOW('T', 202, int)`, from `linux/if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// What becomes of packets from one node to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Nothing arrives.
    pub is_cut: bool,
    /// Every packet takes so long.
    pub delay: Duration,
    /// And up to so much more: packets overtake each other.
    pub jitter: Duration,
    /// Of a thousand packets so many are lost.
    pub lost_per_mille: u64,
}

/// A node's side of the network.
struct Node {
    /// Keeps the namespace; also how a process enters it.
    namespace: File,
    device: File,
}

/// What the wire's thread looks up for every packet.
struct Wire {
    /// `links[from][to]`.
    links: Vec<Vec<Link>>,
    random: Random,
}

/// Nodes and the wire between them.
pub struct Network {
    nodes: Vec<Node>,
    wire: Arc<Mutex<Wire>>,
}

/// Runs `work` as node 0 of a network with nodes 1 to `members`; `None`, with a reason, where there
/// can be none. `seed` draws the packets that are lost.
///
/// # Panics
/// As `work` does.
pub fn within<T: Send>(
    members: usize,
    seed: u64,
    work: impl FnOnce(&Network) -> T + Send,
) -> Option<T> {
    let made = |network: Result<Network, String>| match network {
        Ok(network) => Some(work(&network)),
        Err(reason) => {
            eprintln!("SKIPPED: no network of namespaces: {reason}");
            None
        }
    };
    // A thread of its own, for it leaves the namespace that it shares with all others.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| made(Network::new(members, seed)));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The address of a node.
pub fn address(node: usize) -> String {
    format!("10.77.0.{}", node + 1)
}

impl Network {
    fn new(members: usize, seed: u64) -> Result<Network, String> {
        for tool in ["ip", "nsenter"] {
            find_in_path(tool).ok_or_else(|| format!("{tool} is not here"))?;
        }
        let mut nodes = vec![Node::new(0)?];
        for node in 1..=members {
            let made = std::thread::scope(|scope| scope.spawn(move || Node::new(node)).join());
            nodes.push(made.expect("a node's thread does not panic")?);
        }
        let links = vec![vec![Link::default(); nodes.len()]; nodes.len()];
        let wire = Arc::new(Mutex::new(Wire { links, random: Random::new(seed) }));
        let devices = nodes.iter().map(|node| node.device.try_clone());
        let devices: Vec<File> =
            devices.collect::<Result<_, _>>().map_err(|error| format!("devices: {error}"))?;
        let shared = Arc::downgrade(&wire);
        // Ends with the network: its wire is gone then.
        std::thread::spawn(move || carry(devices, &shared));
        Ok(Network { nodes, wire })
    }

    /// Nodes besides the test.
    pub fn members(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Words in front of a program that is to run at a node.
    pub fn launcher(&self, node: usize) -> Vec<String> {
        let file = self.nodes[node].namespace.as_raw_fd();
        vec!["nsenter".into(), format!("--net=/proc/{}/fd/{file}", std::process::id())]
    }

    /// Sets what becomes of packets from one node to another.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.wire().links[from][to] = link;
    }

    /// What becomes of them now.
    pub fn link(&self, from: usize, to: usize) -> Link {
        self.wire().links[from][to]
    }

    /// All links as they were in the beginning.
    pub fn heal(&self) {
        self.wire().links.iter_mut().flatten().for_each(|link| *link = Link::default());
    }

    fn wire(&self) -> std::sync::MutexGuard<'_, Wire> {
        self.wire.lock().expect("no panic under this lock")
    }
}

impl Node {
    /// Moves this thread to a namespace of its own, and gives it its device.
    fn new(node: usize) -> Result<Node, String> {
        let failed = |what: &str| format!("{what}: {}", std::io::Error::last_os_error());
        // SAFETY: takes an integer; of this process only this thread is affected.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(failed("unshare"));
        }
        let open = |path: &str| {
            let file = File::options().read(true).write(path.starts_with("/dev")).open(path);
            file.map_err(|error| format!("{path}: {error}"))
        };
        let namespace = open("/proc/thread-self/ns/net")?;
        let device = open("/dev/net/tun")?;
        // `struct ifreq`: a name, and flags: packets without anything in front of them.
        let mut request = [0_u8; 40];
        request[..4].copy_from_slice(b"wire");
        let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
        request[16..18].copy_from_slice(&flags.to_ne_bytes());
        // SAFETY: the request is as long as the kernel's structure and outlives the call.
        if unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) } != 0 {
            return Err(failed("TUNSETIFF"));
        }
        // SAFETY: takes integers.
        if unsafe { libc::fcntl(device.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
            return Err(failed("O_NONBLOCK"));
        }
        for words in [
            "link set lo up".to_owned(),
            format!("addr add {}/24 dev wire", address(node)),
            format!("link set wire up mtu {MTU_BYTES}"),
        ] {
            let status = Command::new("ip").args(words.split(' ')).status();
            if !status.is_ok_and(|status| status.success()) {
                return Err(format!("ip {words} failed"));
            }
        }
        Ok(Node { namespace, device })
    }
}

/// Carries packets until the network is gone.
fn carry(devices: Vec<File>, wire: &std::sync::Weak<Mutex<Wire>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        // SAFETY: each file owns its descriptor, and stays as it is while it is registered.
        let register = |device| unsafe { AsyncFd::register(device) }.expect("it can be polled");
        let devices: Arc<[AsyncFd<File>]> = devices.into_iter().map(register).collect();
        for from in 0..devices.len() {
            tokio::spawn(carry_from(from, Arc::clone(&devices), wire.clone()));
        }
        while wire.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

async fn carry_from(
    from: usize,
    devices: Arc<[AsyncFd<File>]>,
    wire: std::sync::Weak<Mutex<Wire>>,
) {
    let mut packet = vec![0; MTU_BYTES];
    loop {
        let Ok(mut ready) = devices[from].readable().await else { return };
        // Not ready after all: wait again. Other errors do not occur on a device that is up.
        let Ok(read) = ready.try_io(|device| device.get_ref().read(&mut packet)) else {
            continue;
        };
        let Ok(length) = read else { return };
        let Some(to) = receiver(&packet[..length], devices.len()) else { continue };
        let Some(wire) = wire.upgrade() else { return };
        let Some(delay) = wire.lock().expect("no panic under this lock").draw(from, to) else {
            continue;
        };
        if delay.is_zero() {
            deliver(&devices[to], &packet[..length]);
        } else {
            let (packet, devices) = (packet[..length].to_vec(), Arc::clone(&devices));
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                deliver(&devices[to], &packet);
            });
        }
    }
}

impl Wire {
    /// How long the next packet takes; `None` if it is lost.
    fn draw(&mut self, from: usize, to: usize) -> Option<Duration> {
        let link = self.links[from][to];
        if link.is_cut || self.random.below(1_000) < link.lost_per_mille {
            return None;
        }
        let jitter_nanoseconds = u64::try_from(link.jitter.as_nanos()).expect("a short delay");
        let more = self.random.below(jitter_nanoseconds.max(1));
        Some(link.delay + Duration::from_nanos(more))
    }
}

/// The node that an IPv4 packet is for; `None` for other packets (IPv6 looks for neighbours).
fn receiver(packet: &[u8], nodes: usize) -> Option<usize> {
    let is_ours = packet.len() >= 20 && packet[0] >> 4 == 4 && packet[16..19] == [10, 77, 0];
    let node = usize::from(*packet.get(19)?).checked_sub(1)?;
    (is_ours && node < nodes).then_some(node)
}

/// What a device does not take is lost, as on any wire.
fn deliver(device: &AsyncFd<File>, packet: &[u8]) {
    let _lost = device.get_ref().write(packet);
}
