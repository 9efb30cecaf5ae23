//! Users, roles, and who may do what. No passwords are compared here and no tokens kept.
//!
//! One idea: a request is judged by the state in which it executes. A command carries its
//! [`Author`], the user and the *auth revision* by which the server knew them, and is judged when
//! it is applied; a read is judged by the [`Auth`] that readers share, before and after
//! ([`crate::View::judged`]). Every change of users and roles makes a new auth revision, and who
//! was authenticated under an older one is told so.
//!
//! ```text
//! user ---*--- role ---*--- permission: read, write or both; one key or a range
//! ```
//!
//! The role `root` may do everything. While authentication is off, so may anybody.
//!
//! Rows: `auth` (on or off, and the auth revision; no row is off at revision 1), `user/` name,
//! `role/` name, with etcd's `authpb` messages behind the version.
//!
//! Invariants (checked by `check`):
//! - `users` and `roles` hold exactly the rows; a user's `may` is the union of its roles' ranges;
//! - roles of a user are sorted; permissions of a role are sorted by key, and no two are of the
//!   same range.

mod change;
mod command;
mod permit;
mod ranges;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use varve_api::authpb::permission::Type;
use varve_api::authpb::{Permission, Role, User, UserAddOptions};
use varve_api::{ApiError, error as api};
use varve_lsm::{Delta, Keyspace, Snapshot};

pub(crate) use self::change::apply;
pub use self::change::{AuthChange, AuthReply};
pub use self::command::AuthCommand;
use self::ranges::Ranges;
use crate::error::{Error, Result};
use crate::schema::{self, AUTH_ROW, ROLE_PREFIX, ROW_VERSION, USER_PREFIX};
use crate::state::{self, State};

/// The user, and the role, that may do everything.
pub const ROOT: &str = "root";

/// Who asks: a user as a server has authenticated them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The user's name.
    pub user: String,
    /// The auth revision under which this was found.
    pub auth_revision: u64,
}

/// All users and roles. Readers share the last one that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    is_enabled: bool,
    revision: u64,
    users: BTreeMap<String, Arc<UserEntry>>,
    roles: BTreeMap<String, Arc<Vec<Permission>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct UserEntry {
    /// bcrypt's hash; empty if the user has none.
    password: Bytes,
    has_no_password: bool,
    roles: Vec<String>,
    may_read: Ranges,
    may_write: Ranges,
}

