//! Changes of users and roles: the command, and what it does.
//!
//! One idea: one kind of command with the request's kind as its first byte. Passwords arrive as
//! hashes, the part of a token that is random as text: what is drawn or slow was done by the server.
//! Layout: `docs/FORMAT.md`, section 3.6.
//!
//! As etcd's, with one exception: there, a permission that is granted again with another type may be
//! kept beside the one before it if another one begins with the same key, and then can be widened
//! and not narrowed. Here it is replaced.

use bytes::Bytes;
use prost::Message;
use varve_api::authpb::Permission;
use varve_api::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, ResponseHeader,
};
use varve_api::{ApiError, Code, Status, error as api};

use super::{Auth, Author, ROOT, UserEntry, store_role, store_state, store_user};
use crate::error::{Error, Outcome, Result};
use crate::kv;
use crate::schema::{self, ROLE_PREFIX, USER_PREFIX};
use crate::state::State;
use crate::wire::{self, Cursor, Malformed};

/// Body of [`crate::CommandKind::Auth`].
#[derive(Clone, Debug, PartialEq)]
pub enum AuthCommand {
    /// From now on everybody is asked who they are.
    Enable,
    /// From now on nobody is.
    Disable,
    /// A user has shown the right password.
    Authenticate {
        /// The user.
        user: String,
        /// What the token begins with; empty if it is no simple one.
        token_prefix: String,
    },
    /// A new user.
    UserAdd {
        /// The user.
        user: String,
        /// bcrypt's hash of the password.
        password_hash: Bytes,
        /// The user is known by a certificate only.
        has_no_password: bool,
    },
    /// A user goes.
    UserDelete {
        /// The user.
        user: String,
    },
    /// A new password.
    UserChangePassword {
        /// The user.
        user: String,
        /// bcrypt's hash of it.
        password_hash: Bytes,
    },
    /// A user gets a role.
    UserGrantRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// A user loses a role.
    UserRevokeRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// A new role.
    RoleAdd {
        /// The role.
        role: String,
    },
    /// A role goes, and all have lost it.
    RoleDelete {
        /// The role.
        role: String,
    },
    /// A role gets a permission.
    RoleGrantPermission(AuthRoleGrantPermissionRequest),
    /// A role loses one.
    RoleRevokePermission(AuthRoleRevokePermissionRequest),
}

/// What an entry did to users and roles, for whoever keeps tokens.
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

const COMMAND_VERSION: u8 = 1;

impl AuthCommand {
    /// The body of the command.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![COMMAND_VERSION, self.number()];
        let mut texts = |texts: &[&str]| {
            texts.iter().for_each(|text| wire::put_bytes(&mut out, text.as_bytes()));
        };
        match self {
            Self::Enable | Self::Disable => {}
            Self::Authenticate { user, token_prefix } => texts(&[user, token_prefix]),
            Self::UserAdd { user, password_hash, has_no_password } => {
                texts(&[user]);
                wire::put_bytes(&mut out, password_hash);
                out.push(u8::from(*has_no_password));
            }
            Self::UserDelete { user } => texts(&[user]),
            Self::UserChangePassword { user, password_hash } => {
                texts(&[user]);
                wire::put_bytes(&mut out, password_hash);
            }
            Self::UserGrantRole { user, role } | Self::UserRevokeRole { user, role } => {
                texts(&[user, role]);
            }
            Self::RoleAdd { role } | Self::RoleDelete { role } => texts(&[role]),
            Self::RoleGrantPermission(request) => out.extend(request.encode_to_vec()),
            Self::RoleRevokePermission(request) => out.extend(request.encode_to_vec()),
        }
        out.into()
    }

    /// Reads what [`AuthCommand::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Command`] when the bytes are something else.
    pub fn decode(body: &[u8]) -> Result<Self> {
        decode(body).map_err(Error::in_command)
    }

    fn number(&self) -> u8 {
        match self {
            Self::Enable => 1,
            Self::Disable => 2,
            Self::Authenticate { .. } => 3,
            Self::UserAdd { .. } => 4,
            Self::UserDelete { .. } => 5,
            Self::UserChangePassword { .. } => 6,
            Self::UserGrantRole { .. } => 7,
            Self::UserRevokeRole { .. } => 8,
            Self::RoleAdd { .. } => 9,
            Self::RoleDelete { .. } => 10,
            Self::RoleGrantPermission(_) => 11,
            Self::RoleRevokePermission(_) => 12,
        }
    }
}

