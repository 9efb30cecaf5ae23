//! The network between nodes: a list of messages, of which whoever drives the group delivers or loses
//! any.
//!
//! One idea: a snapshot's content travels with its message, as it stood when it was sent; how it went is
//! reported to the sender in any case, because nothing else goes to that follower before.

use varve_raftnode::{Message, MessageClass, Node, NodeId};

use super::Cluster;
use super::frames::describe;
use super::machine::Machine;

/// A message on its way, with the state machine's content that goes before a snapshot.
#[derive(Clone)]
pub struct Envelope {
    pub from: u64,
    pub to: u64,
    pub message: Message,
    pub content: Option<Machine>,
}

impl Cluster {
    /// Delivers the message at `position` of the queue.
    pub fn deliver(&mut self, position: usize) {
        let envelope = self.queue.remove(position);
        let (from, to) = (envelope.from, envelope.to);
        let is_snapshot = envelope.message.class == MessageClass::Snapshot;
        let mark = Node::snapshot_mark(&envelope.message.bytes);
        assert_eq!(mark, envelope.content.as_ref().map(|content| content.flushed.clone()));
        if !self.is_up(to) {
            self.trace.push(format!("{} lost, {to} is down", describe(&envelope.message.bytes)));
            self.report_snapshot(&envelope, false);
            return;
        }
        if let Some(content) = &envelope.content {
            let index = content.flushed.index.0;
            self.member(to).staged.insert(index, content.clone());
        }
        let result = self.node(to).step(NodeId(from), &envelope.message.bytes);
        if let Err(error) = result {
            self.trace.push(format!("{to} says: {error}"));
        }
        if is_snapshot {
            self.report_snapshot(&envelope, true);
        }
        self.look(to);
    }

    /// Loses the message at `position` of the queue.
    pub fn lose(&mut self, position: usize) {
        let envelope = self.queue.remove(position);
        self.report_snapshot(&envelope, false);
    }

    pub(super) fn send(&mut self, from: u64, message: Message) {
        let to = message.to.0;
        let mut envelope = Envelope { from, to, message, content: None };
        if envelope.message.class == MessageClass::Snapshot {
            self.fill_snapshot(&mut envelope);
        }
        let text = describe(&envelope.message.bytes);
        if self.cut.contains(&(from, to)) {
            self.trace.push(format!("{text} lost"));
            self.report_snapshot(&envelope, false);
            return;
        }
        self.trace.push(text);
        self.queue.push(envelope);
    }

    /// What a snapshot contains: the state of who lends it, if that will do, or the leader's own.
    fn fill_snapshot(&mut self, envelope: &mut Envelope) {
        let durable = |cluster: &Self, id: u64| {
            let mut content = cluster.members[&id].machine.clone();
            content.lose_volatile();
            content
        };
        if let Some(lender) = self.lender.filter(|lender| self.is_up(*lender)) {
            let asked = self.node(envelope.from).snapshot_of_another(&envelope.message);
            envelope.message = asked.expect("it has just become so");
            let content = durable(self, lender);
            match Node::snapshot_message(&envelope.message, &content.flushed) {
                Ok(message) => {
                    (envelope.message, envelope.content) = (message, Some(content));
                    return;
                }
                Err(error) => self.trace.push(format!("{lender} declines: {error}")),
            }
        }
        let content = durable(self, envelope.from);
        envelope.message = Node::snapshot_message(&envelope.message, &content.flushed)
            .expect("the mark does not go back");
        envelope.content = Some(content);
    }

    fn report_snapshot(&mut self, envelope: &Envelope, delivered: bool) {
        if envelope.message.class == MessageClass::Snapshot && self.is_up(envelope.from) {
            self.node(envelope.from).snapshot_sent(NodeId(envelope.to), delivered);
        }
    }
}
