//! `etcdserverpb.Auth`: who there is and what they may do.
//!
//! Changes are proposed and judged when they are applied. Questions are linearizable reads (etcd
//! takes them through the log as well). Passwords become hashes here, and tokens are signed here:
//! neither a password nor a key reaches the log.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use varve_api::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
};
use varve_api::{ApiError, Code, Status, error, method};
use varve_store::{Auth, AuthCommand, AuthReply, Author, CommandKind, PasswordHash, Reply};

use super::kv::unexpected;
use crate::auth::NewToken;
use crate::auth::access::{self, Access};
use crate::grpc::{Guard, RequestMeta, Router};
use crate::limits;
use crate::services::Services;

/// What a user without a password hears who comes with one.
const HAS_NO_PASSWORD: &str =
    "auth: authentication failed, password was given for no password user";

/// Registers the service, and the guard of all others.
pub fn register(router: &mut Router, services: &Services) {
    router.guard(guard(services.clone()));
    let s = services.clone();
    router.unary(&method::AUTH_STATUS, move |meta, request| status(s.clone(), meta, request));
    let s = services.clone();
    router.unary(&method::AUTH_AUTHENTICATE, move |_, request| authenticate(s.clone(), request));
    register_switch(router, services);
    register_users(router, services);
    register_roles(router, services);
}

/// Judges the callers of methods whose handlers do not.
fn guard(services: Services) -> Guard {
    Rc::new(move |meta: RequestMeta, body: Bytes| {
        let services = services.clone();
        Box::pin(async move {
            let access = match access::of(meta.method()) {
                Access::Alarm => access::of_alarm(&body),
                access => access,
            };
            if !matches!(access, Access::Open | Access::Judged) && services.view.is_auth_enabled() {
                let author = services.author(&meta).await?;
                let auth = services.view.auth();
                match access {
                    Access::User => auth.require_user(author.as_ref())?,
                    _ => auth.require_root(author.as_ref())?,
                }
            }
            Ok((meta, body))
        })
    })
}

fn register_switch(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary(&method::AUTH_ENABLE, move |meta, _: AuthEnableRequest| {
        let s = s.clone();
        async move {
            let header = change(&s, &meta, AuthCommand::Enable).await?;
            Ok(AuthEnableResponse { header })
        }
    });
    let s = services.clone();
    router.unary(&method::AUTH_DISABLE, move |meta, _: AuthDisableRequest| {
        let s = s.clone();
        async move {
            let header = change(&s, &meta, AuthCommand::Disable).await?;
            Ok(AuthDisableResponse { header })
        }
    });
}

fn register_users(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary(&method::AUTH_USER_ADD, move |meta, request| user_add(s.clone(), meta, request));
    let s = services.clone();
    router.unary(&method::AUTH_USER_GET, move |meta, request| user_get(s.clone(), meta, request));
    let s = services.clone();
    router.unary(&method::AUTH_USER_LIST, move |meta, request| user_list(s.clone(), meta, request));
    let s = services.clone();
    router.unary(&method::AUTH_USER_DELETE, move |meta, request: AuthUserDeleteRequest| {
        let s = s.clone();
        async move {
            let command = AuthCommand::UserDelete { user: request.name };
            Ok(AuthUserDeleteResponse { header: change(&s, &meta, command).await? })
        }
    });
    let s = services.clone();
    router.unary(&method::AUTH_USER_CHANGE_PASSWORD, move |meta, request| {
        user_change_password(s.clone(), meta, request)
    });
    let s = services.clone();
    router.unary(&method::AUTH_USER_GRANT_ROLE, move |meta, request: AuthUserGrantRoleRequest| {
        let s = s.clone();
        async move {
            let AuthUserGrantRoleRequest { user, role } = request;
            let command = AuthCommand::UserGrantRole { user, role };
            Ok(AuthUserGrantRoleResponse { header: change(&s, &meta, command).await? })
        }
    });
    let s = services.clone();
    router.unary(
        &method::AUTH_USER_REVOKE_ROLE,
        move |meta, request: AuthUserRevokeRoleRequest| {
            let s = s.clone();
            async move {
                let command =
                    AuthCommand::UserRevokeRole { user: request.name, role: request.role };
                Ok(AuthUserRevokeRoleResponse { header: change(&s, &meta, command).await? })
            }
        },
    );
}

