//! Which etcd this program stands in for. Clients decide by these numbers which features they may
//! use: kube-apiserver asks for watch progress only from a server that says 3.4.31 or later.

use varve_store::Release;

/// The release of etcd whose API is served.
pub const ETCD_VERSION: &str = "3.7.1";

/// The release that members agree on unless they were told to go back to an older one.
pub const RELEASE: Release = Release { major: 3, minor: 7 };

/// The cluster version and the storage version while the cluster goes back to `downgrade`, or not.
pub fn cluster_release(downgrade: Option<Release>) -> Release {
    downgrade.unwrap_or(RELEASE)
}
