//! What a command does to users and roles, and what is told of it.
//!
//! One idea: a command is checked as a whole and then carried out; refused, it has changed nothing.
//!
//! As etcd's, with one exception: there, a permission that is granted again with another type may be
//! kept beside the one before it if another one begins with the same key, and then can be widened
//! and not narrowed. Here it is replaced.
//!
//! What it does not do: the bytes of commands (`command.rs`); judge requests for keys (`permit.rs`).

use bytes::Bytes;
use varve_api::authpb::Permission;
use varve_api::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, ResponseHeader,
};
use varve_api::{ApiError, Code, Status, error as api};

use super::command::AuthCommand;
use super::{Auth, Author, ROOT, UserEntry, store_role, store_state, store_user};
use crate::error::Outcome;
use crate::kv;
use crate::schema::{ROLE_PREFIX, USER_PREFIX};
use crate::state::State;

/// What an entry did to users and roles, for whoever keeps tokens. No new auth revision without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthChange {
    /// Authentication is on.
    Enabled,
    /// Authentication is off, and all tokens are void.
    Disabled,
    /// This token is the user's.
    TokenAssigned {
        /// The user.
        user: String,
        /// The token.
        token: String,
    },
    /// The user is gone, or has another password: their tokens are void.
    TokensVoid {
        /// The user.
        user: String,
    },
    /// Something else was changed; for the log.
    Other {
        /// etcd's words.
        what: &'static str,
        /// The user, if it is about one.
        user: String,
        /// The role, if it is about one.
        role: String,
    },
}

/// The answer to an [`AuthCommand`].
#[derive(Clone, Debug, PartialEq)]
pub struct AuthReply {
    /// With the revision only.
    pub header: Option<ResponseHeader>,
    /// The auth revision from now on.
    pub auth_revision: u64,
    /// The token, if one was asked for by its prefix; else empty.
    pub token: String,
}

/// Applies an [`AuthCommand`]. Refused, it has changed nothing.
pub(crate) fn apply(
    state: &mut State,
    author: Option<&Author>,
    body: &[u8],
    changes: &mut Vec<AuthChange>,
) -> Outcome<AuthReply> {
    // The same bytes fail on every member: a reply, not an end.
    let command = AuthCommand::decode(body)
        .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
    // Who asks for a token has none yet.
    if !matches!(command, AuthCommand::Authenticate { .. }) {
        state.auth.require_root(author)?;
    }
    let token = match &command {
        AuthCommand::Authenticate { user, token_prefix } => {
            authenticate(state, user, token_prefix)?
        }
        _ => String::new(),
    };
    change(state, command, &token, changes)?;
    Ok(AuthReply { header: kv::header(state.revision), auth_revision: state.auth.revision, token })
}

fn change(
    state: &mut State,
    command: AuthCommand,
    token: &str,
    changes: &mut Vec<AuthChange>,
) -> Result<(), ApiError> {
    let told = match command {
        AuthCommand::Enable => enable(state)?,
        AuthCommand::Disable => disable(state),
        AuthCommand::Authenticate { user, .. } => {
            (!token.is_empty()).then(|| AuthChange::TokenAssigned { user, token: token.to_owned() })
        }
        AuthCommand::UserAdd { user, password_hash, has_no_password } => {
            add_user(state, &user, password_hash, has_no_password)?;
            other("added a user", user, String::new())
        }
        AuthCommand::UserDelete { user } => {
            delete_user(state, &user)?;
            changes.extend(other("deleted a user", user.clone(), String::new()));
            Some(AuthChange::TokensVoid { user })
        }
        AuthCommand::UserChangePassword { user, password_hash } => {
            change_password(state, &user, password_hash)?;
            changes.extend(other("changed a password of a user", user.clone(), String::new()));
            Some(AuthChange::TokensVoid { user })
        }
        AuthCommand::UserGrantRole { user, role } => match grant_role(state, &user, &role)? {
            true => other("granted a role to a user", user, role),
            false => other("ignored grant role request to a user", user, role),
        },
        AuthCommand::UserRevokeRole { user, role } => {
            revoke_role(state, &user, &role)?;
            other("revoked a role from a user", user, role)
        }
        AuthCommand::RoleAdd { role } => {
            add_role(state, &role)?;
            other("created a role", String::new(), role)
        }
        AuthCommand::RoleDelete { role } => {
            delete_role(state, &role)?;
            other("deleted a role", String::new(), role)
        }
        AuthCommand::RoleGrantPermission(request) => {
            let role = request.name.clone();
            grant_permission(state, request)?;
            other("granted/updated a permission to a user", String::new(), role)
        }
        AuthCommand::RoleRevokePermission(request) => {
            revoke_permission(state, &request)?;
            other("revoked a permission on range", String::new(), request.role)
        }
    };
    changes.extend(told);
    Ok(())
}

