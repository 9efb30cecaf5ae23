//! Service records of DNS: one question, to the name servers of the system.
//!
//! One idea: the bytes of a message are for the crate `simple-dns`; here is the asking. As the
//! system's resolver does it: the servers of `/etc/resolv.conf` in order, twice, 5 s each; over TCP
//! if the answer does not fit a datagram.
//!
//! What it does not do: remember answers, follow search domains (names are whole), or look up
//! addresses, which the system does.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE};
use varve_disk::os::read_foreign;

use crate::random;

/// Where the system says who its name servers are.
const SYSTEM_FILE: &str = "/etc/resolv.conf";
/// Where name servers listen.
const PORT: u16 = 53;
/// How often all servers are asked.
const ROUNDS: usize = 2;
/// How long one of them may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of a datagram without extensions, which we do not announce; some room for who errs.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// Asks name servers.
#[derive(Debug)]
pub(super) struct Resolver {
    servers: Vec<SocketAddr>,
}

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    /// The lowest is the first.
    pub priority: u16,
    /// Without the dot at the end.
    pub host: String,
    /// TCP.
    pub port: u16,
}

impl Resolver {
    /// That of the system.
    pub(super) fn of_system() -> Self {
        let text = read_foreign(Path::new(SYSTEM_FILE)).unwrap_or_default();
        Self { servers: servers_in(&String::from_utf8_lossy(&text)) }
    }

    /// One that asks this server.
    #[cfg(test)]
    pub(super) fn of(server: SocketAddr) -> Self {
        Self { servers: vec![server] }
    }

    /// The service records of a name, by priority, then by host.
    ///
    /// # Errors
    /// There are none, or nobody answers; as Go tells it.
    pub(super) fn services(&self, name: &str) -> Result<Vec<Service>, String> {
        let mut why = String::new();
        for server in std::iter::repeat_n(&self.servers, ROUNDS).flatten() {
            let told = |reason: &str| format!("lookup {name} on {server}: {reason}");
            match ask(*server, name) {
                Ok(Answer::Services(services)) if !services.is_empty() => return Ok(services),
                Ok(Answer::Services(_) | Answer::NoSuchName) => return Err(told("no such host")),
                Ok(Answer::Failure(code)) => why = told(&format!("server misbehaving ({code:?})")),
                Err(error) => why = told(&error.to_string()),
            }
        }
        Err(why)
    }
}

/// The servers that a `resolv.conf` names; that of this host if it names none.
fn servers_in(text: &str) -> Vec<SocketAddr> {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let addresses = words.filter_map(|words| match words[..] {
        ["nameserver", address, ..] => address.parse::<IpAddr>().ok(),
        _ => None,
    });
    let mut servers: Vec<_> = addresses.map(|address| SocketAddr::new(address, PORT)).collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    }
    servers
}

enum Answer {
    Services(Vec<Service>),
    NoSuchName,
    Failure(RCODE),
}

fn ask(server: SocketAddr, name: &str) -> io::Result<Answer> {
    // Whoever cannot see the question cannot guess the number.
    let id = random::u64() as u16;
    let mut query = Packet::new_query(id);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(io::Error::other)?;
    query.questions.push(Question::new(name, TYPE::SRV.into(), CLASS::IN.into(), false));
    let query = query.build_bytes_vec().map_err(io::Error::other)?;
    let bytes = over_udp(server, id, &query)?;
    let mut message = Packet::parse(&bytes).map_err(io::Error::other)?;
    let long;
    if message.has_flags(PacketFlag::TRUNCATION) {
        long = over_tcp(server, &query)?;
        message = Packet::parse(&long).map_err(io::Error::other)?;
        if message.id() != id {
            return Err(io::Error::other("an answer to another question"));
        }
    }
    match message.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Ok(Answer::NoSuchName),
        code => return Ok(Answer::Failure(code)),
    }
    let services = message.answers.iter().filter_map(|record| match &record.rdata {
        RData::SRV(service) => Some(Service {
            priority: service.priority,
            host: service.target.to_string().trim_end_matches('.').to_owned(),
            port: service.port,
        }),
        _ => None,
    });
    let mut services: Vec<Service> = services.collect();
    services.sort();
    Ok(Answer::Services(services))
}

