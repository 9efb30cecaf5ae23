//! Tokens: what stands for a user between requests.
//!
//! One idea: as etcd's. A *simple* token is 16 random letters, a full stop, and the index of the
//! entry that made it. Every member learns of it when it applies that entry, and keeps it for its
//! time to live, which starts again with every use; a member that has not applied the entry waits
//! until it has. A *signed* token (`jwt`) says itself who and until when.
//!
//! Invariant: who is found by a simple token comes with the auth revision up to which all is known that
//! makes tokens void; both change under one lock. A token that a newer revision has made void, and that
//! is still found, thus comes with an older one.
//!
//! Simple tokens are in memory only: a member that is restarted, or gets a snapshot, has none but
//! those in the log behind it, and its clients authenticate again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use varve_store::{AuthChange, Author};

use super::jwt::Jwt;
use crate::random;

/// How tokens are made.
pub enum Tokens {
    /// `--auth-token=simple`.
    Simple(SimpleTokens),
    /// `--auth-token=jwt,...`.
    Signed(Box<Jwt>),
    /// `--auth-token=`: there are none.
    None,
}

/// The simple tokens that this member knows.
pub struct SimpleTokens {
    time_to_live: Duration,
    state: Mutex<State>,
}

struct State {
    tokens: HashMap<String, Token>,
    /// What was void up to here is not in `tokens`.
    auth_revision: u64,
    next_sweep: Instant,
}

struct Token {
    user: String,
    end: Instant,
}

/// What a simple token begins with, in letters.
const PREFIX_LETTERS: usize = 16;
/// If `--auth-token-ttl` is 0, as in etcd.
const TIME_TO_LIVE_DEFAULT: Duration = Duration::from_secs(300);
/// How often tokens whose time is over are removed, if anybody authenticates.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

impl SimpleTokens {
    /// None yet.
    pub fn new(time_to_live: Duration) -> Self {
        let time_to_live = if time_to_live.is_zero() { TIME_TO_LIVE_DEFAULT } else { time_to_live };
        let state = State { tokens: HashMap::new(), auth_revision: 0, next_sweep: Instant::now() };
        Self { time_to_live, state: Mutex::new(state) }
    }

    /// What the next token begins with.
    pub fn prefix() -> String {
        const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        // 64 bits hold six letters to spare: the bias of the remainder is below 2^-58.
        (0..PREFIX_LETTERS).map(|_| char::from(LETTERS[(random::u64() % 52) as usize])).collect()
    }

    /// The index that must be applied before a token can be known; `None` if this is no token.
    pub fn index(token: &str) -> Option<u64> {
        let (_, index) = token.split_once('.')?;
        // Go's ParseUint takes no sign.
        index.bytes().all(|byte| byte.is_ascii_digit()).then(|| index.parse().ok())?
    }

    /// Whose a token is; its time starts again.
    pub fn author(&self, token: &str) -> Option<Author> {
        let now = Instant::now();
        let mut state = self.lock();
        let auth_revision = state.auth_revision;
        let token = state.tokens.get_mut(token).filter(|token| token.end > now)?;
        token.end = now + self.time_to_live;
        Some(Author { user: token.user.clone(), auth_revision })
    }

    /// What an entry did, which has led to this auth revision.
    pub fn follow(&self, changes: Vec<AuthChange>, auth_revision: u64) {
        let mut state = self.lock();
        for change in changes {
            match change {
                AuthChange::Disabled => state.tokens.clear(),
                AuthChange::TokenAssigned { user, token } => {
                    state.assign(user, token, self.time_to_live);
                }
                AuthChange::TokensVoid { user } => {
                    state.tokens.retain(|_, token| token.user != user);
                }
                AuthChange::Enabled | AuthChange::Other { .. } => {}
            }
        }
        state.auth_revision = auth_revision;
    }

