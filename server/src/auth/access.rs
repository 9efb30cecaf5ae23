//! Who may call what, for methods whose handlers need not know their caller.
//!
//! One idea: a method that nobody has thought about is for root. The router asks this table before
//! it calls a handler, so a new method is closed until it is opened here.

use bytes::Bytes;
use varve_api::etcdserverpb::AlarmRequest;
use varve_api::etcdserverpb::alarm_request::AlarmAction;
use varve_api::method::{self, Method};

use crate::grpc::decode;

/// Whom a method is for while authentication is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// The handler judges, or the state machine does.
    Judged,
    /// Any user.
    User,
    /// Who has the role root.
    Root,
    /// Root, but any user may ask which alarms there are.
    Alarm,
}

/// Whom `method` is for.
pub fn of(method: &Method) -> Access {
    const OPEN: [Method; 3] = [method::HEALTH_CHECK, method::HEALTH_LIST, method::HEALTH_WATCH];
    const USER: [Method; 2] = [method::CLUSTER_MEMBER_LIST, method::MAINTENANCE_STATUS];
    // Lock and Election act on keys as their caller.
    const JUDGED: [&str; 6] = [
        "etcdserverpb.KV",
        "etcdserverpb.Watch",
        "etcdserverpb.Lease",
        "etcdserverpb.Auth",
        "v3lockpb.Lock",
        "v3electionpb.Election",
    ];
    if OPEN.contains(method) {
        Access::Open
    } else if USER.contains(method) {
        Access::User
    } else if *method == method::MAINTENANCE_ALARM {
        Access::Alarm
    } else if *method != method::KV_COMPACT && JUDGED.contains(&method.service) {
        Access::Judged
    } else {
        Access::Root
    }
}

/// Whom an `Alarm` with this body is for.
pub fn of_alarm(body: &Bytes) -> Access {
    let request = decode::<AlarmRequest>(body.clone());
    let is_question = request.is_ok_and(|request| request.action == AlarmAction::Get as i32);
    if is_question { Access::User } else { Access::Root }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use varve_api::method::METHODS;

    use super::*;

    #[test]
    fn what_nobody_has_thought_about_is_for_root() {
        let name = "New";
        for service in ["etcdserverpb.Maintenance", "etcdserverpb.Cluster", "other.Service"] {
            let method = Method { name, service, path: "/new", ..METHODS[0] };
            assert_eq!(of(&method), Access::Root, "{service}");
        }
    }

    #[test]
    fn only_questions_about_alarms_are_for_everybody() {
        let body = |action| AlarmRequest { action, ..AlarmRequest::default() }.encode_to_vec();
        for (action, access) in [(0, Access::User), (1, Access::Root), (9, Access::Root)] {
            assert_eq!(of_alarm(&body(action).into()), access);
        }
        assert_eq!(of_alarm(&Bytes::from_static(b"\xff")), Access::Root);
    }
}
