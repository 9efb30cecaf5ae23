//! Whether an author may do what a request asks for.
//!
//! One idea: every part of a request is asked about with the same key and end with which it
//! executes, both branches of a transaction and all below them, before anything executes.
//!
//! Rules beyond the obvious: the value before (`prev_kv`) is a read; a guard is a read; who attaches
//! a key to a lease, renews or revokes it must be allowed to write all of its keys.

use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use varve_api::{ApiError, error as api};

use super::{Auth, Author, ROOT, UserEntry};
use crate::lease::{LeaseId, LeaseTable};

type Permitted = Result<(), ApiError>;

impl Auth {
    /// Whether the author has the role `root`.
    ///
    /// # Errors
    /// etcd's: no author, an unknown user, another role.
    pub fn require_root(&self, author: Option<&Author>) -> Permitted {
        if !self.is_enabled {
            return Ok(());
        }
        let author = author.filter(|author| !author.user.is_empty()).ok_or(api::USER_EMPTY)?;
        let user = self.users.get(&author.user).ok_or(api::USER_NOT_FOUND)?;
        if user.is_root() { Ok(()) } else { Err(api::PERMISSION_DENIED) }
    }

    /// Whether there is an author.
    ///
    /// # Errors
    /// There is none.
    pub fn require_user(&self, author: Option<&Author>) -> Permitted {
        if self.is_enabled && author.is_none() { Err(api::USER_EMPTY) } else { Ok(()) }
    }

    /// Whether the author may read all keys from `key` to `range_end`, which are as in requests.
    ///
    /// # Errors
    /// etcd's: no author, an old auth revision, not permitted.
    pub fn may_read(&self, author: Option<&Author>, key: &[u8], range_end: &[u8]) -> Permitted {
        self.permit(author, |user| user.may_read.covers(key, range_end))
    }

    /// As [`Auth::may_read`], to change them.
    ///
    /// # Errors
    /// As there.
    pub fn may_write(&self, author: Option<&Author>, key: &[u8], range_end: &[u8]) -> Permitted {
        self.permit(author, |user| user.may_write.covers(key, range_end))
    }

    /// Whether the author may change all of these keys, which are those of a lease.
    ///
    /// # Errors
    /// As [`Auth::may_write`].
    pub fn may_write_all<'k>(
        &self,
        author: Option<&Author>,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Permitted {
        // Not asked for root: its auth revision may be old, as in etcd.
        if self.require_root(author).is_ok() {
            return Ok(());
        }
        keys.into_iter().try_for_each(|key| self.may_write(author, key, b""))
    }

    /// As [`Auth::may_write_all`], to read them.
    ///
    /// # Errors
    /// As there.
    pub fn may_read_all<'k>(
        &self,
        author: Option<&Author>,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Permitted {
        if self.require_root(author).is_ok() {
            return Ok(());
        }
        keys.into_iter().try_for_each(|key| self.may_read(author, key, b""))
    }

    /// A `Range`.
    ///
    /// # Errors
    /// As [`Auth::may_read`].
    pub fn may_range(&self, author: Option<&Author>, request: &RangeRequest) -> Permitted {
        self.may_read(author, &request.key, &request.range_end)
    }

    /// A `Txn` without puts, which is executed by a reader.
    ///
    /// # Errors
    /// As [`Auth::may_read`].
    pub fn may_read_txn(&self, author: Option<&Author>, request: &TxnRequest) -> Permitted {
        self.may_txn(author, &LeaseTable::default(), request)
    }

    /// A user asks about a user: about themselves, or as root.
    ///
    /// # Errors
    /// Those of [`Auth::require_root`].
    pub fn may_get_user(&self, author: Option<&Author>, user: &str) -> Permitted {
        let own = author.map_or("", |author| author.user.as_str());
        self.require_root(author).or_else(|error| if own == user { Ok(()) } else { Err(error) })
    }

    /// A user asks about a role: about one of their own, or as root.
    ///
    /// # Errors
    /// Those of [`Auth::require_root`].
    pub fn may_get_role(&self, author: Option<&Author>, role: &str) -> Permitted {
        let is_own = || author.is_some_and(|author| self.has_role(&author.user, role));
        self.require_root(author).or_else(|error| if is_own() { Ok(()) } else { Err(error) })
    }

    pub(crate) fn may_put(
        &self,
        author: Option<&Author>,
        leases: &LeaseTable,
        request: &PutRequest,
    ) -> Permitted {
        if !self.is_enabled {
            return Ok(());
        }
        self.may_write(author, &request.key, b"")?;
        self.may_change_lease(author, leases, LeaseId(request.lease))?;
        if request.prev_kv {
            self.may_read(author, &request.key, b"")?;
        }
        Ok(())
    }

    pub(crate) fn may_delete(
        &self,
        author: Option<&Author>,
        request: &DeleteRangeRequest,
    ) -> Permitted {
        self.may_write(author, &request.key, &request.range_end)?;
        if request.prev_kv {
            self.may_read(author, &request.key, &request.range_end)?;
        }
        Ok(())
    }

    pub(crate) fn may_change_lease(
        &self,
        author: Option<&Author>,
        leases: &LeaseTable,
        id: LeaseId,
    ) -> Permitted {
        if !self.is_enabled || !leases.contains(id) {
            return Ok(());
        }
        self.may_write_all(author, leases.keys(id))
    }

    pub(crate) fn may_txn(
        &self,
        author: Option<&Author>,
        leases: &LeaseTable,
        request: &TxnRequest,
    ) -> Permitted {
        if !self.is_enabled {
            return Ok(());
        }
        for guard in &request.compare {
            self.may_read(author, &guard.key, &guard.range_end)?;
        }
        let mut ops = request.success.iter().chain(&request.failure);
        ops.try_for_each(|op| self.may_op(author, leases, op))
    }

    fn may_op(&self, author: Option<&Author>, leases: &LeaseTable, op: &RequestOp) -> Permitted {
        match &op.request {
            Some(Request::RequestRange(range)) => self.may_range(author, range),
            Some(Request::RequestPut(put)) => self.may_put(author, leases, put),
            Some(Request::RequestDeleteRange(delete)) => self.may_delete(author, delete),
            Some(Request::RequestTxn(nested)) => self.may_txn(author, leases, nested),
            None => Ok(()),
        }
    }

    fn permit(&self, author: Option<&Author>, may: impl FnOnce(&UserEntry) -> bool) -> Permitted {
        if !self.is_enabled {
            return Ok(());
        }
        let author = author.filter(|author| author.auth_revision != 0).ok_or(api::USER_EMPTY)?;
        if author.auth_revision < self.revision {
            return Err(api::AUTH_OLD_REVISION);
        }
        let user = self.users.get(&author.user).ok_or(api::PERMISSION_DENIED)?;
        if user.is_root() || may(user) { Ok(()) } else { Err(api::PERMISSION_DENIED) }
    }
}

impl UserEntry {
    fn is_root(&self) -> bool {
        self.roles.iter().any(|role| role == ROOT)
    }
}
