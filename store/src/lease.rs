//! Leases: a time-to-live and the keys attached to it. No clock here.

/// A lease's id; never 0, which means "no lease". Negative ids are legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// What an entry did to leases, for whoever owns the clock. In the order of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// The lease is there from now on.
    Granted {
        /// Its id.
        id: LeaseId,
        /// Its granted time-to-live in seconds.
        ttl_seconds: i64,
    },
    /// The lease and its keys are gone.
    Revoked {
        /// Its id.
        id: LeaseId,
    },
}

/// A lease as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Granted time-to-live in seconds.
    pub ttl_seconds: i64,
    /// The attached keys, in key order.
    pub keys: Vec<bytes::Bytes>,
}