fn other(what: &'static str, user: String, role: String) -> Option<AuthChange> {
    Some(AuthChange::Other { what, user, role })
}

type Changed = Result<(), ApiError>;

/// Every change makes a new auth revision.
fn end_change(state: &mut State) {
    let (is_enabled, revision) = (state.auth.is_enabled, state.auth.revision);
    store_state(state, is_enabled, revision + 1);
}

fn enable(state: &mut State) -> Result<Option<AuthChange>, ApiError> {
    if state.auth.is_enabled {
        return Ok(None);
    }
    let root = state.auth.users.get(ROOT).ok_or(api::ROOT_USER_NOT_EXIST)?;
    if !root.roles.iter().any(|role| role == ROOT) {
        return Err(api::ROOT_ROLE_NOT_EXIST);
    }
    let revision = state.auth.revision;
    store_state(state, true, revision);
    Ok(Some(AuthChange::Enabled))
}

fn disable(state: &mut State) -> Option<AuthChange> {
    if !state.auth.is_enabled {
        return None;
    }
    let revision = state.auth.revision + 1;
    store_state(state, false, revision);
    Some(AuthChange::Disabled)
}

/// The token, which names the entry that made it: who is asked with it waits until that is applied.
fn authenticate(state: &State, user: &str, token_prefix: &str) -> Result<String, ApiError> {
    if !state.auth.is_enabled {
        return Err(api::AUTH_NOT_ENABLED);
    }
    if state.auth.users.get(user).is_none_or(|user| user.has_no_password) {
        return Err(api::AUTH_FAILED);
    }
    Ok(match token_prefix {
        "" => String::new(),
        prefix => format!("{prefix}.{}", state.mark().index),
    })
}

fn add_user(state: &mut State, user: &str, password_hash: Bytes, has_no_password: bool) -> Changed {
    if user.is_empty() {
        return Err(api::USER_EMPTY);
    }
    if state.auth.users.contains_key(user) {
        return Err(api::USER_ALREADY_EXIST);
    }
    let password = if has_no_password { Bytes::new() } else { password_hash };
    let entry = UserEntry { password, has_no_password, ..UserEntry::default() };
    store_user(state, user, entry);
    end_change(state);
    Ok(())
}

fn delete_user(state: &mut State, user: &str) -> Changed {
    if state.auth.is_enabled && user == ROOT {
        return Err(api::INVALID_AUTH_MGMT);
    }
    existing_user(&state.auth, user)?;
    state.delete_row(&super::named(USER_PREFIX, user));
    state.auth_mut().users.remove(user);
    end_change(state);
    Ok(())
}

fn change_password(state: &mut State, user: &str, password_hash: Bytes) -> Changed {
    let entry = existing_user(&state.auth, user)?;
    let password = if entry.has_no_password { Bytes::new() } else { password_hash };
    store_user(state, user, UserEntry { password, ..entry });
    end_change(state);
    Ok(())
}

/// Whether the user did not have the role.
fn grant_role(state: &mut State, user: &str, role: &str) -> Result<bool, ApiError> {
    let mut entry = existing_user(&state.auth, user)?;
    if role != ROOT && !state.auth.roles.contains_key(role) {
        return Err(api::ROLE_NOT_FOUND);
    }
    let Err(position) = entry.roles.binary_search_by(|own| own.as_str().cmp(role)) else {
        return Ok(false);
    };
    entry.roles.insert(position, role.to_owned());
    store_user(state, user, entry);
    end_change(state);
    Ok(true)
}

