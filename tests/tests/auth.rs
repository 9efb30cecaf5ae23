//! Every call by every kind of caller, while authentication is on.
//!
//! One idea: the list of calls is that of the API, so no call can be forgotten; for each the table
//! says whom it is for, and everybody else must hear exactly etcd's error. Who may call gets past
//! the check: the answer itself is the business of other tests.
//!
//! `VARVE_BIN` names another server: with etcd 3.7 in its place the same table must hold.
//!
//! What it does not do: permissions of keys in detail; see the store's `rbac`.

use std::time::Duration;

use prost::Message;
use varve_api::authpb::{Permission, permission};
use varve_api::error::{self, ApiError};
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::watch_request::RequestUnion;
use varve_api::etcdserverpb::*;
use varve_api::method::{self, Kind, METHODS, Method};
use varve_tests::grpc_client::Client;
use varve_tests::not_yet::is_not_yet;
use varve_tests::process::{Program, Server};

const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes as they are: a request, or an answer that is only looked at for its error.
#[derive(Clone, PartialEq, Message)]
struct Anything {}

/// Whom a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// Everybody, whatever token they show.
    All,
    /// Everybody, but a token must be valid.
    AllWithoutBadToken,
    /// Any user.
    Users,
    /// Users with a permission for the key, and root.
    Permitted,
    /// Root only.
    Root,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Nobody,
    Nonsense,
    /// A token that was valid until its user got another password.
    Void,
    WrongRole,
    RightRole,
    Root,
}

const CALLERS: [Caller; 6] = [
    Caller::Nobody,
    Caller::Nonsense,
    Caller::Void,
    Caller::WrongRole,
    Caller::RightRole,
    Caller::Root,
];

fn expected(whom: For, caller: Caller) -> Option<ApiError> {
    match (whom, caller) {
        (For::All, _) | (_, Caller::Root) => None,
        (_, Caller::Nonsense | Caller::Void) => Some(error::INVALID_AUTH_TOKEN),
        (For::AllWithoutBadToken, _) => None,
        (_, Caller::Nobody) => Some(error::USER_EMPTY),
        (For::Users, _) | (For::Permitted, Caller::RightRole) => None,
        (For::Permitted | For::Root, _) => Some(error::PERMISSION_DENIED),
    }
}

fn whom(method: &Method) -> For {
    match (method.service, method.name) {
        ("grpc.health.v1.Health", _) | (_, "Authenticate") => For::All,
        (_, "AuthStatus") => For::AllWithoutBadToken,
        (
            _,
            "LeaseGrant" | "LeaseKeepAlive" | "LeaseTimeToLive" | "LeaseLeases" | "LeaseRevoke",
        ) => For::Users,
        (_, "MemberList" | "Status" | "Alarm") => For::Users,
        (_, "Compact") => For::Root,
        ("etcdserverpb.KV" | "etcdserverpb.Watch", _) | (_, "UserGet" | "RoleGet") => {
            For::Permitted
        }
        _ => For::Root,
    }
}

