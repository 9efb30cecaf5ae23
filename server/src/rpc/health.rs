//! `grpc.health.v1.Health`: Check, List and Watch of the whole server (service name "").
//!
//! One idea: the state is one `watch` channel that the server sets; balancing clients follow it
//! with Watch. As in etcd only the empty service name is known, and the answers to other names
//! are those of grpc-go's health server.

use tokio::sync::watch;
use varve_api::error::{Code, Status};
use varve_api::health::health_check_response::ServingStatus;
use varve_api::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use varve_api::method;

use crate::grpc::{Encoded, Outgoing, Router};

/// The name under which the whole server is known.
const WHOLE_SERVER: &str = "";

/// The state of the server as its health service tells it.
pub type HealthState = watch::Receiver<ServingStatus>;

/// Registers the service; `state` is set by whoever knows whether the server serves.
pub fn register(router: &mut Router, state: HealthState) {
    let (check_state, list_state) = (state.clone(), state.clone());
    router.unary(&method::HEALTH_CHECK, move |_, request: HealthCheckRequest| {
        std::future::ready(check(&request, *check_state.borrow()))
    });
    router.unary(&method::HEALTH_LIST, move |_, _: HealthListRequest| {
        let response = response(*list_state.borrow());
        let statuses = [(WHOLE_SERVER.to_owned(), response)].into();
        std::future::ready(Ok(HealthListResponse { statuses }))
    });
    router.server_stream(&method::HEALTH_WATCH, move |_, request: HealthCheckRequest, outgoing| {
        watch_state(request, state.clone(), outgoing)
    });
}

fn check(
    request: &HealthCheckRequest,
    status: ServingStatus,
) -> Result<HealthCheckResponse, Status> {
    if request.service == WHOLE_SERVER {
        Ok(response(status))
    } else {
        Err(Status::new(Code::NotFound, "unknown service"))
    }
}

/// Sends the state now and whenever it changes, until the server stops or the client goes away.
async fn watch_state(
    request: HealthCheckRequest,
    mut state: HealthState,
    outgoing: Outgoing,
) -> Result<(), Status> {
    let stopped = Status::new(Code::Canceled, "Stream has ended.");
    loop {
        let status = if request.service == WHOLE_SERVER {
            *state.borrow_and_update()
        } else {
            ServingStatus::ServiceUnknown
        };
        if outgoing.send(Encoded::message(&response(status))).await.is_err() {
            return Err(stopped);
        }
        if request.service != WHOLE_SERVER {
            // Services are never added while running.
            outgoing.closed().await;
            return Err(stopped);
        }
        if state.changed().await.is_err() {
            return Err(stopped);
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}
