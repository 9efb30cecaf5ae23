//! What the first socket thread does by the clock: ends leases whose time is over, agrees on what
//! long ones have left, and tells idle watchers how far they are.
//!
//! One idea: each is a loop over a period; the clock decides only when to propose, the log decides
//! what happens.

use std::time::Duration;

use crate::limits;
use crate::rpc;
use crate::services::Services;
use crate::watch::hub::Hub;

/// Proposes the revocation of leases whose time is over. Only the leader's lessor names any.
pub async fn expire_leases(services: Services) {
    let mut round = tokio::time::interval(limits::LEASE_ROUND);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        round.tick().await;
        let expired = services.lessor.expired(limits::LEASE_REVOKES_PER_ROUND);
        for lease in expired.leases {
            services.metrics.lease_expired.inc();
            let services = services.clone();
            tokio::task::spawn_local(async move {
                if let Err(status) =
                    rpc::lease::revoke_expired(&services, expired.term, lease).await
                {
                    tracing::warn!(lease_id = %format!("{lease:016x}"), error = %status, "failed to revoke lease");
                }
            });
        }
    }
}

/// Proposes checkpoints of leases that are due, and the end of those of leases that are renewed: at
/// once, since the renewal waits.
pub async fn checkpoint_leases(services: Services) {
    let mut round = tokio::time::interval(limits::LEASE_ROUND);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // In this order always: what happens must follow from what has happened.
            biased;
            _ = round.tick() => {}
            () = services.lessor.taken_back() => {}
        }
        let due = services.lessor.due_checkpoints(limits::LEASE_CHECKPOINTS_MAX);
        if due.leases.is_empty() {
            continue;
        }
        if let Err(status) = rpc::lease::checkpoint(&services, due.term, due.leases).await {
            tracing::warn!(error = %status, "failed to checkpoint leases");
        }
    }
}

/// Tells idle watchers that asked for it how far they are, so often.
pub async fn tell_progress(hub: Hub, interval: Duration) {
    let mut round = tokio::time::interval(interval);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        round.tick().await;
        hub.notify_progress();
    }
}
