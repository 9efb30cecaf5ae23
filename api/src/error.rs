//! What goes wrong, as a client sees it: gRPC's codes and etcd's exact texts.
//!
//! One idea: clients recognise an error by its text, byte for byte, so each text stands here once,
//! under etcd's name for it (`ErrGRPCEmptyKey` is [`EMPTY_KEY`]). The source is
//! `api/v3rpc/rpctypes/error.go` of etcd 3.7.
//!
//! Two rows look wrong and are right: [`TOO_MANY_REQUESTS`] and [`MEMBER_NOT_ENOUGH_STARTED`] are
//! declared in etcd with another code, but its server answers with the client's value of them, which
//! carries no code; they arrive as `Unknown`.
//!
//! What it does not do: decide when an error occurs, or write it to the wire.

use std::borrow::Cow;
use std::fmt;

/// gRPC's status codes with their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Code {
    /// No error.
    Ok = 0,
    /// The caller gave up.
    Canceled = 1,
    /// An error without a code of its own.
    Unknown = 2,
    /// The request is wrong in any state.
    InvalidArgument = 3,
    /// The time allowed is over; the request may have been done.
    DeadlineExceeded = 4,
    /// What was asked for is not there.
    NotFound = 5,
    /// What was to be made is there.
    AlreadyExists = 6,
    /// The caller is known and may not.
    PermissionDenied = 7,
    /// A quota or a limit is used up.
    ResourceExhausted = 8,
    /// The request is wrong in the present state.
    FailedPrecondition = 9,
    /// Two requests were in each other's way.
    Aborted = 10,
    /// Outside what is kept: compacted or in the future.
    OutOfRange = 11,
    /// There is no such method, or not with these options.
    Unimplemented = 12,
    /// A broken invariant.
    Internal = 13,
    /// Try again, here or elsewhere.
    Unavailable = 14,
    /// Data is lost or damaged.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

/// All codes, in the order of their numbers.
pub const CODES: [Code; 17] = [
    Code::Ok,
    Code::Canceled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

impl Code {
    /// The number in the trailer `grpc-status`.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The code with this number.
    pub fn from_number(number: u8) -> Option<Code> {
        CODES.get(usize::from(number)).copied()
    }

    /// The value of the label `grpc_code` in metrics and of `code` in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::PermissionDenied => "PermissionDenied",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Aborted => "Aborted",
            Code::OutOfRange => "OutOfRange",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
            Code::DataLoss => "DataLoss",
            Code::Unauthenticated => "Unauthenticated",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One of etcd's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What the server sends as `grpc-status`.
    pub code: Code,
    /// What the server sends as `grpc-message`; clients compare it.
    pub message: &'static str,
}

/// How a call ended, if not well: what is sent as `grpc-status` and `grpc-message`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// What is sent as `grpc-status`.
    pub code: Code,
    /// What is sent as `grpc-message`, before percent-encoding.
    pub message: Cow<'static, str>,
}

impl Status {
    /// A status with a text of its own, for what etcd answers outside its table.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Status {
        Status { code, message: message.into() }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        Status { code: error.code, message: Cow::Borrowed(error.message) }
    }
}

impl PartialEq<ApiError> for Status {
    fn eq(&self, error: &ApiError) -> bool {
        self.code == error.code && self.message == error.message
    }
}

macro_rules! errors {
    ($($constant:ident = $code:ident $message:literal;)*) => {
        $(
            #[doc = concat!("`", stringify!($code), "`: `", $message, "`")]
            pub const $constant: ApiError = ApiError { code: Code::$code, message: $message };
        )*

        /// All of etcd's errors with their names.
        pub const ERRORS: &[(&str, ApiError)] = &[$((stringify!($constant), $constant)),*];
    };
}

