//! Clients and their requests: sent, served by the real handlers of a member, answered or given up;
//! and watchers, which open a stream, read it now and then, and resume elsewhere when it ends.
//!
//! Invariants: a client has one request at a time; what it was told is in the history, word for
//! word; a resumed watcher asks for what follows the last event that it has got.

use std::rc::Rc;

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use tokio::sync::mpsc;
use varve_api::etcdserverpb::watch_create_request::FilterType;
use varve_api::etcdserverpb::watch_request::RequestUnion;
use varve_api::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use varve_api::{Status, method};
use varve_server::grpc::frame::{Decoder, PREFIX_BYTES, decode};
use varve_server::grpc::{Caller, Encoded, Incoming, Outgoing, RequestMeta};
use varve_server::rpc;
use varve_server::services::Services;

use crate::check::durable::revision_of;
use crate::client::draw;
use crate::history::{Operation, Outcome, Request, Response, WatchStream, Watched};
use crate::plan::{MILLISECOND, SECOND};
use crate::world::{Event, World};

/// A request under way.
pub struct Call {
    client: usize,
    /// What came back, on its way to the client.
    answer: Option<Result<Response, Status>>,
}

/// A client that watches.
pub struct Watcher {
    /// Its streams, in the history.
    watched: usize,
    open: Option<Open>,
    /// Where the next stream begins.
    next_revision: i64,
    /// Mean pause between two readings.
    pause: u64,
}

struct Open {
    member: u64,
    boot: u64,
    outgoing: Outgoing,
    decoder: Decoder,
    requests: mpsc::Sender<Bytes>,
}

