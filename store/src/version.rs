//! Which release of etcd the cluster passes for, and whether it is on its way to an older one.
//!
//! One idea: a downgrade is one row that every member agrees on: while it is there, the cluster
//! tells the older version to its clients; cancelling takes the row away. In etcd members then start
//! an older program on data that was made fit for it; here the formats are our own and know no
//! older ones, so what changes is what is told.
//!
//! What it does not do: know this program's own version. That comes with the command.

use bytes::Bytes;
use varve_api::error as api;
use varve_api::{Code, Status};
use varve_lsm::{Delta, Keyspace, Snapshot};

use crate::error::{Outcome, Result};
use crate::schema::{self, DOWNGRADE_ROW};
use crate::state::State;
use crate::wire::{Cursor, Malformed};

/// A release, `major.minor`; the patch is of no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// As in 3.7.
    pub major: u32,
    /// As in 3.7.
    pub minor: u32,
}

impl Release {
    /// Reads `3.7` or `3.7.1`; `None` if it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |part: &str| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_: &u32| is_number)
        };
        let parts: Vec<&str> = text.split('.').collect();
        if !(2..=3).contains(&parts.len()) || parts.iter().any(|part| number(part).is_none()) {
            return None;
        }
        Some(Self { major: number(parts[0])?, minor: number(parts[1])? })
    }

    /// The only release that can be gone back to.
    pub fn before(self) -> Option<Self> {
        Some(Self { minor: self.minor.checked_sub(1)?, ..self })
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// Body of [`crate::CommandKind::Downgrade`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Downgrade {
    /// Go back to this release.
    Enable(Release),
    /// Stay.
    Cancel,
}

const DOWNGRADE_VERSION: u8 = 1;

impl Downgrade {
    /// The body of the command.
    pub fn encode(self) -> Bytes {
        let mut out = vec![DOWNGRADE_VERSION];
        if let Self::Enable(target) = self {
            put(&mut out, target);
        }
        out.into()
    }

    fn decode(body: &[u8]) -> std::result::Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        let version = cursor.take_u8("a version")?;
        if version != DOWNGRADE_VERSION {
            return Err(cursor.malformed("version 1", version));
        }
        let downgrade = match cursor.remaining() {
            0 => Self::Cancel,
            _ => Self::Enable(take(&mut cursor)?),
        };
        cursor.finish()?;
        Ok(downgrade)
    }
}

/// Applies a [`Downgrade`]. Cancelling none is done already, as in etcd.
pub(crate) fn apply(state: &mut State, body: &[u8]) -> Outcome<()> {
    let downgrade = Downgrade::decode(body).map_err(|malformed| {
        let Malformed { expected, found, .. } = malformed;
        Status::new(Code::InvalidArgument, format!("expected {expected}, found {found}"))
    })?;
    match (downgrade, state.downgrade) {
        (Downgrade::Enable(_), Some(_)) => return Err(api::DOWNGRADE_IN_PROCESS.into()),
        (Downgrade::Cancel, None) => {}
        (Downgrade::Enable(target), None) => {
            let mut value = vec![schema::ROW_VERSION];
            put(&mut value, target);
            state.put_row(DOWNGRADE_ROW, Delta::Plus, &value);
            state.downgrade = Some(target);
        }
        (Downgrade::Cancel, Some(_)) => {
            state.delete_row(DOWNGRADE_ROW);
            state.downgrade = None;
        }
    }
    Ok(())
}

/// The release that the cluster goes back to, if it does.
pub(crate) fn load(snapshot: &Snapshot) -> Result<Option<Release>> {
    let entry = schema::live(snapshot.get(Keyspace::Sys, DOWNGRADE_ROW, u64::MAX)?);
    entry.map(|entry| schema::decode_row(DOWNGRADE_ROW, &entry.value, take)).transpose()
}

fn put(out: &mut Vec<u8>, release: Release) {
    out.extend_from_slice(&release.major.to_le_bytes());
    out.extend_from_slice(&release.minor.to_le_bytes());
}

fn take(cursor: &mut Cursor<'_>) -> std::result::Result<Release, Malformed> {
    let both = cursor.take_u64("a release")?;
    Ok(Release { major: both as u32, minor: (both >> 32) as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_etcd_reads_them() {
        let release = |major, minor| Some(Release { major, minor });
        assert_eq!(Release::parse("3.6"), release(3, 6));
        assert_eq!(Release::parse("3.6.12"), release(3, 6));
        for text in ["", "3", "3.", "3.6.", "3.x", "v3.6", "3.6.1.2", "+3.6", "3.99999999999"] {
            assert_eq!(Release::parse(text), None, "{text}");
        }
        assert_eq!(Release { major: 3, minor: 7 }.before(), release(3, 6));
        assert_eq!(Release { major: 4, minor: 0 }.before(), None);
    }

    #[test]
    fn a_downgrade_has_these_bytes() {
        let enable = Downgrade::Enable(Release { major: 3, minor: 0x0106 });
        assert_eq!(enable.encode().as_ref(), b"\x01\x03\0\0\0\x06\x01\0\0");
        assert_eq!(Downgrade::Cancel.encode().as_ref(), b"\x01");
        for downgrade in [enable, Downgrade::Cancel] {
            assert_eq!(Downgrade::decode(&downgrade.encode()).unwrap(), downgrade);
        }
        assert!(Downgrade::decode(b"").is_err() && Downgrade::decode(b"\x01\x03").is_err());
    }
}