errors! {
    EMPTY_KEY = InvalidArgument "etcdserver: key is not provided";
    KEY_NOT_FOUND = InvalidArgument "etcdserver: key not found";
    VALUE_PROVIDED = InvalidArgument "etcdserver: value is provided";
    LEASE_PROVIDED = InvalidArgument "etcdserver: lease is provided";
    TOO_MANY_OPS = InvalidArgument "etcdserver: too many operations in txn request";
    DUPLICATE_KEY = InvalidArgument "etcdserver: duplicate key given in txn request";
    INVALID_CLIENT_API_VERSION = InvalidArgument "etcdserver: invalid client api version";
    INVALID_SORT_OPTION = InvalidArgument "etcdserver: invalid sort option";
    COMPACTED = OutOfRange "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REV = OutOfRange "etcdserver: mvcc: required revision is a future revision";
    NO_SPACE = ResourceExhausted "etcdserver: mvcc: database space exceeded";
    LEASE_NOT_FOUND = NotFound "etcdserver: requested lease not found";
    LEASE_EXIST = FailedPrecondition "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE = OutOfRange "etcdserver: too large lease TTL";
    WATCH_CANCELED = Canceled "etcdserver: watch canceled";
    MEMBER_EXIST = FailedPrecondition "etcdserver: member ID already exist";
    PEER_URL_EXIST = FailedPrecondition "etcdserver: Peer URLs already exists";
    MEMBER_NOT_ENOUGH_STARTED = Unknown "etcdserver: re-configuration failed due to not enough started members";
    MEMBER_BAD_URLS = InvalidArgument "etcdserver: given member URLs are invalid";
    MEMBER_NOT_FOUND = NotFound "etcdserver: member not found";
    MEMBER_NOT_LEARNER = FailedPrecondition "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY = FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS = FailedPrecondition "etcdserver: too many learner members in cluster";
    CLUSTER_ID_MISMATCH = FailedPrecondition "etcdserver: cluster ID mismatch";
    REQUEST_TOO_LARGE = InvalidArgument "etcdserver: request is too large";
    TOO_MANY_REQUESTS = Unknown "etcdserver: too many requests";
    ROOT_USER_NOT_EXIST = FailedPrecondition "etcdserver: root user does not exist";
    ROOT_ROLE_NOT_EXIST = FailedPrecondition "etcdserver: root user does not have root role";
    USER_ALREADY_EXIST = FailedPrecondition "etcdserver: user name already exists";
    USER_EMPTY = InvalidArgument "etcdserver: user name is empty";
    USER_NOT_FOUND = FailedPrecondition "etcdserver: user name not found";
    ROLE_ALREADY_EXIST = FailedPrecondition "etcdserver: role name already exists";
    ROLE_NOT_FOUND = FailedPrecondition "etcdserver: role name not found";
    ROLE_EMPTY = InvalidArgument "etcdserver: role name is empty";
    AUTH_FAILED = InvalidArgument "etcdserver: authentication failed, invalid user ID or password";
    PERMISSION_NOT_GIVEN = InvalidArgument "etcdserver: permission not given";
    PERMISSION_DENIED = PermissionDenied "etcdserver: permission denied";
    ROLE_NOT_GRANTED = FailedPrecondition "etcdserver: role is not granted to the user";
    PERMISSION_NOT_GRANTED = FailedPrecondition "etcdserver: permission is not granted to the role";
    AUTH_NOT_ENABLED = FailedPrecondition "etcdserver: authentication is not enabled";
    INVALID_AUTH_TOKEN = Unauthenticated "etcdserver: invalid auth token";
    INVALID_AUTH_MGMT = InvalidArgument "etcdserver: invalid auth management";
    AUTH_OLD_REVISION = InvalidArgument "etcdserver: revision of auth store is old";
    NO_LEADER = Unavailable "etcdserver: no leader";
    NOT_LEADER = FailedPrecondition "etcdserver: not leader";
    LEADER_CHANGED = Unavailable "etcdserver: leader changed";
    NOT_CAPABLE = FailedPrecondition "etcdserver: not capable";
    STOPPED = Unavailable "etcdserver: server stopped";
    TIMEOUT = Unavailable "etcdserver: request timed out";
    TIMEOUT_DUE_TO_LEADER_FAIL = Unavailable "etcdserver: request timed out, possibly due to previous leader failure";
    TIMEOUT_DUE_TO_CONNECTION_LOST = Unavailable "etcdserver: request timed out, possibly due to connection lost";
    TIMEOUT_LEADER_TRANSFER = Unknown "etcdserver: request timed out, leader transfer took too long";
    TIMEOUT_WAIT_APPLIED_INDEX = Unavailable "etcdserver: request timed out, waiting for the applied index took too long";
    UNHEALTHY = Unavailable "etcdserver: unhealthy cluster";
    CORRUPT = DataLoss "etcdserver: corrupt cluster";
    NOT_SUPPORTED_FOR_LEARNER = FailedPrecondition "etcdserver: rpc not supported for learner";
    BAD_LEADER_TRANSFEREE = FailedPrecondition "etcdserver: bad leader transferee";
    WRONG_DOWNGRADE_VERSION_FORMAT = InvalidArgument "etcdserver: wrong downgrade target version format";
    INVALID_DOWNGRADE_TARGET_VERSION = InvalidArgument "etcdserver: invalid downgrade target version";
    CLUSTER_VERSION_UNAVAILABLE = FailedPrecondition "etcdserver: cluster version not found during downgrade";
    DOWNGRADE_IN_PROCESS = FailedPrecondition "etcdserver: cluster has a downgrade job in progress";
    NO_INFLIGHT_DOWNGRADE = FailedPrecondition "etcdserver: no inflight downgrade job";
    CANCELED = Canceled "etcdserver: request canceled";
    DEADLINE_EXCEEDED = DeadlineExceeded "etcdserver: context deadline exceeded";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_grpc() {
        for (number, code) in CODES.iter().enumerate() {
            assert_eq!(usize::from(code.number()), number);
            assert_eq!(Code::from_number(code.number()), Some(*code));
        }
        assert_eq!(Code::from_number(17), None);
    }

    /// One line an error; the file was compared with etcd's table when it was written.
    #[test]
    fn codes_and_texts_are_those_of_etcd() {
        let listed: String = ERRORS
            .iter()
            .map(|(name, error)| format!("{name} {} {}\n", error.code, error.message))
            .collect();
        let expected = include_str!("../tests/errors.txt");
        for (found, wanted) in listed.lines().zip(expected.lines()) {
            assert_eq!(found, wanted);
        }
        assert_eq!(listed.lines().count(), expected.lines().count());
    }

    #[test]
    fn each_text_belongs_to_one_error_since_clients_go_by_it() {
        let mut texts: Vec<&str> = ERRORS.iter().map(|(_, error)| error.message).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), ERRORS.len());
    }

    #[test]
    fn a_status_keeps_code_and_text_of_the_error_it_is_made_of() {
        let status = Status::from(EMPTY_KEY);
        assert_eq!(status, EMPTY_KEY);
        assert_eq!(status.to_string(), "etcdserver: key is not provided");
        assert_ne!(status, Status::new(Code::Unknown, "etcdserver: key is not provided"));
    }
}