impl World<'_> {
    /// Draws the watchers of the seed.
    pub fn make_watchers(&mut self) {
        for _ in 0..2 + self.random.below(4) {
            let ends: [&[u8]; 4] = [b"", b"\0", b"k05", b"k"];
            let end = ends[self.random.below(4) as usize];
            let key = match end {
                b"k" => Bytes::from_static(b"a"),
                _ => crate::client::key(self.random.below(self.plan.keys.min(5))),
            };
            self.history.watched.push(Watched {
                key,
                range_end: if end == b"k" { "\0".into() } else { Bytes::from_static(end) },
                prev_kv: self.random.one_in(2),
                no_put: self.random.one_in(6),
                no_delete: self.random.one_in(6),
                streams: Vec::new(),
            });
            let pause = [5 * MILLISECOND, 100 * MILLISECOND, 3 * SECOND];
            self.watchers.push(Watcher {
                watched: self.history.watched.len() - 1,
                open: None,
                next_revision: 0,
                pause: pause[self.random.below(3) as usize],
            });
            let delay = self.random.below(20 * SECOND);
            self.after(delay, Event::Watch(self.watchers.len() - 1));
        }
    }

    /// A client asks for something.
    pub fn ask(&mut self, client: usize) {
        let asked = self.asked;
        if self.is_ending || asked >= self.plan.operations as u64 {
            return;
        }
        self.asked += 1;
        if self.plan.left_out.operations.contains(&asked) {
            return self.next_request(client);
        }
        let number = self.history.operations.len();
        let request = draw(&self.plan, &mut self.random, &self.known, number);
        let member = self.any_machine();
        self.send_request(client, member, request);
    }

    /// Sends a request; its number.
    pub fn send_request(&mut self, client: usize, member: u64, request: Request) -> usize {
        let number = self.history.operations.len();
        self.tell(
            || format!("client {client} asks {member}, {number}: {request:?}"),
            [8, number as u64, member],
        );
        self.history.operations.push(Operation {
            client,
            member,
            request,
            invoked: self.now,
            returned: u64::MAX,
            outcome: Outcome::Unknown,
        });
        self.calls.insert(number, Call { client, answer: None });
        let delay = 10 + self.about(self.plan.delay);
        self.after(delay, Event::Reach(number));
        let patience = SECOND + self.random.below(8 * SECOND);
        self.after(patience, Event::GiveUp(number));
        number
    }

    /// A request is at its member.
    pub fn reach(&mut self, number: usize) {
        let Operation { member, request, .. } = &self.history.operations[number];
        let up = self.nodes.get(member).and_then(|node| node.up.as_ref());
        let Some(up) = up.filter(|up| up.serves()) else { return };
        let (services, replies) = (up.services.clone(), Rc::clone(&up.replies));
        let (request, body) = (request.clone(), request.encode(number));
        let member = *member;
        up.spawn(self.runtime, async move {
            let answer = serve(services, &request, body).await;
            replies.borrow_mut().push((number, answer));
        });
        self.schedule(member);
    }

    /// Takes what handlers have answered.
    pub fn collect_answers(&mut self, id: u64) {
        let Some(up) = self.nodes.get(&id).and_then(|node| node.up.as_ref()) else { return };
        let mut answers = std::mem::take(&mut *up.replies.borrow_mut());
        let mut outcomes = std::mem::take(&mut *up.outcomes.borrow_mut());
        // Of handlers that wait for the same event tokio wakes any one first.
        answers.sort_by_key(|(number, _)| *number);
        outcomes.sort_by_key(|(number, _)| *number);
        for (number, outcome) in outcomes {
            let delay = 10 + self.about(self.plan.delay);
            self.after(delay, Event::Changed(number, Some(outcome)));
        }
        for (number, answer) in answers {
            let request = &self.history.operations[number].request;
            let answer = answer.map(|bytes| read_answer(request, bytes));
            match &answer {
                Ok(_) => self.check_learner(id, number),
                Err(status) => self.check_damage_told(id, status),
            }
            let Some(call) = self.calls.get_mut(&number) else { continue };
            call.answer = Some(answer);
            let delay = 10 + self.about(self.plan.delay);
            self.after(delay, Event::Answer(number));
        }
    }

    /// An answer is at its client.
    pub fn answer(&mut self, number: usize) {
        let Some(Call { client, answer }) = self.calls.remove(&number) else { return };
        let answer = answer.expect("it is on its way");
        self.tell(|| format!("client {client}, {number}: {answer:?}"), [9, number as u64, 0]);
        let operation = &mut self.history.operations[number];
        operation.returned = self.now;
        match answer {
            Ok(response) => {
                let revision = revision_of(&response).unwrap_or(0);
                self.known.revision = self.known.revision.max(revision);
                if let Response::Grant(granted) = &response {
                    self.known.leases.push(granted.id);
                }
                operation.outcome = Outcome::Done(response);
                self.operator.acknowledged(operation);
                self.count("answered");
            }
            Err(status) => {
                operation.outcome = Outcome::Refused(status);
                self.count("refused");
            }
        }
        self.next_request(client);
    }

    /// A client waits no longer.
    pub fn give_up(&mut self, number: usize) {
        let Some(call) = self.calls.remove(&number) else { return };
        self.tell(|| format!("client {} gives up {number}", call.client), [10, number as u64, 0]);
        self.history.operations[number].returned = self.now;
        self.count("given up");
        self.next_request(call.client);
    }

    fn next_request(&mut self, client: usize) {
        if client >= self.plan.clients {
            return;
        }
        let think = self.about(self.plan.think);
        self.after(think, Event::Ask(client));
    }

    /// A watcher reads what its stream has, or opens one.
    pub fn watch(&mut self, number: usize) {
        let pause = self.watchers[number].pause;
        let delay =
            1 + if self.is_ending { 20 * MILLISECOND } else { self.random.below(2 * pause) };
        self.after(delay, Event::Watch(number));
        let is_gone = match &self.watchers[number].open {
            None => true,
            Some(open) => {
                let up = self.nodes.get(&open.member).and_then(|node| node.up.as_ref());
                up.is_none_or(|up| up.boot != open.boot)
            }
        };
        if is_gone {
            self.watchers[number].open = None;
            return self.open_stream(number);
        }
        self.read_stream(number);
        // Sometimes it goes elsewhere, or asks how far it is.
        // So often a minute, however often it reads.
        let often = |a_minute: u64| (60 * SECOND / a_minute / pause).max(2);
        if !self.is_ending && self.random.one_in(often(6)) {
            self.close_stream(number);
        } else if self.random.one_in(often(20))
            && let Some(open) = &self.watchers[number].open
        {
            let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
            let _ = open.requests.try_send(wire(progress));
            let (runtime, member) = (self.runtime, open.member);
            if let Some(up) = self.nodes.get(&member).and_then(|node| node.up.as_ref()) {
                up.spawn(runtime, async {});
            }
            self.schedule(member);
        }
    }

    fn close_stream(&mut self, number: usize) {
        if let Some(open) = self.watchers[number].open.take() {
            open.outgoing.close();
            self.count("watch closed");
        }
    }

    fn open_stream(&mut self, number: usize) {
        let member = self.any_machine();
        let up = self.nodes.get(&member).and_then(|node| node.up.as_ref());
        let Some(up) = up.filter(|up| up.serves()) else { return };
        if rpc::learner_may(&up.services, &method::WATCH_WATCH).is_err() {
            return self.count("watch refused by a learner");
        }
        let Watcher { watched, next_revision, .. } = self.watchers[number];
        let (sender, receiver) = mpsc::channel(16);
        let outgoing = Outgoing::with_encoding(self.plan.stream_bytes, false);
        let wanted = &mut self.history.watched[watched];
        let mut filters = Vec::new();
        filters.extend(wanted.no_put.then_some(FilterType::Noput as i32));
        filters.extend(wanted.no_delete.then_some(FilterType::Nodelete as i32));
        let create = RequestUnion::CreateRequest(WatchCreateRequest {
            key: wanted.key.clone(),
            range_end: wanted.range_end.clone(),
            start_revision: next_revision,
            prev_kv: wanted.prev_kv,
            filters,
            progress_notify: true,
            ..WatchCreateRequest::default()
        });
        sender.try_send(wire(create)).expect("it is empty");
        let incoming = Incoming::local(receiver, 1 << 20);
        let (services, out) = (up.services.clone(), outgoing.clone());
        let boot = up.boot;
        up.spawn(self.runtime, async move {
            let outcome =
                rpc::watch::watch(services, meta(&method::WATCH_WATCH), incoming, out.clone());
            out.finish(outcome.await);
        });
        let start_revision = next_revision;
        wanted.streams.push(WatchStream {
            start_revision,
            responses: Vec::new(),
            is_complete: false,
        });
        let decoder = Decoder::new(1 << 24, false);
        self.watchers[number].open =
            Some(Open { member, boot, outgoing, decoder, requests: sender });
        self.tell(
            || format!("watcher {number} at {member} from {start_revision}"),
            [11, number as u64, member],
        );
        self.count("watch opened");
        self.schedule(member);
    }

    fn read_stream(&mut self, number: usize) {
        let watcher = &mut self.watchers[number];
        let Some(open) = &mut watcher.open else { return };
        let member = open.member;
        while let Some(chunk) = open.outgoing.take_chunk() {
            open.decoder.push(chunk);
        }
        let mut responses: Vec<WatchResponse> = Vec::new();
        while let Ok(Some(message)) = open.decoder.next_message() {
            responses.push(decode(message).expect("a member's response"));
        }
        let mut has_ended = open.outgoing.is_closed();
        for response in &responses {
            has_ended |= response.canceled;
            watcher.next_revision = next_revision(watcher.next_revision, response);
        }
        let stream = self.history.watched[watcher.watched].streams.last_mut();
        let count = responses.len() as u64;
        stream.expect("it is open").responses.extend(responses);
        if count > 0 {
            self.tell(|| format!("watcher {number} gets {count}"), [12, number as u64, count]);
        }
        if has_ended {
            self.close_stream(number);
        }
        self.schedule(member);
    }

    /// All is quiet: streams of members have everything. Of a machine whose removal nobody is left to
    /// tell it, they have what it knows.
    pub fn complete_streams(&mut self) {
        for watcher in &self.watchers {
            if watcher.open.as_ref().is_some_and(|open| self.roster.now().has(open.member))
                && let Some(stream) = self.history.watched[watcher.watched].streams.last_mut()
            {
                stream.is_complete = true;
            }
        }
    }
}

