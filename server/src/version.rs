//! Which etcd this program stands in for. Clients decide by these numbers which features they may
//! use: kube-apiserver asks for watch progress only from a server that says 3.4.31 or later.

/// The release of etcd whose API is served.
pub const ETCD_VERSION: &str = "3.7.1";

/// The cluster version that members agree on.
pub const CLUSTER_VERSION: &str = "3.7.0";

/// The storage version that goes with it.
pub const STORAGE_VERSION: &str = "3.7.0";
