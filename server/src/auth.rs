//! Who asks: passwords, tokens, certificates. What they may do is the state machine's word.
//!
//! One idea: from metadata to an [`Author`], the user with the auth revision under which this was
//! found. A command carries it through the log and is judged where it executes; a read is judged
//! around itself (`View::judged`). While authentication is off nobody is asked, and that costs one
//! look.
//!
//! Order: the state machine publishes a new auth revision before tokens are voided that it makes void.
//! So a simple token does not go with the newest revision but with the one up to which voided tokens
//! are known (`token`): accepted a moment too long, it goes with an old one, and is refused.

pub mod access;
mod jwt;
mod password;
mod pem;
mod token;

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use varve_api::{Status, error};
use varve_disk::Disk;
use varve_store::{AuthChange, Author, ROOT, View};

use self::jwt::Jwt;
pub use self::password::Passwords;
use self::token::{SimpleTokens, Tokens};
use crate::cluster::Cluster;
use crate::grpc::RequestMeta;
use crate::limits;

/// `--auth-token` as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenOptions {
    /// `simple`.
    Simple,
    /// `jwt,...`.
    Jwt {
        /// `sign-method`.
        method: String,
        /// `priv-key`.
        private_key: Option<PathBuf>,
        /// `pub-key`.
        public_key: Option<PathBuf>,
        /// `ttl`.
        time_to_live: Duration,
    },
    /// Nothing: nobody gets a token.
    None,
}

/// What flags decide about authentication.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// `--auth-token`.
    pub token: TokenOptions,
    /// `--auth-token-ttl`.
    pub token_time_to_live: Duration,
    /// `--bcrypt-cost`.
    pub bcrypt_cost: u32,
    /// `--client-cert-auth`: the common name of a client's certificate is its user.
    pub client_cert_auth: bool,
}

/// Tokens and passwords; shared by all threads.
pub struct Authenticator {
    tokens: Tokens,
    /// Threads that hash.
    pub passwords: Passwords,
    client_cert_auth: bool,
}

/// A token for who has shown the right password.
pub enum NewToken {
    /// To be made by the entry that says so: what it begins with.
    Simple(String),
    /// To be signed when the entry is applied.
    Signed,
}

/// Claims of etcd's tokens live so long if nothing is said.
pub const JWT_TIME_TO_LIVE_DEFAULT: Duration = Duration::from_secs(300);

impl Authenticator {
    /// Reads keys and starts the threads.
    ///
    /// # Errors
    /// A key cannot be read or used, in words; a thread cannot be created.
    pub fn start(options: &AuthOptions, disk: &dyn Disk) -> std::io::Result<Self> {
        let tokens = match &options.token {
            TokenOptions::Simple => {
                tracing::warn!("simple token is not cryptographically signed");
                Tokens::Simple(SimpleTokens::new(options.token_time_to_live))
            }
            TokenOptions::None => Tokens::None,
            TokenOptions::Jwt { method, private_key, public_key, time_to_live } => {
                let read = |path: &Option<PathBuf>| {
                    path.as_ref().map(|path| read_key(disk, path)).transpose()
                };
                let (private_key, public_key) = (read(private_key)?, read(public_key)?);
                let (private, public) = (private_key.as_deref(), public_key.as_deref());
                let jwt = Jwt::new(method, private, public, *time_to_live);
                Tokens::Signed(Box::new(jwt.map_err(std::io::Error::other)?))
            }
        };
        let passwords = Passwords::start(options.bcrypt_cost)?;
        Ok(Self { tokens, passwords, client_cert_auth: options.client_cert_auth })
    }

    /// Who asks; nobody while authentication is off, or if nothing says who.
    ///
    /// # Errors
    /// There is a token, and it is not valid (any more). A simple one that this member cannot know
    /// yet is waited for until `deadline`.
    pub async fn author(
        &self,
        meta: &RequestMeta,
        view: &View,
        cluster: &Cluster,
        deadline: Instant,
    ) -> Result<Option<Author>, Status> {
        if !view.is_auth_enabled() {
            return Ok(None);
        }
        let Some(token) = meta.token() else {
            let name = meta.common_name().filter(|_| self.client_cert_auth);
            let auth_revision = view.auth().revision();
            return Ok(name.map(|name| Author { user: name.to_owned(), auth_revision }));
        };
        let author = match &self.tokens {
            Tokens::None => None,
            Tokens::Signed(jwt) => jwt
                .verify(token)
                .map(|subject| Author { user: subject.user, auth_revision: subject.auth_revision }),
            Tokens::Simple(tokens) => {
                let index = SimpleTokens::index(token).ok_or(error::INVALID_AUTH_TOKEN)?;
                let applied = async {
                    while cluster.applied() < index {
                        tokio::time::sleep(limits::TOKEN_POLL).await;
                    }
                };
                timeout_at(deadline, applied).await.map_err(|_| error::INVALID_AUTH_TOKEN)?;
                tokens.author(token)
            }
        };
        if author.is_none() {
            tracing::warn!("invalid auth token");
        }
        Ok(Some(author.ok_or(error::INVALID_AUTH_TOKEN)?))
    }

    /// `--client-cert-auth`.
    pub fn takes_users_from_certificates(&self) -> bool {
        self.client_cert_auth
    }

    /// What the command says that makes a token.
    ///
    /// # Errors
    /// etcd's, if there are no tokens.
    pub fn new_token(&self) -> Result<NewToken, Status> {
        match &self.tokens {
            Tokens::Simple(_) => Ok(NewToken::Simple(SimpleTokens::prefix())),
            Tokens::Signed(_) => Ok(NewToken::Signed),
            Tokens::None => Err(error::AUTH_FAILED.into()),
        }
    }

    /// Signs a token.
    ///
    /// # Errors
    /// etcd's, if this member has no key to sign with.
    pub fn sign(&self, user: &str, auth_revision: u64) -> Result<String, Status> {
        let text = "auth: token signing attempted with verify-only key";
        match &self.tokens {
            Tokens::Signed(jwt) => jwt.sign(user, auth_revision),
            Tokens::Simple(_) | Tokens::None => None,
        }
        .ok_or_else(|| Status::new(varve_api::Code::Unknown, text))
    }

    /// An entry has changed users, and this is the auth revision since; the apply thread's call, in
    /// the order of the log.
    pub fn changed(&self, changes: Vec<AuthChange>, auth_revision: u64) {
        for change in &changes {
            match change {
                AuthChange::Enabled => tracing::info!("enabled authentication"),
                AuthChange::Disabled => tracing::info!("disabled authentication"),
                AuthChange::Other { what, user, role } => {
                    tracing::info!(user_name = %user, role_name = %role, "{what}");
                }
                AuthChange::TokenAssigned { .. } | AuthChange::TokensVoid { .. } => {}
            }
        }
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.follow(changes, auth_revision);
        }
    }

    /// The state was replaced by one of this auth revision: whose password has changed meanwhile is
    /// not known, so every simple token is void here.
    pub fn replaced(&self, auth_revision: u64) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.forget_all(auth_revision);
        }
    }
}

/// This member itself, when what it proposes needs a permission.
pub fn internal_author(view: &View) -> Option<Author> {
    view.is_auth_enabled()
        .then(|| Author { user: ROOT.to_owned(), auth_revision: view.auth().revision() })
}

fn read_key(disk: &dyn Disk, path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let named = |error| std::io::Error::other(format!("--auth-token: {}: {error}", path.display()));
    disk.map(path).map(|content| content.to_vec()).map_err(named)
}
