//! Alarms: what is wrong with a member, told to the whole cluster.
//!
//! One idea: an alarm is a row and lives until somebody takes it away. While any member is out of
//! space (`NOSPACE`) nothing that grows is accepted anywhere; while any member's data is in doubt
//! (`CORRUPT`) no change is. As in etcd, deletions and compactions go on without space, and plain
//! reads go on always: they do not come this way.
//!
//! What it does not do: find out that something is wrong. That is the server's.

use std::collections::BTreeSet;

use varve_api::error as api;
use varve_api::etcdserverpb::alarm_request::AlarmAction;
use varve_api::etcdserverpb::{AlarmMember, AlarmRequest, AlarmResponse, AlarmType};
use varve_lsm::{Delta, Snapshot};

use crate::command::CommandKind;
use crate::error::{Error, Outcome, Result};
use crate::kv;
use crate::schema::{self, ALARM_PREFIX};
use crate::state::{self, State};

/// One alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// `AlarmType` as a number; others than etcd's may be raised and mean nothing.
    pub kind: i32,
    /// The member it is about.
    pub member_id: u64,
}

impl Alarm {
    /// Whether it is a `NOSPACE`.
    pub fn is_no_space(&self) -> bool {
        self.kind == AlarmType::Nospace as i32
    }

    /// Whether it is a `CORRUPT`.
    pub fn is_corrupt(&self) -> bool {
        self.kind == AlarmType::Corrupt as i32
    }

    /// The name that etcd shows: `NOSPACE`, `CORRUPT`, or the number.
    pub fn name(&self) -> String {
        match AlarmType::try_from(self.kind) {
            Ok(kind) => kind.as_str_name().to_owned(),
            Err(_) => self.kind.to_string(),
        }
    }
}

/// What an entry did to alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmChange {
    /// Which.
    pub alarm: Alarm,
    /// Raised, or taken away. An alarm that is there already may be raised again.
    pub is_raised: bool,
}

/// All alarms, by kind and member.
pub(crate) type Alarms = BTreeSet<Alarm>;

/// Reads all alarms.
pub(crate) fn load(snapshot: &Snapshot) -> Result<Alarms> {
    let mut alarms = Alarms::new();
    state::for_each_row(snapshot, ALARM_PREFIX, |row, value| {
        schema::decode_row(row, value, |_| Ok(()))?;
        alarms.insert(of_row(row)?);
        Ok(())
    })?;
    Ok(alarms)
}

/// Refuses what the alarms forbid, before anything of the command was done.
pub(crate) fn admit(alarms: &Alarms, kind: CommandKind) -> Outcome<()> {
    use CommandKind::{Compact, DeleteRange, LeaseGrant, LeaseRevoke, Put, Txn};
    if alarms.is_empty() {
        return Ok(());
    }
    let is_change = matches!(kind, Put | DeleteRange | Txn | Compact | LeaseGrant | LeaseRevoke);
    if is_change && alarms.iter().any(Alarm::is_corrupt) {
        return Err(api::CORRUPT.into());
    }
    if matches!(kind, Put | LeaseGrant) {
        admit_growth(alarms)?;
    }
    Ok(())
}

/// Refuses what takes space while there is none.
pub(crate) fn admit_growth(alarms: &Alarms) -> Outcome<()> {
    match alarms.iter().any(Alarm::is_no_space) {
        true => Err(api::NO_SPACE.into()),
        false => Ok(()),
    }
}

/// Applies an `Alarm`: lists, raises or takes away.
pub(crate) fn apply(
    state: &mut State,
    request: &AlarmRequest,
    changes: &mut Vec<AlarmChange>,
) -> Outcome<AlarmResponse> {
    let alarm = Alarm { kind: request.alarm, member_id: request.member_id };
    let is_any = alarm.kind == AlarmType::None as i32;
    let alarms = match AlarmAction::try_from(request.action) {
        Ok(AlarmAction::Get) => {
            let wanted = |found: &&Alarm| is_any || found.kind == alarm.kind;
            state.alarms.iter().filter(wanted).copied().collect()
        }
        Ok(AlarmAction::Activate) if !is_any => {
            if state.alarms.insert(alarm) {
                state.put_row(&row(alarm), Delta::Plus, &[schema::ROW_VERSION]);
            }
            changes.push(AlarmChange { alarm, is_raised: true });
            vec![alarm]
        }
        Ok(AlarmAction::Deactivate) if state.alarms.remove(&alarm) => {
            state.delete_row(&row(alarm));
            changes.push(AlarmChange { alarm, is_raised: false });
            vec![alarm]
        }
        // As in etcd: nothing to do, and no complaint.
        _ => Vec::new(),
    };
    Ok(AlarmResponse { header: kv::header(state.revision), alarms: messages(&alarms) })
}

/// Raises an alarm that a backup tells of.
pub(crate) fn restore(state: &mut State, alarm: Alarm) {
    if state.alarms.insert(alarm) {
        state.put_row(&row(alarm), Delta::Plus, &[schema::ROW_VERSION]);
    }
}

fn messages(alarms: &[Alarm]) -> Vec<AlarmMember> {
    let message = |alarm: &Alarm| AlarmMember { member_id: alarm.member_id, alarm: alarm.kind };
    alarms.iter().map(message).collect()
}

fn row(alarm: Alarm) -> Vec<u8> {
    let mut row = ALARM_PREFIX.to_vec();
    row.extend_from_slice(&alarm.kind.cast_unsigned().to_be_bytes());
    row.extend_from_slice(&alarm.member_id.to_be_bytes());
    row
}

fn of_row(row: &[u8]) -> Result<Alarm> {
    let id = row
        .strip_prefix(ALARM_PREFIX)
        .and_then(|bytes| <[u8; 12]>::try_from(bytes).ok())
        .ok_or_else(|| Error::row(row, "a kind and an id, 12 bytes", row.len()))?;
    let (kind, member) = id.split_at(4);
    Ok(Alarm {
        kind: u32::from_be_bytes(kind.try_into().expect("4 bytes")).cast_signed(),
        member_id: u64::from_be_bytes(member.try_into().expect("8 bytes")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_row_has_these_bytes() {
        let alarm = Alarm { kind: 2, member_id: 0x0102 };
        assert_eq!(row(alarm), b"alarm/\0\0\0\x02\0\0\0\0\0\0\x01\x02");
        assert_eq!(of_row(&row(alarm)).unwrap(), alarm);
        assert!(of_row(b"alarm/\0\0\0\x02").is_err());
    }

    #[test]
    fn names_are_those_etcd_shows() {
        let name = |kind| Alarm { kind, member_id: 1 }.name();
        assert_eq!([name(1), name(2), name(9)], ["NOSPACE", "CORRUPT", "9"]);
    }
}
