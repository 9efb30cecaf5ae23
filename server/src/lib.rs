//! The outside of varve: sockets, gRPC, HTTP, clocks, watch fan-out.

pub mod grpc;