/// Where a watcher goes on behind a response.
fn next_revision(before: i64, response: &WatchResponse) -> i64 {
    let told = response.header.as_ref().map_or(0, |header| header.revision);
    let last = response.events.last().and_then(|event| event.kv.as_ref());
    match last {
        _ if response.compact_revision > 0 => response.compact_revision,
        Some(kv) => kv.mod_revision + 1,
        // From now on, or as was asked.
        None if response.created && before == 0 => told + 1,
        None => before,
    }
}

fn wire(request: RequestUnion) -> Bytes {
    let encoded = Encoded::message(&WatchRequest { request_union: Some(request) });
    let parts: Vec<Bytes> = encoded.into_parts().collect();
    parts.concat().into()
}

fn meta(method: &'static varve_api::method::Method) -> RequestMeta {
    let caller = Rc::new(Caller::of_unix_socket());
    RequestMeta::new(method, HeaderMap::new(), caller).expect("there are no headers")
}

fn method_of(request: &Request) -> &'static varve_api::method::Method {
    match request {
        Request::Put(_) => &method::KV_PUT,
        Request::Range(_) => &method::KV_RANGE,
        Request::Delete(_) => &method::KV_DELETE_RANGE,
        Request::Txn(_) => &method::KV_TXN,
        Request::Compact(_) => &method::KV_COMPACT,
        Request::Grant(_) => &method::LEASE_GRANT,
        Request::Revoke(_) => &method::LEASE_REVOKE,
        Request::KeepAlive(_) => &method::LEASE_KEEP_ALIVE,
    }
}

