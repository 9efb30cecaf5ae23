//! The outside of varve: sockets, gRPC, HTTP, clocks, watch fan-out.

pub mod apply;
pub mod background;
pub mod cluster;
pub mod error;
pub mod grpc;
pub mod http;
pub mod lease;
pub mod limits;
pub mod listener;
pub mod mailbox;
pub mod metrics;
pub mod peer;
pub mod raft;
pub mod random;
pub mod read_pool;
pub mod request;
pub mod rpc;
pub mod services;
pub mod socket;
pub mod version;
pub mod watch;
pub mod worker;
pub mod data_dir;
pub mod health;
pub mod server;
pub mod setup;
