//! Changes of users and roles, as commands: which there are, and their bytes.
//!
//! One idea: one kind of command with the request's kind as its first byte. Passwords arrive as
//! hashes, the part of a token that is random as text: what is drawn or slow was done by the server.
//! Layout: `docs/FORMAT.md`, section 3.6.
//!
//! What it does not do: say what a command changes, or who may ask for it (`change.rs`).

use bytes::Bytes;
use prost::Message;
use varve_api::etcdserverpb::{AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest};

use crate::error::{Error, Result};
use crate::schema;
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

#[cfg(test)]
mod tests {
    use varve_api::authpb::Permission;

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