/// A request that does no harm when root makes it.
fn request(method: &Method, peer_urls: &[String]) -> Vec<u8> {
    let (key, name) = (bytes::Bytes::from_static(b"k"), "right".to_owned());
    let nobody = || "nobody".to_owned();
    match method.name {
        "Range" | "RangeStream" => RangeRequest { key, ..Default::default() }.encode_to_vec(),
        "Put" => PutRequest { key, ..Default::default() }.encode_to_vec(),
        "DeleteRange" => DeleteRangeRequest { key, ..Default::default() }.encode_to_vec(),
        "Txn" => {
            let put = Request::RequestPut(PutRequest { key, ..Default::default() });
            let success = vec![RequestOp { request: Some(put) }];
            TxnRequest { success, ..Default::default() }.encode_to_vec()
        }
        "Watch" => {
            let create = WatchCreateRequest { key, ..Default::default() };
            let request_union = Some(RequestUnion::CreateRequest(create));
            WatchRequest { request_union }.encode_to_vec()
        }
        "MemberAdd" => {
            let peer_urls = peer_urls.to_vec();
            MemberAddRequest { peer_urls, is_learner: false }.encode_to_vec()
        }
        "UserGet" => AuthUserGetRequest { name }.encode_to_vec(),
        "RoleGet" => AuthRoleGetRequest { role: name }.encode_to_vec(),
        "UserAdd" => {
            let password = "password".to_owned();
            AuthUserAddRequest { name, password, ..Default::default() }.encode_to_vec()
        }
        "RoleAdd" => AuthRoleAddRequest { name }.encode_to_vec(),
        "UserDelete" => AuthUserDeleteRequest { name: nobody() }.encode_to_vec(),
        "RoleDelete" => AuthRoleDeleteRequest { role: nobody() }.encode_to_vec(),
        "LeaseGrant" => LeaseGrantRequest { ttl: 60, id: 0 }.encode_to_vec(),
        "LeaseTimeToLive" => LeaseTimeToLiveRequest { id: 99, keys: true }.encode_to_vec(),
        "LeaseRevoke" => LeaseRevokeRequest { id: 99 }.encode_to_vec(),
        "MemberRemove" => MemberRemoveRequest { id: 1 }.encode_to_vec(),
        "MemberPromote" => MemberPromoteRequest { id: 1 }.encode_to_vec(),
        "MemberUpdate" => {
            MemberUpdateRequest { id: 1, peer_urls: peer_urls.to_vec() }.encode_to_vec()
        }
        _ => Vec::new(),
    }
}

struct Session {
    _server: Server,
    client: Client,
    tokens: Vec<(Caller, String)>,
    peer_urls: Vec<String>,
}

impl Session {
    async fn start() -> Self {
        let server = Server::start(&Program::varve(), &["--bcrypt-cost=4"]);
        let client = Client::new(&server.client_address(), CALL_TIMEOUT);
        let members: MemberListResponse = client
            .unary(&method::CLUSTER_MEMBER_LIST, MemberListRequest::default())
            .await
            .expect("root may list members");
        let peer_urls = members.members[0].peer_urls.clone();
        let mut session = Self { _server: server, client, tokens: Vec::new(), peer_urls };
        for (user, role) in [("root", "root"), ("right", "right"), ("wrong", "wrong")] {
            session.add_user(user).await;
            session.must(&method::AUTH_ROLE_ADD, AuthRoleAddRequest { name: role.into() }).await;
            let grant = AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
            session.must(&method::AUTH_USER_GRANT_ROLE, grant).await;
        }
        session.add_user("void").await;
        for (role, key) in [("right", "k"), ("wrong", "w")] {
            let perm_type = permission::Type::Readwrite as i32;
            let perm = Permission { perm_type, key: key.into(), ..Default::default() };
            let grant = AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) };
            session.must(&method::AUTH_ROLE_GRANT_PERMISSION, grant).await;
        }
        session.must(&method::AUTH_ENABLE, AuthEnableRequest {}).await;
        session.log_in().await;
        session
    }

    async fn add_user(&self, name: &str) {
        let (name, password) = (name.to_owned(), "password".to_owned());
        let add = AuthUserAddRequest { name, password, ..Default::default() };
        self.must(&method::AUTH_USER_ADD, add).await;
    }

    async fn must(&self, method: &Method, request: impl Message + 'static) {
        let _: Anything = self.client.unary(method, request).await.expect("root may do everything");
    }

    async fn token(&self, name: &str) -> String {
        let request = AuthenticateRequest { name: name.into(), password: "password".into() };
        let answer: Result<AuthenticateResponse, _> =
            self.client.unary(&method::AUTH_AUTHENTICATE, request).await;
        answer.expect("the password is right").token
    }

    async fn log_in(&mut self) {
        let void = self.token("void").await;
        self.tokens = vec![(Caller::Root, self.token("root").await)];
        let password = "another".to_owned();
        let change =
            AuthUserChangePasswordRequest { name: "void".into(), password, ..Default::default() };
        let request = self.as_caller(Caller::Root, change);
        let _: Anything = self
            .client
            .unary_with(&method::AUTH_USER_CHANGE_PASSWORD, request)
            .await
            .expect("root may change passwords");
        self.tokens.push((Caller::RightRole, self.token("right").await));
        self.tokens.push((Caller::WrongRole, self.token("wrong").await));
        self.tokens.push((Caller::Void, void));
        self.tokens.push((Caller::Nonsense, "nonsense".into()));
    }

    fn as_caller<T>(&self, caller: Caller, request: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(request);
        if let Some((_, token)) = self.tokens.iter().find(|(known, _)| *known == caller) {
            let key = if caller == Caller::RightRole { "authorization" } else { "token" };
            request.metadata_mut().insert(key, token.parse().expect("a token is visible ASCII"));
        }
        request
    }

    /// The error that a call ends with, if it does; of a watch, why it was canceled.
    async fn call(&self, caller: Caller, method: &Method) -> Option<(tonic::Code, String)> {
        let body = request(method, &self.peer_urls);
        let status = |status: tonic::Status| (status.code(), status.message().to_owned());
        if method.kind == Kind::Unary {
            let answer = self.client.unary_bytes(method, self.as_caller(caller, body)).await;
            return answer.err().map(status);
        }
        let answer = self.client.stream_bytes(method, self.as_caller(caller, body)).await;
        let first = match answer {
            Err(error) => return Some(status(error)),
            Ok(mut stream) => match stream.message().await {
                Err(error) => return Some(status(error)),
                Ok(first) => first?,
            },
        };
        let watch = (*method == method::WATCH_WATCH)
            .then(|| WatchResponse::decode(first.as_slice()).expect("the first answer of a watch"))
            .filter(|response| response.canceled)?;
        assert!(watch.created && watch.watch_id == -1, "{watch:?}");
        let (code, text) =
            watch.cancel_reason.strip_prefix("rpc error: code = ")?.split_once(" desc = ")?;
        let code = [
            tonic::Code::Unauthenticated,
            tonic::Code::InvalidArgument,
            tonic::Code::PermissionDenied,
        ]
        .into_iter()
        .find(|known| format!("{known:?}") == code);
        Some((code.unwrap_or(tonic::Code::Unknown), text.to_owned()))
    }
}