fn register_roles(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary(&method::AUTH_ROLE_ADD, move |meta, request: AuthRoleAddRequest| {
        let s = s.clone();
        async move {
            let command = AuthCommand::RoleAdd { role: request.name };
            Ok(AuthRoleAddResponse { header: change(&s, &meta, command).await? })
        }
    });
    let s = services.clone();
    router.unary(&method::AUTH_ROLE_GET, move |meta, request| role_get(s.clone(), meta, request));
    let s = services.clone();
    router.unary(&method::AUTH_ROLE_LIST, move |meta, request| role_list(s.clone(), meta, request));
    let s = services.clone();
    router.unary(&method::AUTH_ROLE_DELETE, move |meta, request: AuthRoleDeleteRequest| {
        let s = s.clone();
        async move {
            let command = AuthCommand::RoleDelete { role: request.role };
            Ok(AuthRoleDeleteResponse { header: change(&s, &meta, command).await? })
        }
    });
    let s = services.clone();
    let grant = move |meta, request: AuthRoleGrantPermissionRequest| {
        let s = s.clone();
        async move {
            let command = AuthCommand::RoleGrantPermission(request);
            Ok(AuthRoleGrantPermissionResponse { header: change(&s, &meta, command).await? })
        }
    };
    router.unary(&method::AUTH_ROLE_GRANT_PERMISSION, grant);
    let s = services.clone();
    let revoke = move |meta, request: AuthRoleRevokePermissionRequest| {
        let s = s.clone();
        async move {
            let command = AuthCommand::RoleRevokePermission(request);
            Ok(AuthRoleRevokePermissionResponse { header: change(&s, &meta, command).await? })
        }
    };
    router.unary(&method::AUTH_ROLE_REVOKE_PERMISSION, revoke);
}

/// Gets a change agreed and applied; the header of its response.
async fn change(
    services: &Services,
    meta: &RequestMeta,
    command: AuthCommand,
) -> Result<Option<ResponseHeader>, Status> {
    match services.propose_for(meta, CommandKind::Auth, command.encode()).await? {
        Reply::Auth(mut reply) => {
            services.complete(&mut reply.header);
            Ok(reply.header)
        }
        other => Err(unexpected(&other)),
    }
}

/// A linearizable question that `may` permits.
async fn ask<T>(
    services: &Services,
    meta: &RequestMeta,
    may: impl FnOnce(&Auth, Option<&Author>) -> Result<(), ApiError>,
    answer: impl FnOnce(&Auth) -> Result<T, ApiError>,
) -> Result<(Option<ResponseHeader>, T), Status> {
    services.read_barrier().await?;
    let author = services.author(meta).await?;
    let auth = services.view.auth();
    may(&auth, author.as_ref())?;
    let header = services.cluster.header(services.view.revision());
    Ok((Some(header), answer(&auth)?))
}

async fn status(
    services: Services,
    meta: RequestMeta,
    _: AuthStatusRequest,
) -> Result<AuthStatusResponse, Status> {
    let answer = |auth: &Auth| Ok((auth.is_enabled(), auth.revision()));
    let (header, (enabled, auth_revision)) = ask(&services, &meta, |_, _| Ok(()), answer).await?;
    Ok(AuthStatusResponse { header, enabled, auth_revision })
}

/// The password is compared before the entry that makes the token, and again if users have changed
/// until then: it may have been another one.
async fn authenticate(
    services: Services,
    request: AuthenticateRequest,
) -> Result<AuthenticateResponse, Status> {
    services.read_barrier().await?;
    for _ in 0..limits::AUTHENTICATE_ATTEMPTS_MAX {
        let auth_revision = compare_password(&services, &request).await?;
        let new_token = services.auth.new_token()?;
        let token_prefix = match &new_token {
            NewToken::Simple(prefix) => prefix.clone(),
            NewToken::Signed => String::new(),
        };
        let command = AuthCommand::Authenticate { user: request.name.clone(), token_prefix };
        let reply = services.propose(CommandKind::Auth, command.encode()).await?;
        let Reply::Auth(AuthReply { mut header, auth_revision: now, token }) = reply else {
            return Err(unexpected(&reply));
        };
        if now == auth_revision {
            services.complete(&mut header);
            let token = match new_token {
                NewToken::Simple(_) => token,
                NewToken::Signed => services.auth.sign(&request.name, now)?,
            };
            return Ok(AuthenticateResponse { header, token });
        }
        tracing::info!("revision when password checked became stale; retrying");
    }
    Err(error::TOO_MANY_REQUESTS.into())
}