/// Calls the handler that the router would call; the answer's message.
async fn serve(services: Services, request: &Request, body: Bytes) -> Result<Bytes, Status> {
    rpc::learner_may(&services, method_of(request))?;
    let encoded = match request {
        Request::Put(_) => rpc::kv::put(services, meta(&method::KV_PUT), body).await?,
        Request::Range(_) => rpc::kv::range(services, meta(&method::KV_RANGE), body).await?,
        Request::Delete(_) => {
            rpc::kv::delete_range(services, meta(&method::KV_DELETE_RANGE), body).await?
        }
        Request::Txn(_) => rpc::kv::txn(services, meta(&method::KV_TXN), body).await?,
        Request::Compact(_) => rpc::kv::compact(services, meta(&method::KV_COMPACT), body).await?,
        Request::Grant(request) => {
            let meta = meta(&method::LEASE_GRANT);
            Encoded::message(&rpc::lease::grant(services, &meta, *request).await?)
        }
        Request::Revoke(request) => {
            let meta = meta(&method::LEASE_REVOKE);
            Encoded::message(&rpc::lease::revoke(services, meta, *request).await?)
        }
        Request::KeepAlive(lease) => {
            let seconds = rpc::lease::ask_leader(&services, *lease, true).await?.unwrap_or(0);
            return Ok(Bytes::copy_from_slice(&seconds.to_le_bytes()));
        }
    };
    let parts: Vec<Bytes> = encoded.into_parts().collect();
    Ok(Bytes::from(parts.concat()).slice(PREFIX_BYTES..))
}

fn read_answer(request: &Request, bytes: Bytes) -> Response {
    fn message<M: Message + Default>(bytes: Bytes) -> M {
        M::decode(bytes).expect("a member's answer")
    }
    match request {
        Request::Put(_) => Response::Put(message(bytes)),
        Request::Range(_) => Response::Range(message(bytes)),
        Request::Delete(_) => Response::Delete(message(bytes)),
        Request::Txn(_) => Response::Txn(message(bytes)),
        Request::Compact(_) => Response::Compact(message(bytes)),
        Request::Grant(_) => Response::Grant(message(bytes)),
        Request::Revoke(_) => Response::Revoke(message(bytes)),
        Request::KeepAlive(_) => {
            let seconds = bytes.as_ref().try_into().expect("eight bytes");
            Response::KeepAlive(i64::from_le_bytes(seconds))
        }
    }
}