/// Whether an error says that the caller may not call.
fn is_refusal(error: &Option<(tonic::Code, String)>) -> bool {
    let refusals = [error::USER_EMPTY, error::INVALID_AUTH_TOKEN, error::PERMISSION_DENIED];
    error.as_ref().is_some_and(|(_, text)| refusals.iter().any(|known| known.message == text))
}

#[test]
fn every_call_is_for_whom_the_table_says() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut session = Session::start().await;
        let mut wrong = Vec::new();
        let mut count = 0;
        for method in METHODS {
            let acts_for_its_caller = method.service.starts_with("v3");
            if acts_for_its_caller || (is_not_yet(method) && Program::varve().is_varve()) {
                continue;
            }
            for caller in CALLERS {
                let found = session.call(caller, method).await;
                let is_right = match expected(whom(method), caller) {
                    None => !is_refusal(&found),
                    Some(error) => found.as_ref().is_some_and(|(code, text)| {
                        *code as i32 == error.code as i32 && text == error.message
                    }),
                };
                if !is_right {
                    wrong.push(format!("{} by {caller:?}: {found:?}", method.path));
                }
                count += 1;
            }
            if *method == method::AUTH_DISABLE {
                session.must(&method::AUTH_ENABLE, AuthEnableRequest {}).await;
                session.tokens.clear();
                let restore =
                    AuthenticateRequest { name: "root".into(), password: "password".into() };
                let root: AuthenticateResponse =
                    session.client.unary(&method::AUTH_AUTHENTICATE, restore).await.unwrap();
                session.tokens = vec![(Caller::Root, root.token)];
                let (name, password) = ("void".to_owned(), "password".to_owned());
                let change = AuthUserChangePasswordRequest { name, password, ..Default::default() };
                let request = session.as_caller(Caller::Root, change);
                let _: Anything = session
                    .client
                    .unary_with(&method::AUTH_USER_CHANGE_PASSWORD, request)
                    .await
                    .unwrap();
                session.log_in().await;
            }
        }
        println!("{count} calls");
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}