fn decode(body: &[u8]) -> std::result::Result<AuthCommand, Malformed> {
    let mut cursor = Cursor::new(body);
    let version = cursor.take_u8("a version")?;
    if version != COMMAND_VERSION {
        return Err(cursor.malformed("version 1", version));
    }
    let number = cursor.take_u8("a change of users or roles")?;
    let text = schema::take_text;
    let hash = |cursor: &mut Cursor<'_>| {
        Ok::<_, Malformed>(Bytes::copy_from_slice(cursor.take_bytes("a hash")?))
    };
    let command = match number {
        1 => AuthCommand::Enable,
        2 => AuthCommand::Disable,
        3 => {
            AuthCommand::Authenticate { user: text(&mut cursor)?, token_prefix: text(&mut cursor)? }
        }
        4 => AuthCommand::UserAdd {
            user: text(&mut cursor)?,
            password_hash: hash(&mut cursor)?,
            has_no_password: match cursor.take_u8("whether there is no password")? {
                0 => false,
                1 => true,
                other => return Err(cursor.malformed("0 or 1", other)),
            },
        },
        5 => AuthCommand::UserDelete { user: text(&mut cursor)? },
        6 => AuthCommand::UserChangePassword {
            user: text(&mut cursor)?,
            password_hash: hash(&mut cursor)?,
        },
        7 => AuthCommand::UserGrantRole { user: text(&mut cursor)?, role: text(&mut cursor)? },
        8 => AuthCommand::UserRevokeRole { user: text(&mut cursor)?, role: text(&mut cursor)? },
        9 => AuthCommand::RoleAdd { role: text(&mut cursor)? },
        10 => AuthCommand::RoleDelete { role: text(&mut cursor)? },
        11 => return Ok(AuthCommand::RoleGrantPermission(message(&body[2..])?)),
        12 => return Ok(AuthCommand::RoleRevokePermission(message(&body[2..])?)),
        other => return Err(cursor.malformed("a known change of users or roles", other)),
    };
    cursor.finish()?;
    Ok(command)
}

fn message<M: Message + Default>(bytes: &[u8]) -> std::result::Result<M, Malformed> {
    M::decode(bytes).map_err(|error| Malformed {
        offset: 2,
        expected: "the request",
        found: error.to_string(),
    })
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
) -> std::result::Result<(), ApiError> {
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

type Changed = std::result::Result<(), ApiError>;

/// Every change makes a new auth revision.
fn end_change(state: &mut State) {
    let (is_enabled, revision) = (state.auth.is_enabled, state.auth.revision);
    store_state(state, is_enabled, revision + 1);
}

fn enable(state: &mut State) -> std::result::Result<Option<AuthChange>, ApiError> {
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
fn authenticate(
    state: &State,
    user: &str,
    token_prefix: &str,
) -> std::result::Result<String, ApiError> {
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
fn grant_role(state: &mut State, user: &str, role: &str) -> std::result::Result<bool, ApiError> {
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

fn existing_user(auth: &Auth, user: &str) -> std::result::Result<UserEntry, ApiError> {
    auth.users.get(user).map(|entry| UserEntry::clone(entry)).ok_or(api::USER_NOT_FOUND)
}

fn existing_role(auth: &Auth, role: &str) -> std::result::Result<Vec<Permission>, ApiError> {
    auth.roles.get(role).map(|permissions| permissions.to_vec()).ok_or(api::ROLE_NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(AuthCommand, &'static [u8])> {
        let name = |text: &str| text.to_owned();
        let hash = Bytes::from_static(b"$2a");
        vec![
            (AuthCommand::Enable, b"\x01\x01"),
            (AuthCommand::Disable, b"\x01\x02"),
            (
                AuthCommand::Authenticate { user: name("u"), token_prefix: name("abc") },
                b"\x01\x03\x01u\x03abc",
            ),
            (
                AuthCommand::UserAdd {
                    user: name("u"),
                    password_hash: hash.clone(),
                    has_no_password: true,
                },
                b"\x01\x04\x01u\x03$2a\x01",
            ),
            (AuthCommand::UserDelete { user: name("u") }, b"\x01\x05\x01u"),
            (
                AuthCommand::UserChangePassword { user: name("u"), password_hash: hash },
                b"\x01\x06\x01u\x03$2a",
            ),
            (
                AuthCommand::UserGrantRole { user: name("u"), role: name("r") },
                b"\x01\x07\x01u\x01r",
            ),
            (
                AuthCommand::UserRevokeRole { user: name("u"), role: name("r") },
                b"\x01\x08\x01u\x01r",
            ),
            (AuthCommand::RoleAdd { role: name("r") }, b"\x01\x09\x01r"),
            (AuthCommand::RoleDelete { role: name("r") }, b"\x01\x0a\x01r"),
            (
                AuthCommand::RoleGrantPermission(AuthRoleGrantPermissionRequest {
                    name: name("r"),
                    perm: Some(Permission::default()),
                }),
                b"\x01\x0b\x0a\x01r\x12\x00",
            ),
            (
                AuthCommand::RoleRevokePermission(AuthRoleRevokePermissionRequest {
                    role: name("r"),
                    key: Bytes::from_static(b"k"),
                    range_end: Bytes::from_static(b"\0"),
                }),
                b"\x01\x0c\x0a\x01r\x12\x01k\x1a\x01\0",
            ),
        ]
    }

    #[test]
    fn commands_have_these_bytes() {
        for (command, bytes) in all() {
            assert_eq!(command.encode().as_ref(), bytes, "{command:?}");
            assert_eq!(AuthCommand::decode(bytes).unwrap(), command);
        }
    }

    #[test]
    fn what_is_cut_or_longer_or_unknown_is_refused() {
        for (command, bytes) in all().into_iter().take(10) {
            for length in 0..bytes.len() {
                assert!(AuthCommand::decode(&bytes[..length]).is_err(), "{command:?}, {length}");
            }
            assert!(AuthCommand::decode(&[bytes, b"\0"].concat()).is_err(), "{command:?}");
        }
        for bytes in [&b"\x02\x01"[..], b"\x01\x0d", b"\x01\x00", b"\x01\x0b\xff"] {
            assert!(AuthCommand::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