/// Sends a question and waits for an answer of this number.
fn over_udp(server: SocketAddr, id: u16, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    // From now on only what comes from there is received.
    socket.connect(server)?;
    socket.send(query)?;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"));
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if buffer[..length].starts_with(&id.to_be_bytes()) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

/// The same question where answers may be long: two bytes of length before each message.
fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(query)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::TcpListener;

    use simple_dns::ResourceRecord;
    use simple_dns::rdata::SRV;

    use super::*;

    /// Priority, host and port of each service of a name.
    pub(in super::super) type Zone<'a> = &'a [(&'a str, &'a [(u16, &'a str, u16)])];

    /// How a server answers.
    #[derive(Clone, Copy, PartialEq)]
    pub(in super::super) enum Manner {
        Plain,
        /// Only over TCP does it say everything.
        Short,
        /// It lets the first question go, and answers another before each.
        Confused,
        Broken,
    }

    /// A name server on loopback that knows these services by name; it lives as long as the test.
    pub(in super::super) fn serve(manner: Manner, known: Zone<'static>) -> SocketAddr {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let mut asked = 0;
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                asked += 1;
                let answer = answer(&buffer[..length], known, manner, true);
                if manner == Manner::Confused {
                    let mut other = answer.clone();
                    other[0] ^= 1;
                    udp.send_to(&other, from).unwrap();
                    if asked == 1 {
                        continue;
                    }
                }
                udp.send_to(&answer, from).unwrap();
            }
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query).unwrap();
                let answer = answer(&query, known, manner, false);
                stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&answer).unwrap();
            }
        });
        address
    }

    fn answer(query: &[u8], known: Zone<'_>, manner: Manner, is_datagram: bool) -> Vec<u8> {
        let query = Packet::parse(query).unwrap();
        let mut reply = Packet::new_reply(query.id());
        let question = query.questions[0].clone();
        let name = question.qname.to_string();
        let found = known.iter().find(|(known, _)| *known == name.trim_end_matches('.'));
        match found {
            _ if manner == Manner::Broken => *reply.rcode_mut() = RCODE::ServerFailure,
            None => *reply.rcode_mut() = RCODE::NameError,
            Some(_) if manner == Manner::Short && is_datagram => {
                reply.set_flags(PacketFlag::TRUNCATION);
            }
            Some((_, services)) => {
                for (priority, host, port) in *services {
                    let target = Name::new(host).unwrap();
                    let service = SRV { priority: *priority, weight: 0, port: *port, target };
                    reply.answers.push(ResourceRecord::new(
                        question.qname.clone(),
                        CLASS::IN,
                        60,
                        RData::SRV(service),
                    ));
                }
            }
        }
        reply.questions.push(question);
        reply.build_bytes_vec().unwrap()
    }

    const KNOWN: Zone<'static> =
        &[("_x._tcp.a.test", &[(2, "b.test", 2), (1, "c.test", 1)]), ("_none._tcp.a.test", &[])];

    #[test]
    fn services_come_by_priority_over_udp_and_tcp() {
        for manner in [Manner::Plain, Manner::Short] {
            let resolver = Resolver::of(serve(manner, KNOWN));
            let services = resolver.services("_x._tcp.a.test").unwrap();
            let hosts: Vec<_> =
                services.iter().map(|service| (service.host.as_str(), service.port)).collect();
            assert_eq!(hosts, [("c.test", 1), ("b.test", 2)]);
        }
    }

    #[test]
    fn names_without_services_and_servers_that_fail_are_told_apart() {
        let address = serve(Manner::Plain, KNOWN);
        let resolver = Resolver::of(address);
        for name in ["_none._tcp.a.test", "_y._tcp.a.test"] {
            let error = resolver.services(name).unwrap_err();
            assert_eq!(error, format!("lookup {name} on {address}: no such host"));
        }
        let error = Resolver::of(serve(Manner::Broken, KNOWN)).services("_x._tcp.a.test");
        assert!(error.unwrap_err().ends_with("server misbehaving (ServerFailure)"));
        let long = "x".repeat(300);
        assert!(resolver.services(&long).is_err());
    }

    #[test]
    fn an_answer_to_another_question_is_not_taken_and_silence_asks_again() {
        let resolver = Resolver::of(serve(Manner::Confused, KNOWN));
        assert_eq!(resolver.services("_x._tcp.a.test").unwrap().len(), 2);
    }

    #[test]
    fn the_servers_of_the_system_are_read() {
        let text = "# x\nsearch a.test\nnameserver 10.0.0.1\nnameserver ::1 \nnameserver nobody\n";
        let expected = ["10.0.0.1:53", "[::1]:53"].map(|text| text.parse().unwrap());
        assert_eq!(servers_in(text), expected);
        assert_eq!(servers_in(""), ["127.0.0.1:53".parse().unwrap()]);
    }
}
