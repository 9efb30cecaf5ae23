//! The data directory: whose it is, and what lies where in it.
//!
//! ```text
//! <data-dir>/LOCK                 held while a server runs
//! <data-dir>/member/IDENTITY      who this member is; written once (docs/FORMAT.md section 6)
//! <data-dir>/member/log/          the Raft log (or --wal-dir)
//! <data-dir>/member/engine/       the state machine's tables
//! <data-dir>/member/incoming/     snapshots being received; emptied at start
//! ```
//!
//! Once written, the identity wins over the flags, as etcd's data does over `--initial-cluster`:
//! a member that restarts is who it was. Log and engine carry the same identity, so that parts of
//! different members are never mixed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use varve_disk::{DirLock, Disk};
use varve_store::Member;

use crate::error::Error;
use crate::peer::PeerAddress;
use crate::setup::Setup;

/// Version of the identity file.
const FORMAT: u32 = 1;

/// An open, locked data directory.
pub struct DataDir {
    /// Who this member is.
    pub identity: Identity,
    /// Directory of the log.
    pub log: PathBuf,
    /// Directory of the engine.
    pub engine: PathBuf,
    /// Directory for snapshots being received.
    pub incoming: PathBuf,
    _lock: Box<dyn DirLock>,
}

/// Who a member is, and with whom it founded its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of this member.
    pub member_id: u64,
    /// The founding members, this one included.
    pub members: Vec<FoundingMember>,
}

/// One founding member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingMember {
    /// Its id.
    pub id: u64,
    /// Its name in `--initial-cluster`.
    pub name: String,
    /// Its peer URLs there.
    pub peer_urls: Vec<String>,
}

impl Identity {
    /// An identity made from flags.
    pub fn new(cluster_id: u64, member_id: u64, members: Vec<FoundingMember>) -> Self {
        Self { format: FORMAT, cluster_id, member_id, members }
    }

    /// What log and engine carry: cluster id and member id.
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.cluster_id.to_le_bytes());
        bytes[8..].copy_from_slice(&self.member_id.to_le_bytes());
        bytes
    }

    /// The founders as the state machine knows them.
    pub fn founders(&self) -> Vec<Member> {
        let founder = |member: &FoundingMember| Member {
            id: member.id,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: Vec::new(),
            is_learner: false,
        };
        self.members.iter().map(founder).collect()
    }

    /// Where the other members listen.
    pub fn others(&self) -> Vec<PeerAddress> {
        let others = self.members.iter().filter(|member| member.id != self.member_id);
        others
            .map(|member| PeerAddress {
                id: member.id,
                addresses: member.peer_urls.iter().filter_map(|url| authority(url)).collect(),
            })
            .collect()
    }
}

/// "host:port" of a URL.
fn authority(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    Some(rest.split('/').next().unwrap_or(rest).to_owned())
}

impl DataDir {
    /// Locks the directory, checks whose it is, and makes what is missing.
    ///
    /// # Errors
    /// The directory is in use, holds data of etcd, or an identity that cannot be read.
    pub fn open(disk: Arc<dyn Disk>, setup: &Setup) -> Result<Self, Error> {
        let root = &setup.data_dir;
        disk.create_dir_all(root)?;
        let lock = disk.lock(root).map_err(|error| in_use(root, error))?;
        let member = root.join("member");
        refuse_etcd(disk.as_ref(), &member)?;
        disk.create_dir_all(&member)?;
        let identity = identity(disk.as_ref(), &member, setup)?;
        let log = setup.wal_dir.clone().unwrap_or_else(|| member.join("log"));
        disk.create_dir_all(&log)?;
        let incoming = member.join("incoming");
        disk.remove_dir_all(&incoming)?;
        disk.create_dir_all(&incoming)?;
        // The directories' names are durable before anything in them is counted on.
        disk.sync_dir(&member)?;
        disk.sync_dir(root)?;
        if let Some(parent) = root.parent() {
            disk.sync_dir(parent)?;
        }
        if let Some(parent) = setup.wal_dir.as_deref().and_then(Path::parent) {
            disk.sync_dir(parent)?;
        }
        Ok(Self { identity, log, engine: member.join("engine"), incoming, _lock: lock })
    }
}

fn in_use(root: &Path, error: varve_disk::Error) -> Error {
    if error.kind() == std::io::ErrorKind::WouldBlock {
        return Error::DataDir(format!(
            "data directory {} is in use by another process",
            root.display()
        ));
    }
    error.into()
}

/// etcd keeps `member/snap/db` and `member/wal/*.wal`.
fn refuse_etcd(disk: &dyn Disk, member: &Path) -> Result<(), Error> {
    for name in ["snap", "wal"] {
        if disk.exists(&member.join(name))? {
            return Err(Error::DataDir(format!(
                "{} was written by etcd (found {}); varve cannot read it yet: \
                 start with an empty --data-dir",
                member.display(),
                member.join(name).display(),
            )));
        }
    }
    Ok(())
}

/// The stored identity, or that of the flags, stored now.
fn identity(disk: &dyn Disk, member: &Path, setup: &Setup) -> Result<Identity, Error> {
    let path = member.join("IDENTITY");
    if disk.exists(&path)? {
        let file = disk.open(&path)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX).min(1 << 20)];
        file.read_exact_at(0, &mut bytes)?;
        let identity: Identity = serde_json::from_slice(&bytes).map_err(|error| {
            Error::DataDir(format!("{}: expected an identity, found {error}", path.display()))
        })?;
        if identity.format != FORMAT {
            return Err(Error::DataDir(format!(
                "{}: expected format {FORMAT}, found {}",
                path.display(),
                identity.format
            )));
        }
        if identity.cluster_id != setup.identity.cluster_id
            || identity.member_id != setup.identity.member_id
        {
            tracing::warn!(
                stored_cluster_id = %format!("{:x}", identity.cluster_id),
                stored_member_id = %format!("{:x}", identity.member_id),
                flags_cluster_id = %format!("{:x}", setup.identity.cluster_id),
                flags_member_id = %format!("{:x}", setup.identity.member_id),
                "the data directory belongs to another cluster or member than --initial-cluster \
                 describes; going on as the one that is stored"
            );
        }
        return Ok(identity);
    }
    // A log or an engine without an identity: somebody removed it.
    for name in ["log", "engine"] {
        if disk.exists(&member.join(name))? {
            return Err(Error::DataDir(format!(
                "{}: expected the file IDENTITY beside {name}/, found none",
                member.display()
            )));
        }
    }
    let bytes = serde_json::to_vec_pretty(&setup.identity).expect("plain data has a JSON form");
    let new = member.join("IDENTITY.new");
    if disk.exists(&new)? {
        disk.remove(&new)?;
    }
    let file = disk.create(&new)?;
    file.write_at(0, &bytes)?;
    // Durable content first, then the name: a crash leaves no identity, or this one whole.
    file.sync()?;
    disk.rename(&new, &path)?;
    disk.sync_dir(member)?;
    Ok(setup.identity.clone())
}
