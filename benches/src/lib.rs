//! Measurements of varve and, in the same run, of etcd: a load generator and comparisons.
//!
//! One idea: numbers differ more between machines than between servers, so what counts is a ratio
//! of two servers on one machine in one run, and CPU time beside throughput. The client is on the
//! same machine, so it must be cheap: gRPC over `h2` directly, prepared values, one thread.
//!
//! The program `load` puts load on any etcd endpoint; `compare` starts both servers and prints
//! tables; `benches/benches/` measures the log and the engine alone. `benches/RESULTS.md` has the
//! figures and says how they were taken.
//!
//! # Caveats
//!
//! - Client and server share the cores: with the client idle, a server could do more calls. The
//!   client's CPU per call is reported, so that a run in which it is the bottleneck is seen.
//! - CPU time has the kernel's resolution of 10 ms: runs of a second and more.

pub mod arguments;
pub mod grpc;
pub mod latency;
pub mod load;
pub mod process;
pub mod scenario;
pub mod server;
pub mod table;
pub mod workload;
