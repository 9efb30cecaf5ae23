//! The outside of varve: sockets, gRPC, HTTP, clocks, watch fan-out.

pub mod grpc;
pub mod limits;
pub mod listener;
pub mod mailbox;
pub mod socket;
pub mod worker;