impl Default for Auth {
    fn default() -> Self {
        Self { is_enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

impl Auth {
    /// Whether anybody is asked who they are.
    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Grows with every change of users, roles and permissions; from 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The names of all users, in order.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// The names of all roles, in order.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The roles of a user, in order.
    ///
    /// # Errors
    /// There is no such user.
    pub fn roles_of(&self, user: &str) -> std::result::Result<&[String], ApiError> {
        Ok(&self.users.get(user).ok_or(api::USER_NOT_FOUND)?.roles)
    }

    /// The permissions of a role, by key. Those of `root` are to read and write everything.
    ///
    /// # Errors
    /// There is no such role.
    pub fn permissions_of(&self, role: &str) -> std::result::Result<Vec<Permission>, ApiError> {
        let permissions = self.roles.get(role).ok_or(api::ROLE_NOT_FOUND)?;
        if role == ROOT {
            return Ok(vec![Permission {
                perm_type: Type::Readwrite as i32,
                key: Bytes::new(),
                range_end: Bytes::from_static(b"\0"),
            }]);
        }
        Ok(permissions.to_vec())
    }

    /// The hash that a user's password must match; `None` if there is no such user, and an empty
    /// hash, which nothing matches, if they may not come with a password.
    pub fn password_of(&self, user: &str) -> Option<PasswordHash> {
        let user = self.users.get(user)?;
        Some(match user.has_no_password {
            true => PasswordHash::MayHaveNone,
            false => PasswordHash::Bcrypt(user.password.clone()),
        })
    }

    fn has_role(&self, user: &str, role: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.roles.iter().any(|own| own == role))
    }

    /// Computes anew what a user may do.
    fn entry(&self, user: UserEntry) -> Arc<UserEntry> {
        let permissions = || {
            let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
            roles.flat_map(|permissions| permissions.iter())
        };
        let union = |kinds: [Type; 2]| {
            let wanted = permissions()
                .filter(|permission| kinds.iter().any(|kind| *kind as i32 == permission.perm_type));
            Ranges::union(wanted.map(|wanted| (wanted.key.as_ref(), wanted.range_end.as_ref())))
        };
        let (may_read, may_write) =
            (union([Type::Read, Type::Readwrite]), union([Type::Write, Type::Readwrite]));
        Arc::new(UserEntry { may_read, may_write, ..user })
    }
}

/// What a user's password is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordHash {
    /// The user is known by other means only.
    MayHaveNone,
    /// A hash as bcrypt writes it; perhaps none that anything matches.
    Bcrypt(Bytes),
}

/// Reads all users and roles.
pub(crate) fn load(snapshot: &Snapshot) -> Result<Auth> {
    let mut auth = Auth::default();
    if let Some(entry) = schema::live(snapshot.get(Keyspace::Sys, AUTH_ROW, u64::MAX)?) {
        (auth.is_enabled, auth.revision) = decode_state(&entry.value)?;
    }
    state::for_each_row(snapshot, ROLE_PREFIX, |row, value| {
        let role: Role = decode(row, value)?;
        auth.roles.insert(name(row, ROLE_PREFIX)?, Arc::new(role.key_permission));
        Ok(())
    })?;
    state::for_each_row(snapshot, USER_PREFIX, |row, value| {
        let user: User = decode(row, value)?;
        let entry = auth.entry(UserEntry {
            password: user.password,
            has_no_password: user.options.is_some_and(|options| options.no_password),
            roles: user.roles,
            ..UserEntry::default()
        });
        auth.users.insert(name(row, USER_PREFIX)?, entry);
        Ok(())
    })?;
    Ok(auth)
}

/// Writes whether authentication is on, and the auth revision.
fn store_state(state: &mut State, is_enabled: bool, revision: u64) {
    let is_new = state.auth.revision == 1 && !state.auth.is_enabled;
    let mut value = vec![ROW_VERSION, u8::from(is_enabled)];
    value.extend_from_slice(&revision.to_le_bytes());
    state.put_row(AUTH_ROW, if is_new { Delta::Plus } else { Delta::Zero }, &value);
    let auth = state.auth_mut();
    (auth.is_enabled, auth.revision) = (is_enabled, revision);
}

/// Takes over what etcd has stored: roles first, then users, then the state.
pub(crate) fn restore_role(state: &mut State, role: Role) -> Result<()> {
    let name = restored_name(&role.name)?;
    store_role(state, &name, role.key_permission);
    Ok(())
}

/// See [`restore_role`].
pub(crate) fn restore_user(state: &mut State, user: User) -> Result<()> {
    let name = restored_name(&user.name)?;
    let entry = UserEntry {
        password: user.password,
        has_no_password: user.options.is_some_and(|options| options.no_password),
        roles: user.roles,
        ..UserEntry::default()
    };
    store_user(state, &name, entry);
    Ok(())
}

/// See [`restore_role`].
pub(crate) fn restore_state(state: &mut State, is_enabled: bool, revision: u64) {
    // No row is off at revision 1.
    if (is_enabled, revision) != (false, 1) {
        store_state(state, is_enabled, revision);
    }
}

fn restored_name(name: &Bytes) -> Result<String> {
    String::from_utf8(name.to_vec()).map_err(|_| Error::row(name, "a name in UTF-8", name))
}

/// The rows of users or roles as they are stored: names and messages.
pub(crate) fn for_each_message(
    snapshot: &Snapshot,
    prefix: &[u8],
    mut each: impl FnMut(&[u8], &[u8]),
) -> Result<()> {
    state::for_each_row(snapshot, prefix, |row, value| {
        let message = value.strip_prefix(&[ROW_VERSION]);
        let message = message.ok_or_else(|| Error::row(row, "version 1", value.first()))?;
        each(&row[prefix.len()..], message);
        Ok(())
    })
}

fn decode_state(value: &[u8]) -> Result<(bool, u64)> {
    schema::decode_row(AUTH_ROW, value, |cursor| {
        let is_enabled = match cursor.take_u8("whether authentication is on")? {
            0 => false,
            1 => true,
            other => return Err(cursor.malformed("0 or 1", other)),
        };
        Ok((is_enabled, cursor.take_u64("the auth revision")?))
    })
}

/// Writes a user's row and remembers them.
fn store_user(state: &mut State, user: &str, entry: UserEntry) {
    let message = User {
        name: Bytes::copy_from_slice(user.as_bytes()),
        password: entry.password.clone(),
        roles: entry.roles.clone(),
        options: Some(UserAddOptions { no_password: entry.has_no_password }),
    };
    let delta = if state.auth.users.contains_key(user) { Delta::Zero } else { Delta::Plus };
    state.put_row(&named(USER_PREFIX, user), delta, &encode(&message));
    let auth = state.auth_mut();
    let entry = auth.entry(entry);
    auth.users.insert(user.to_owned(), entry);
}

/// Writes a role's row and what follows from it for its users.
fn store_role(state: &mut State, role: &str, permissions: Vec<Permission>) {
    let message =
        Role { name: Bytes::copy_from_slice(role.as_bytes()), key_permission: permissions.clone() };
    let delta = if state.auth.roles.contains_key(role) { Delta::Zero } else { Delta::Plus };
    state.put_row(&named(ROLE_PREFIX, role), delta, &encode(&message));
    let auth = state.auth_mut();
    auth.roles.insert(role.to_owned(), Arc::new(permissions));
    let users = auth.users.iter().filter(|(_, entry)| entry.roles.iter().any(|own| own == role));
    let users: Vec<_> =
        users.map(|(user, entry)| (user.clone(), auth.entry(UserEntry::clone(entry)))).collect();
    auth.users.extend(users);
}

fn named(prefix: &[u8], name: &str) -> Vec<u8> {
    [prefix, name.as_bytes()].concat()
}

fn name(row: &Bytes, prefix: &[u8]) -> Result<String> {
    let name = row[prefix.len()..].to_vec();
    String::from_utf8(name).map_err(|_| Error::row(row, "a name in UTF-8", row.escape_ascii()))
}

fn encode(message: &impl Message) -> Vec<u8> {
    let mut value = vec![ROW_VERSION];
    message.encode(&mut value).expect("a vector has room");
    value
}

fn decode<M: Message + Default>(row: &[u8], value: &[u8]) -> Result<M> {
    let message = value
        .strip_prefix(&[ROW_VERSION])
        .ok_or_else(|| Error::row(row, "version 1", value.first()))?;
    M::decode(message).map_err(|error| Error::row(row, "a message of authpb", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_users_and_roles_have_these_bytes() {
        let user = User {
            name: Bytes::from_static(b"u"),
            password: Bytes::from_static(b"$2a$"),
            roles: vec!["r".into(), "root".into()],
            options: Some(UserAddOptions { no_password: true }),
        };
        let value = encode(&user);
        assert_eq!(value, b"\x01\x0a\x01u\x12\x04$2a$\x1a\x01r\x1a\x04root\x22\x02\x08\x01");
        assert_eq!(decode::<User>(b"r", &value).unwrap(), user);
        let role = Role {
            name: Bytes::from_static(b"r"),
            key_permission: vec![Permission {
                perm_type: Type::Write as i32,
                key: Bytes::from_static(b"k"),
                range_end: Bytes::from_static(b"\0"),
            }],
        };
        let value = encode(&role);
        assert_eq!(value, b"\x01\x0a\x01r\x12\x08\x08\x01\x12\x01k\x1a\x01\0");
        assert_eq!(decode::<Role>(b"r", &value).unwrap(), role);
        assert_eq!(
            decode::<Role>(b"r", b"\x02").unwrap_err().to_string(),
            "row r: expected version 1, found Some(2)"
        );
        assert!(decode::<Role>(b"r", b"").is_err() && decode::<Role>(b"r", b"\x01\x0a").is_err());
    }

    #[test]
    fn the_row_of_the_state_is_read_to_its_end() {
        assert_eq!(decode_state(b"\x01\x01\x07\0\0\0\0\0\0\0").unwrap(), (true, 7));
        for value in
            [&b""[..], b"\x01", b"\x01\x02\x07\0\0\0\0\0\0\0", b"\x01\x01\x07\0\0\0\0\0\0\0\0"]
        {
            assert!(decode_state(value).is_err(), "{value:?}");
        }
    }
}
