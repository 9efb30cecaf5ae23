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
//!
//! Invariants: nothing is acknowledged before IDENTITY has its name ([`DataDir::founded`]); where
//! IDENTITY is, a log was, so a directory that has lost its log is refused rather than founded anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use varve_disk::{DirLock, Disk};
use varve_store::Member;

use crate::error::Error;
use crate::setup::Setup;

/// Name of the identity file.
const IDENTITY: &str = "IDENTITY";
/// Its name until log and engine are there.
const IDENTITY_NEW: &str = "IDENTITY.new";
/// Version of the identity file.
const FORMAT: u32 = 1;
/// What is between the identity and its checksum.
const CHECKSUM_MARK: &str = "\ncrc32 ";
/// Longest identity file that is read; a real one has a few hundred bytes.
const IDENTITY_BYTES_MAX: u64 = 1 << 20;

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
    disk: Arc<dyn Disk>,
    member: PathBuf,
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
    /// The founding members, this one included; for a member that joined later, whom it found.
    pub members: Vec<FoundingMember>,
    /// It joined a running cluster, and gets all it knows from a snapshot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_joined: bool,
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
        Self { format: FORMAT, cluster_id, member_id, members, has_joined: false }
    }

    /// The identity of a member that joins a running cluster.
    pub fn joined(cluster_id: u64, member_id: u64, members: Vec<FoundingMember>) -> Self {
        Self { has_joined: true, ..Self::new(cluster_id, member_id, members) }
    }

    /// The content of the file.
    fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_string_pretty(self).expect("plain data has a JSON form");
        let checksum = crc32fast::hash(json.as_bytes());
        format!("{json}{CHECKSUM_MARK}{checksum:08x}\n").into_bytes()
    }

    /// Parses the content of the file.
    ///
    /// # Errors
    /// What was expected and found: damage, or the format of a newer program.
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| format!("expected an identity, found no text: {error}"))?;
        let (json, checksum) = text
            .rsplit_once(CHECKSUM_MARK)
            .ok_or("expected an identity with its checksum, found none")?;
        let computed = format!("{:08x}\n", crc32fast::hash(json.as_bytes()));
        if computed != checksum {
            let (expected, found) = (checksum.trim_end(), computed.trim_end());
            return Err(format!("expected checksum {expected}, found {found}: it is damaged"));
        }
        let not_json = |error| format!("expected an identity, found {error}");
        let Format { format } = serde_json::from_str(json).map_err(not_json)?;
        if format != FORMAT {
            return Err(format!("expected format {FORMAT}, found {format}"));
        }
        serde_json::from_str(json).map_err(not_json)
    }

    /// What log and engine carry: cluster id and member id.
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.cluster_id.to_le_bytes());
        bytes[8..].copy_from_slice(&self.member_id.to_le_bytes());
        bytes
    }

    /// The founders as the state machine knows them; none for a member that joined.
    pub fn founders(&self) -> Vec<Member> {
        if self.has_joined { Vec::new() } else { self.members() }
    }

    /// The members that were known when this directory was made.
    pub fn members(&self) -> Vec<Member> {
        let founder = |member: &FoundingMember| Member {
            id: member.id,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: Vec::new(),
            is_learner: false,
        };
        self.members.iter().map(founder).collect()
    }
}

impl DataDir {
    /// Locks the directory, checks whose it is, and makes what is missing.
    ///
    /// # Errors
    /// The directory is in use, holds data of etcd, an identity that cannot be read, or an
    /// identity without a log.
    pub fn open(disk: Arc<dyn Disk>, setup: &Setup) -> Result<Self, Error> {
        let root = &setup.data_dir;
        disk.create_dir_all(root)?;
        let lock = disk.lock(root).map_err(|error| in_use(root, error))?;
        let member = root.join("member");
        refuse_etcd(disk.as_ref(), &member)?;
        disk.create_dir_all(&member)?;
        let log = setup.wal_dir.clone().unwrap_or_else(|| member.join("log"));
        let identity = identity(disk.as_ref(), &member, &log, setup)?;
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
        let engine = member.join("engine");
        Ok(Self { identity, log, engine, incoming, disk, member, _lock: lock })
    }