/// The auth revision at which the password was right.
async fn compare_password(
    services: &Services,
    request: &AuthenticateRequest,
) -> Result<u64, Status> {
    let auth = services.view.auth();
    if !auth.is_enabled() {
        return Err(error::AUTH_NOT_ENABLED.into());
    }
    let refused = |status: Status| {
        let (user, error) = (&request.name, &status.message);
        tracing::warn!(%user, %error, "invalid authentication was requested");
        status
    };
    let hash = match auth.password_of(&request.name) {
        None => return Err(refused(error::AUTH_FAILED.into())),
        Some(PasswordHash::MayHaveNone) => {
            return Err(refused(Status::new(Code::Unknown, HAS_NO_PASSWORD)));
        }
        Some(PasswordHash::Bcrypt(hash)) => hash,
    };
    match services.auth.passwords.is_right(request.password.clone(), hash).await? {
        true => Ok(auth.revision()),
        false => Err(refused(error::AUTH_FAILED.into())),
    }
}

async fn user_add(
    services: Services,
    meta: RequestMeta,
    request: AuthUserAddRequest,
) -> Result<AuthUserAddResponse, Status> {
    let has_no_password = request.options.is_some_and(|options| options.no_password);
    let password_hash = match has_no_password {
        true => Bytes::new(),
        false => services.auth.passwords.hash(request.password).await?,
    };
    let command = AuthCommand::UserAdd { user: request.name, password_hash, has_no_password };
    Ok(AuthUserAddResponse { header: change(&services, &meta, command).await? })
}

/// Without a password, a hash in base64 is taken as it is (as in etcd); none is matched by nothing.
async fn user_change_password(
    services: Services,
    meta: RequestMeta,
    request: AuthUserChangePasswordRequest,
) -> Result<AuthUserChangePasswordResponse, Status> {
    let password_hash = match request.password.is_empty() {
        true => STANDARD
            .decode(request.hashed_password)
            .map_err(|_| Status::new(Code::Unknown, HAS_NO_PASSWORD))?
            .into(),
        false => services.auth.passwords.hash(request.password).await?,
    };
    let command = AuthCommand::UserChangePassword { user: request.name, password_hash };
    Ok(AuthUserChangePasswordResponse { header: change(&services, &meta, command).await? })
}

async fn user_get(
    services: Services,
    meta: RequestMeta,
    request: AuthUserGetRequest,
) -> Result<AuthUserGetResponse, Status> {
    let may = |auth: &Auth, author: Option<&Author>| auth.may_get_user(author, &request.name);
    let answer = |auth: &Auth| Ok(auth.roles_of(&request.name)?.to_vec());
    let (header, roles) = ask(&services, &meta, may, answer).await?;
    Ok(AuthUserGetResponse { header, roles })
}

async fn user_list(
    services: Services,
    meta: RequestMeta,
    _: AuthUserListRequest,
) -> Result<AuthUserListResponse, Status> {
    let answer = |auth: &Auth| Ok(auth.users().map(str::to_owned).collect());
    let (header, users) = ask(&services, &meta, Auth::require_root, answer).await?;
    Ok(AuthUserListResponse { header, users })
}

async fn role_get(
    services: Services,
    meta: RequestMeta,
    request: AuthRoleGetRequest,
) -> Result<AuthRoleGetResponse, Status> {
    let may = |auth: &Auth, author: Option<&Author>| auth.may_get_role(author, &request.role);
    let answer = |auth: &Auth| auth.permissions_of(&request.role);
    let (header, perm) = ask(&services, &meta, may, answer).await?;
    Ok(AuthRoleGetResponse { header, perm })
}

async fn role_list(
    services: Services,
    meta: RequestMeta,
    _: AuthRoleListRequest,
) -> Result<AuthRoleListResponse, Status> {
    let answer = |auth: &Auth| Ok(auth.roles().map(str::to_owned).collect());
    let (header, roles) = ask(&services, &meta, Auth::require_root, answer).await?;
    Ok(AuthRoleListResponse { header, roles })
}
