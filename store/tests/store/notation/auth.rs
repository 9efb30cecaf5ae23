//! Users and roles as text.
//!
//! ```text
//! auth enable|disable|login USER [PREFIX]
//! user add USER HASH|- | user delete USER | user password USER HASH
//! user grant USER ROLE | user revoke USER ROLE
//! role add ROLE | role delete ROLE
//! role grant ROLE read|write|readwrite|odd|nothing KEYS | role revoke ROLE KEYS
//! ```

use varve_api::Status;
use varve_api::authpb::Permission;
use varve_api::authpb::permission::Type;
use varve_api::etcdserverpb::{AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest};
use varve_store::{AuthChange, AuthCommand, AuthReply, Author, View};

use super::parse::Words;
use super::print;

/// A name; `''` is empty.
fn name(words: &mut Words) -> String {
    String::from_utf8(words.text().to_vec()).expect("a name is UTF-8")
}

/// The command that begins with `verb`; `None` if that is none.
pub fn command(verb: &str, words: &mut Words) -> Option<AuthCommand> {
    Some(match (verb, words.option()?.as_str()) {
        ("auth", "enable") => AuthCommand::Enable,
        ("auth", "disable") => AuthCommand::Disable,
        ("auth", "login") => AuthCommand::Authenticate {
            user: name(words),
            token_prefix: words.option().unwrap_or_default(),
        },
        ("user", "add") => {
            let (user, hash) = (name(words), words.next());
            AuthCommand::UserAdd {
                user,
                has_no_password: hash == "-",
                password_hash: hash.into_bytes().into(),
            }
        }
        ("user", "delete") => AuthCommand::UserDelete { user: name(words) },
        ("user", "password") => {
            AuthCommand::UserChangePassword { user: name(words), password_hash: words.text() }
        }
        ("user", "grant") => AuthCommand::UserGrantRole { user: name(words), role: name(words) },
        ("user", "revoke") => AuthCommand::UserRevokeRole { user: name(words), role: name(words) },
        ("role", "add") => AuthCommand::RoleAdd { role: name(words) },
        ("role", "delete") => AuthCommand::RoleDelete { role: name(words) },
        ("role", "grant") => {
            let (name, kind) = (name(words), words.next());
            let kind = match kind.as_str() {
                "nothing" => {
                    let request = AuthRoleGrantPermissionRequest { name, perm: None };
                    return Some(AuthCommand::RoleGrantPermission(request));
                }
                "odd" => 7,
                kind => Type::from_str_name(&kind.to_uppercase()).expect("a type") as i32,
            };
            let (key, range_end) = words.keys();
            let perm = Some(Permission { perm_type: kind, key, range_end });
            AuthCommand::RoleGrantPermission(AuthRoleGrantPermissionRequest { name, perm })
        }
        ("role", "revoke") => {
            let role = name(words);
            let (key, range_end) = words.keys();
            AuthCommand::RoleRevokePermission(AuthRoleRevokePermissionRequest {
                role,
                key,
                range_end,
            })
        }
        _ => return None,
    })
}

pub fn reply(reply: &AuthReply) -> String {
    let revision = reply.header.as_ref().expect("a header").revision;
    let token = match reply.token.as_str() {
        "" => String::new(),
        token => format!(", token {token}"),
    };
    format!("auth revision {}, revision {revision}{token}", reply.auth_revision)
}

pub fn change(change: &AuthChange) -> String {
    match change {
        AuthChange::Enabled => "authentication on".into(),
        AuthChange::Disabled => "authentication off".into(),
        AuthChange::TokenAssigned { user, token } => format!("token {token} is {user}'s"),
        AuthChange::TokensVoid { user } => format!("tokens of {user} are void"),
        AuthChange::Other { what, user, role } => format!("{what}: {user:?} {role:?}"),
    }
}

pub fn permission(permission: &Permission) -> String {
    let kind = Type::try_from(permission.perm_type).map_or("odd", |kind| kind.as_str_name());
    let keys = print::text(&permission.key);
    match permission.range_end.as_ref() {
        b"" => format!("{kind} {keys}"),
        end => format!("{kind} {keys}..{}", print::text(end)),
    }
}

/// `USER` at the current auth revision, or `USER@REVISION`.
pub fn author(word: &str, current: u64) -> Author {
    let (user, revision) = match word.split_once('@') {
        Some((user, revision)) => (user, revision.parse().expect("an auth revision")),
        None => (word, current),
    };
    let user = if user == "''" { String::new() } else { user.to_owned() };
    Author { user, auth_revision: revision }
}

/// What `users`, `roles`, `auth` and `may` say; `None` for another verb.
pub fn read(
    verb: &str,
    words: &mut Words,
    author: Option<&Author>,
    view: &View,
) -> Option<Result<Vec<String>, Status>> {
    let auth = view.auth();
    Some(match verb {
        "users" => auth
            .users()
            .map(|user| {
                Ok(format!("{user}: {:?} {:?}", auth.roles_of(user)?, auth.password_of(user)))
            })
            .collect(),
        "roles" => auth
            .roles()
            .map(|role| {
                let permissions = auth.permissions_of(role)?;
                let permissions: Vec<_> = permissions.iter().map(permission).collect();
                Ok(format!("{role}: {}", permissions.join(", ")))
            })
            .collect(),
        "auth" => {
            assert_eq!(view.is_auth_enabled(), auth.is_enabled());
            Ok(vec![format!("on: {}, auth revision {}", auth.is_enabled(), auth.revision())])
        }
        "may" => {
            let (about, name) = (words.next(), words.next());
            let permitted = match about.as_str() {
                "user" => auth.may_get_user(author, &name),
                "role" => auth.may_get_role(author, &name),
                other => panic!("user or role, not {other}"),
            };
            permitted.map(|()| vec!["yes".into()]).map_err(Status::from)
        }
        _ => return None,
    })
}
