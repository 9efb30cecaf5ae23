//! Feature gates: `--feature-gates=InitialCorruptCheck=true,...`.
//!
//! One idea: every gate of etcd 3.7 is known, so that a manifest written for etcd is accepted;
//! `InitialCorruptCheck` and `CompactHashCheck` act (`corruption`), and so does `LeaseCheckpoint`
//! (`lease`; checkpoints are always stored, as in etcd since 3.6). What the others would change is not
//! observable here.

use super::flag::parse_bool;

/// How ripe a feature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// On unless refused.
    Beta,
}

/// All gates: name, stage. Alpha gates are off, beta gates on by default.
pub const GATES: [(&str, Stage); 9] = [
    ("CompactHashCheck", Stage::Alpha),
    ("FastLeaseKeepAlive", Stage::Beta),
    ("InitialCorruptCheck", Stage::Alpha),
    ("LeaseCheckpoint", Stage::Alpha),
    ("LeaseCheckpointPersist", Stage::Alpha),
    ("PriorityRequest", Stage::Alpha),
    ("SetMemberLocalAddr", Stage::Alpha),
    ("StopGRPCServiceOnDefrag", Stage::Alpha),
    ("TxnModeWriteWithSharedBuffer", Stage::Beta),
];

/// The state of all gates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gates([bool; GATES.len()]);

impl Default for Gates {
    fn default() -> Self {
        Self(GATES.map(|(_, stage)| stage == Stage::Beta))
    }
}

impl Gates {
    /// Reads a list of settings over the defaults.
    ///
    /// # Errors
    /// Etcd's text for what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut gates = Self::default();
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let mut settings = Vec::new();
        for pair in pairs {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| format!("missing bool value for {pair}"))?;
            let (name, value) = (name.trim(), value.trim());
            let value = parse_bool(value)
                .ok_or_else(|| format!("invalid value of {name}={value}, err: not a bool"))?;
            settings.push((name, value));
        }
        // Whole stages first: a setting of one gate counts more than one of its stage.
        for (name, value) in &settings {
            let stage = match *name {
                "AllAlpha" => Stage::Alpha,
                "AllBeta" => Stage::Beta,
                _ => continue,
            };
            for (gate, (_, gate_stage)) in gates.0.iter_mut().zip(GATES) {
                if gate_stage == stage {
                    *gate = *value;
                }
            }
        }
        for (name, value) in settings {
            match GATES.iter().position(|(gate, _)| *gate == name) {
                Some(position) => gates.0[position] = value,
                None if matches!(name, "AllAlpha" | "AllBeta") => {}
                None => return Err(format!("unrecognized feature gate: {name}")),
            }
        }
        Ok(gates)
    }

    /// Whether a gate is on.
    ///
    /// # Panics
    /// If there is no such gate.
    pub fn is_on(&self, name: &str) -> bool {
        let position = GATES.iter().position(|(gate, _)| *gate == name);
        self.0[position.expect("the name of a gate is in the table")]
    }

    /// All gates with their stages and states.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Stage, bool)> {
        GATES.into_iter().zip(self.0).map(|((name, stage), is_on)| (name, stage, is_on))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_set_one_by_one_or_by_stage() {
        let gates = Gates::parse("AllAlpha=true, LeaseCheckpoint=false").unwrap();
        assert!(gates.is_on("InitialCorruptCheck"));
        assert!(!gates.is_on("LeaseCheckpoint"));
        assert!(gates.is_on("FastLeaseKeepAlive"));
        assert!(!Gates::parse("").unwrap().is_on("InitialCorruptCheck"));
    }

    #[test]
    fn unknown_and_malformed_gates_are_refused_in_etcds_words() {
        for (text, error) in [
            ("Foo=true", "unrecognized feature gate: Foo"),
            ("InitialCorruptCheck", "missing bool value for InitialCorruptCheck"),
        ] {
            assert_eq!(Gates::parse(text).unwrap_err(), error);
        }
    }
}
