//! Passwords: bcrypt, which is slow on purpose, on threads of its own.
//!
//! One idea: a socket thread never hashes. At etcd's cost of 10 one password takes some 50 ms; the
//! threads run at a lower priority than those that commit, and who finds their queue full gets
//! "too many requests". Nothing of a password but its hash reaches the log.

use bytes::Bytes;
use varve_api::{Code, Status};

use crate::limits;
use crate::read_pool::ReadPool;

/// Hashes and compares passwords; cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    pool: ReadPool,
    cost: u32,
}

impl Passwords {
    /// Starts the threads; `cost` is `--bcrypt-cost`, 4 to 31.
    ///
    /// # Errors
    /// If a thread cannot be created.
    pub fn start(cost: u32) -> std::io::Result<Self> {
        let threads = std::thread::available_parallelism()
            .map_or(1, std::num::NonZero::get)
            .min(limits::PASSWORD_THREADS_MAX);
        let pool = ReadPool::named("password", threads, limits::PASSWORD_QUEUE_MAX)?;
        Ok(Self { pool, cost })
    }

    /// The hash of a password, as Go's bcrypt writes it.
    ///
    /// # Errors
    /// Go's, if the password is longer than 72 bytes; "too many requests".
    pub async fn hash(&self, password: String) -> Result<Bytes, Status> {
        if password.len() > PASSWORD_BYTES_MAX {
            let text = "bcrypt: password length exceeds 72 bytes";
            return Err(Status::new(Code::Unknown, text));
        }
        let cost = self.cost;
        let hash = self.pool.run(move || bcrypt::hash_with_result(password, cost)).await?;
        let hash = hash.map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        Ok(hash.format_for_version(bcrypt::Version::TwoA).into_bytes().into())
    }

    /// Whether a password is the one that was hashed. What is no hash is matched by nothing.
    ///
    /// # Errors
    /// "too many requests".
    pub async fn is_right(&self, password: String, hash: Bytes) -> Result<bool, Status> {
        let compare = move || {
            let hash = str::from_utf8(&hash).unwrap_or_default();
            bcrypt::verify(password, hash).unwrap_or(false)
        };
        self.pool.run(compare).await
    }
}

const PASSWORD_BYTES_MAX: usize = 72;

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_password_is_known_again_and_another_is_not() {
        let passwords = Passwords::start(4).unwrap();
        let known = |password: &str, hash: &Bytes| {
            run(passwords.is_right(password.to_owned(), hash.clone())).unwrap()
        };
        let hash = run(passwords.hash("secret".to_owned())).unwrap();
        assert!(hash.starts_with(b"$2a$04$"), "{hash:?}");
        assert!(known("secret", &hash) && !known("Secret", &hash) && !known("", &hash));
        let empty = run(passwords.hash(String::new())).unwrap();
        assert!(known("", &empty) && !known("secret", &empty));
        for bad in ["", "secret", "$2a$04$"] {
            assert!(!known("secret", &Bytes::from_static(bad.as_bytes())));
        }
    }

    #[test]
    fn a_password_that_bcrypt_would_cut_is_refused() {
        let passwords = Passwords::start(4).unwrap();
        assert!(run(passwords.hash("x".repeat(72))).is_ok());
        let error = run(passwords.hash("x".repeat(73))).unwrap_err();
        assert_eq!(error.message, "bcrypt: password length exceeds 72 bytes");
    }

    #[test]
    fn hashes_of_go_are_understood() {
        let passwords = Passwords::start(4).unwrap();
        // Written by golang.org/x/crypto/bcrypt, which is what etcd's users bring along.
        let hash = "$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";
        let known = |password: &str| {
            run(passwords.is_right(password.to_owned(), Bytes::from_static(hash.as_bytes())))
        };
        assert!(known("allmine").unwrap() && !known("allyours").unwrap());
    }
}