fn revoke_role(state: &mut State, user: &str, role: &str) -> Changed {
    if state.auth.is_enabled && user == ROOT && role == ROOT {
        return Err(api::INVALID_AUTH_MGMT);
    }
    let mut entry = existing_user(&state.auth, user)?;
    if !state.auth.has_role(user, role) {
        return Err(api::ROLE_NOT_GRANTED);
    }
    entry.roles.retain(|own| own != role);
    store_user(state, user, entry);
    end_change(state);
    Ok(())
}

fn add_role(state: &mut State, role: &str) -> Changed {
    if role.is_empty() {
        return Err(api::ROLE_EMPTY);
    }
    if state.auth.roles.contains_key(role) {
        return Err(api::ROLE_ALREADY_EXIST);
    }
    store_role(state, role, Vec::new());
    end_change(state);
    Ok(())
}

fn delete_role(state: &mut State, role: &str) -> Changed {
    if state.auth.is_enabled && role == ROOT {
        return Err(api::INVALID_AUTH_MGMT);
    }
    existing_role(&state.auth, role)?;
    state.delete_row(&super::named(ROLE_PREFIX, role));
    state.auth_mut().roles.remove(role);
    let users: Vec<String> = state.auth.users().map(str::to_owned).collect();
    for user in users.iter().filter(|user| state.auth.has_role(user, role)).collect::<Vec<_>>() {
        let mut entry = existing_user(&state.auth, user)?;
        entry.roles.retain(|own| own != role);
        store_user(state, user, entry);
    }
    end_change(state);
    Ok(())
}

fn grant_permission(state: &mut State, request: AuthRoleGrantPermissionRequest) -> Changed {
    let granted = request.perm.ok_or(api::PERMISSION_NOT_GIVEN)?;
    let (key, range_end) = (granted.key.as_ref(), granted.range_end.as_ref());
    let is_range = range_end.is_empty() || range_end == b"\0" || key < range_end;
    if key.is_empty() || !is_range {
        return Err(api::INVALID_AUTH_MGMT);
    }
    let mut permissions = existing_role(&state.auth, &request.name)?;
    // Copies: a slice of a log entry would keep the entry in memory.
    let granted = Permission {
        perm_type: granted.perm_type,
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::copy_from_slice(range_end),
    };
    let same = |known: &&mut Permission| is_range_of(known, &granted.key, &granted.range_end);
    match permissions.iter_mut().find(same) {
        Some(known) => known.perm_type = granted.perm_type,
        None => {
            let end = permissions.partition_point(|known| known.key <= granted.key);
            permissions.insert(end, granted);
        }
    }
    store_role(state, &request.name, permissions);
    end_change(state);
    Ok(())
}

fn revoke_permission(state: &mut State, request: &AuthRoleRevokePermissionRequest) -> Changed {
    let mut permissions = existing_role(&state.auth, &request.role)?;
    let count = permissions.len();
    permissions.retain(|known| !is_range_of(known, &request.key, &request.range_end));
    if permissions.len() == count {
        return Err(api::PERMISSION_NOT_GRANTED);
    }
    store_role(state, &request.role, permissions);
    end_change(state);
    Ok(())
}

fn is_range_of(permission: &Permission, key: &[u8], range_end: &[u8]) -> bool {
    permission.key == key && permission.range_end == range_end
}

fn existing_user(auth: &Auth, user: &str) -> Result<UserEntry, ApiError> {
    auth.users.get(user).map(|entry| UserEntry::clone(entry)).ok_or(api::USER_NOT_FOUND)
}

fn existing_role(auth: &Auth, role: &str) -> Result<Vec<Permission>, ApiError> {
    auth.roles.get(role).map(|permissions| permissions.to_vec()).ok_or(api::ROLE_NOT_FOUND)
}