    /// Log and engine exist and are durable: from here on this directory is this member's. To be
    /// called before anything is acknowledged; does nothing on a restart.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn founded(&self) -> Result<(), Error> {
        let path = self.member.join(IDENTITY);
        if !self.disk.exists(&path)? {
            self.disk.rename(&self.member.join(IDENTITY_NEW), &path)?;
            // The name is durable: a later start knows that there was a log.
            self.disk.sync_dir(&self.member)?;
        }
        Ok(())
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

fn read_identity(disk: &dyn Disk, path: &Path) -> Result<Identity, Error> {
    let file = disk.open(path)?;
    // The bound fits any usize.
    let length = file.len()?.min(IDENTITY_BYTES_MAX) as usize;
    let mut bytes = vec![0; length];
    file.read_exact_at(0, &mut bytes)?;
    Identity::decode(&bytes).map_err(|reason| {
        Error::DataDir(format!(
            "{}: {reason}; put the file back, or rebuild this member from its peers",
            path.display()
        ))
    })
}

/// The stored identity, or that of the flags, stored now under its preliminary name.
fn identity(disk: &dyn Disk, member: &Path, log: &Path, setup: &Setup) -> Result<Identity, Error> {
    let path = member.join(IDENTITY);
    if disk.exists(&path)? {
        let identity = read_identity(disk, &path)?;
        require_log(disk, &path, log)?;
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
    // A log or an engine without an identity: somebody removed it. With the preliminary one, they
    // were being made when the process ended, and hold nothing that was acknowledged.
    let new = member.join(IDENTITY_NEW);
    let is_being_founded = disk.exists(&new)?;
    for name in ["log", "engine"] {
        if !is_being_founded && disk.exists(&member.join(name))? {
            return Err(Error::DataDir(format!(
                "{}: expected the file IDENTITY beside {name}/, found none; put it back, or \
                 rebuild this member from its peers",
                member.display()
            )));
        }
    }
    let bytes = setup.identity.encode();
    // Replaced, never absent: without it, what is half made beside it would be refused for ever.
    let draft = member.join("IDENTITY.draft");
    if disk.exists(&draft)? {
        disk.remove(&draft)?;
    }
    let file = disk.create(&draft)?;
    file.write_at(0, &bytes)?;
    // Durable content first, the final name later (`founded`): a crash leaves no identity, or this
    // one whole.
    file.sync()?;
    disk.rename(&draft, &new)?;
    disk.sync_dir(member)?;
    Ok(setup.identity.clone())
}

/// Where an identity is, a log was: an empty one would silently forget what it held.
fn require_log(disk: &dyn Disk, identity: &Path, log: &Path) -> Result<(), Error> {
    let names = if disk.exists(log)? { disk.list(log)? } else { Vec::new() };
    if names.iter().any(|name| name.ends_with(".wal")) {
        return Ok(());
    }
    Err(Error::DataDir(format!(
        "{}: expected the log of the member of {}, found no segment; check --wal-dir, put the log \
         back, or rebuild this member from its peers",
        log.display(),
        identity.display(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let founder = FoundingMember {
            id: 2,
            name: "m".to_owned(),
            peer_urls: vec!["http://127.0.0.1:1".to_owned()],
        };
        Identity::new(1, 2, vec![founder])
    }

    #[test]
    fn an_identity_has_these_bytes() {
        let golden = r#"{
  "format": 1,
  "cluster_id": 1,
  "member_id": 2,
  "members": [
    {
      "id": 2,
      "name": "m",
      "peer_urls": [
        "http://127.0.0.1:1"
      ]
    }
  ]
}
crc32 50c23df5
"#;
        let bytes = identity().encode();
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), golden);
        assert_eq!(Identity::decode(&bytes).unwrap(), identity());
    }

    #[test]
    fn an_identity_with_any_bit_flipped_or_cut_anywhere_is_refused() {
        let sound = identity().encode();
        for bit in 0..sound.len() * 8 {
            let mut damaged = sound.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..sound.len() {
            assert!(Identity::decode(&sound[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_newer_format_is_named_whatever_its_fields_are() {
        let json = r#"{"format": 2, "who": "knows"}"#;
        let checksum = crc32fast::hash(json.as_bytes());
        let text = format!("{json}{CHECKSUM_MARK}{checksum:08x}\n");
        let error = Identity::decode(text.as_bytes()).unwrap_err();
        assert_eq!(error, "expected format 1, found 2");
    }
}
