//! A client of one member that shows a token with every call, and the users that tests need.
//!
//! One idea: a token is an argument, so that no test shows one by accident.
//!
//! What it does not do: authenticate by itself.

use std::time::Duration;

use prost::Message;
use varve_api::authpb::{Permission, permission};
use varve_api::etcdserverpb::*;
use varve_api::method::{self, Method};
use varve_tests::grpc_client::Client;

/// Who may read and write the key `k`.
pub const ALICE: &str = "alice";
/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// No token.
const NOBODY: &str = "";

/// A client of one member.
pub struct Session {
    client: Client,
}

/// The password of a user.
pub fn password(user: &str) -> String {
    format!("secret of {user}")
}

/// Runs a future to its end on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

impl Session {
    /// A client of the member at `host:port`.
    pub fn new(address: &str) -> Session {
        Session { client: Client::new(address, CALL_TIMEOUT) }
    }

    async fn call<Answer: Message + Default + 'static>(
        &self,
        token: &str,
        method: &Method,
        request: impl Message + 'static,
    ) -> Result<Answer, tonic::Status> {
        let mut request = tonic::Request::new(request);
        if token != NOBODY {
            request.metadata_mut().insert("token", token.parse().expect("visible ASCII"));
        }
        self.client.unary_with(method, request).await
    }

    async fn must<Answer: Message + Default + 'static>(
        &self,
        token: &str,
        method: &Method,
        request: impl Message + 'static,
    ) -> Answer {
        self.call(token, method, request).await.unwrap_or_else(|e| panic!("{}: {e}", method.path))
    }

    /// Writes a key.
    pub async fn put(&self, token: &str, key: &str, value: &str) -> Result<(), tonic::Status> {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let request = PutRequest { key, value, ..PutRequest::default() };
        let answer: Result<PutResponse, _> = self.call(token, &method::KV_PUT, request).await;
        answer.map(drop)
    }

    /// Reads a key; empty if there is none.
    pub async fn get(&self, token: &str, key: &str) -> Result<String, tonic::Status> {
        let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
        let answer: RangeResponse = self.call(token, &method::KV_RANGE, request).await?;
        let value = answer.kvs.first().map(|found| String::from_utf8_lossy(&found.value));
        Ok(value.unwrap_or_default().into_owned())
    }

    /// A token.
    pub async fn authenticate(&self, user: &str) -> String {
        let token = self.authenticate_with(user, &password(user)).await;
        token.unwrap_or_else(|error| panic!("{user}: {error}"))
    }

    /// A token, if the password is right.
    pub async fn authenticate_with(
        &self,
        user: &str,
        password: &str,
    ) -> Result<String, tonic::Status> {
        let request = AuthenticateRequest { name: user.to_owned(), password: password.to_owned() };
        let answer: Result<AuthenticateResponse, _> =
            self.call(NOBODY, &method::AUTH_AUTHENTICATE, request).await;
        Ok(answer?.token)
    }

    /// The auth revision, from the log: this member has applied everything before.
    pub async fn auth_revision(&self) -> u64 {
        let request = AuthStatusRequest {};
        let status: AuthStatusResponse = self.must(NOBODY, &method::AUTH_STATUS, request).await;
        assert!(status.enabled);
        status.auth_revision
    }

    /// Adds root, alice (`k`) and the role `readers` (`k`, to read), and switches authentication on.
    pub async fn add_users(&self) {
        for role in ["root", "writers", "readers"] {
            let request = AuthRoleAddRequest { name: role.to_owned() };
            let _: AuthRoleAddResponse = self.must(NOBODY, &method::AUTH_ROLE_ADD, request).await;
        }
        for (role, kind) in
            [("writers", permission::Type::Readwrite), ("readers", permission::Type::Read)]
        {
            let perm =
                Permission { perm_type: kind.into(), key: "k".into(), ..Permission::default() };
            let request =
                AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) };
            let _: AuthRoleGrantPermissionResponse =
                self.must(NOBODY, &method::AUTH_ROLE_GRANT_PERMISSION, request).await;
        }
        self.add_user(NOBODY, "root", "root").await;
        self.add_user(NOBODY, ALICE, "writers").await;
        let _: AuthEnableResponse =
            self.must(NOBODY, &method::AUTH_ENABLE, AuthEnableRequest {}).await;
    }

    /// Adds a user with a role; both are one change of the auth revision each.
    pub async fn add_user(&self, token: &str, name: &str, role: &str) {
        let request = AuthUserAddRequest {
            name: name.to_owned(),
            password: password(name),
            ..AuthUserAddRequest::default()
        };
        let _: AuthUserAddResponse = self.must(token, &method::AUTH_USER_ADD, request).await;
        // A signed token is void after every change of users.
        let fresh;
        let token = match token {
            NOBODY => NOBODY,
            _ => {
                fresh = self.authenticate("root").await;
                &fresh
            }
        };
        let request = AuthUserGrantRoleRequest { user: name.to_owned(), role: role.to_owned() };
        let _: AuthUserGrantRoleResponse =
            self.must(token, &method::AUTH_USER_GRANT_ROLE, request).await;
    }

    /// Takes `k` from writers.
    pub async fn revoke_writes(&self, token: &str) {
        let request = AuthRoleRevokePermissionRequest {
            role: "writers".to_owned(),
            key: "k".into(),
            ..AuthRoleRevokePermissionRequest::default()
        };
        let _: AuthRoleRevokePermissionResponse =
            self.must(token, &method::AUTH_ROLE_REVOKE_PERMISSION, request).await;
    }
}
