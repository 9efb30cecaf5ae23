//! The words of the system: etcd 3.7's protobuf messages, its method paths and its exact error texts.
//!
//! One idea: everything a client can see on the wire is spelled here once, and nothing here acts.
//! The messages are generated from `proto/*.proto` by the test `codegen` (`VARVE_BLESS=1` rewrites
//! them) and committed, so that a build needs neither protoc nor a build script. All `bytes` fields
//! are [`bytes::Bytes`]: decoding from a `Bytes` borrows from the receive buffer and cloning a
//! message does not copy keys or values.
//!
//! What it does not do: transport, dispatch, reading and writing of JSON, checks of requests.

/// Keys at a revision, and changes of them.
#[allow(missing_docs, clippy::all, reason = "generated from proto/, documented there")]
#[rustfmt::skip]
#[path = "generated/mvccpb.rs"]
pub mod mvccpb;

/// Users, roles and permissions as stored.
#[allow(missing_docs, clippy::all, reason = "generated from proto/, documented there")]
#[rustfmt::skip]
#[path = "generated/authpb.rs"]
pub mod authpb;

/// Requests and responses of KV, Watch, Lease, Cluster, Maintenance and Auth.
#[allow(missing_docs, clippy::all, reason = "generated from proto/, documented there")]
#[rustfmt::skip]
#[path = "generated/etcdserverpb.rs"]
pub mod etcdserverpb;

/// Requests and responses of Lock.
#[allow(missing_docs, clippy::all, reason = "generated from proto/, documented there")]
#[rustfmt::skip]
#[path = "generated/v3lockpb.rs"]
pub mod v3lockpb;

/// Requests and responses of Election.
#[allow(missing_docs, clippy::all, reason = "generated from proto/, documented there")]
#[rustfmt::skip]
#[path = "generated/v3electionpb.rs"]
pub mod v3electionpb;

/// Requests and responses of gRPC's standard health check.
#[allow(missing_docs, clippy::all, reason = "generated from proto/, documented there")]
#[rustfmt::skip]
#[path = "generated/grpc.health.v1.rs"]
pub mod health;

pub mod error;
pub mod json;
pub mod method;

pub use error::{ApiError, Code, Status};