    /// All tokens up to this auth revision are void.
    pub fn forget_all(&self, auth_revision: u64) {
        let mut state = self.lock();
        state.tokens.clear();
        state.auth_revision = auth_revision;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn assign(&mut self, user: String, token: String, time_to_live: Duration) {
        let now = Instant::now();
        if self.next_sweep <= now {
            self.tokens.retain(|_, token| token.end > now);
            self.next_sweep = now + SWEEP_INTERVAL;
        }
        self.tokens.insert(token, Token { user, end: now + time_to_live });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(user: &str, token: &str) -> AuthChange {
        AuthChange::TokenAssigned { user: user.into(), token: token.into() }
    }

    fn void(user: &str) -> AuthChange {
        AuthChange::TokensVoid { user: user.into() }
    }

    impl SimpleTokens {
        fn user(&self, token: &str) -> Option<String> {
            self.author(token).map(|author| author.user)
        }
    }

    #[test]
    fn who_is_found_comes_with_the_auth_revision_that_is_known() {
        let tokens = SimpleTokens::new(Duration::ZERO);
        let author = |token| tokens.author(token).map(|author| (author.user, author.auth_revision));
        // Users have changed before a token is made by the same entry, and after.
        tokens.follow(vec![void("bob"), assigned("bob", "a.1")], 5);
        assert_eq!(author("a.1"), Some(("bob".to_owned(), 5)));
        tokens.follow(vec![void("alice")], 6);
        assert_eq!(author("a.1"), Some(("bob".to_owned(), 6)));
        tokens.follow(vec![assigned("bob", "b.3"), void("bob")], 7);
        assert_eq!((author("a.1"), author("b.3")), (None, None));
        tokens.follow(vec![assigned("bob", "c.4")], 7);
        tokens.follow(vec![AuthChange::Disabled], 8);
        assert_eq!(author("c.4"), None);
    }

    #[test]
    fn a_token_is_its_users_until_its_time_is_over() {
        let tokens = SimpleTokens::new(Duration::from_secs(3600));
        let three = [("alice", "a.1"), ("alice", "b.2"), ("bob", "c.3")];
        tokens.follow(three.map(|(user, token)| assigned(user, token)).into(), 3);
        assert_eq!(tokens.user("a.1").as_deref(), Some("alice"));
        assert_eq!(tokens.user("a.2"), None);
        tokens.follow(vec![void("alice")], 4);
        assert_eq!((tokens.user("a.1"), tokens.user("b.2")), (None, None));
        assert_eq!(tokens.user("c.3").as_deref(), Some("bob"));
        tokens.lock().tokens.get_mut("c.3").expect("known").end = Instant::now();
        assert_eq!(tokens.user("c.3"), None);
        tokens.lock().next_sweep = Instant::now();
        tokens.follow(vec![assigned("bob", "d.4")], 4);
        assert_eq!(tokens.lock().tokens.len(), 1, "the old one is swept out");
        tokens.forget_all(9);
        assert_eq!(tokens.user("d.4"), None);
        tokens.follow(vec![assigned("bob", "e.5")], 9);
        assert_eq!(tokens.author("e.5").map(|author| author.auth_revision), Some(9));
    }

    #[test]
    fn every_use_starts_the_time_again() {
        let tokens = SimpleTokens::new(Duration::from_secs(3600));
        tokens.follow(vec![assigned("alice", "a.1")], 3);
        let soon = Instant::now() + Duration::from_secs(5);
        tokens.lock().tokens.get_mut("a.1").expect("known").end = soon;
        assert!(tokens.user("a.1").is_some());
        assert!(tokens.lock().tokens["a.1"].end > soon);
    }

    #[test]
    fn a_token_names_the_index_that_made_it() {
        assert_eq!(SimpleTokens::index("abc.17"), Some(17));
        for token in ["", "abc", "abc.", "abc.x", "abc.+1", "abc.1.2", "abc.18446744073709551616"] {
            assert_eq!(SimpleTokens::index(token), None, "{token}");
        }
        let (one, other) = (SimpleTokens::prefix(), SimpleTokens::prefix());
        assert!(one.len() == 16 && one.bytes().all(|byte| byte.is_ascii_alphabetic()));
        assert_ne!(one, other);
    }
}
