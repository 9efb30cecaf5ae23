//! gRPC straight on hyper: length-prefixed messages in, status trailers out.
//!
//! One idea: a call is one task. hyper spawns one task per HTTP/2 stream; the handler's future is
//! polled inside it (for unary calls as the response future, for streams as part of the response
//! body), so a reset stream, a lost connection or a passed deadline *drops* the handler. Handlers
//! therefore clean up in `Drop` guards, and nothing here is `Send`: a connection, its streams and
//! their handlers live on one socket thread.
//!
//! - [`frame`]: the five-byte message prefix, decoding with a size limit, encoding in one buffer;
//! - [`status`]: `grpc-status` and `grpc-message`, `grpc-timeout`;
//! - [`request`]: what a handler may know about its caller;
//! - [`incoming`], [`outgoing`]: the two directions of a stream, the latter with a byte bound;
//! - [`body`]: the response body hyper polls;
//! - [`counters`]: what was called and how it ended;
//! - [`call`]: what a call goes through before and after its handler;
//! - `transport`: what makes a request of HTTP one of gRPC, and refusals of others;
//! - [`router`]: methods to handlers;
//! - [`client`]: the other side of a call, for what the server itself asks of others.
//!
//! What it does not do: compression other than gzip, retries, load balancing.

pub mod body;
pub mod call;
pub mod client;
pub mod counters;
pub mod frame;
mod gzip;
pub mod incoming;
pub mod outgoing;
pub mod request;
pub mod router;
pub mod status;
mod transport;

pub use body::ResponseBody;
pub use call::{Answered, Guard, Observer};
pub use counters::GrpcCounters;
pub use frame::{Encoded, PREFIX_BYTES, decode, not_unmarshalled};
pub use incoming::{Incoming, RequestBody};
pub use outgoing::{Closed, Outgoing, TryPartsError, TrySendError};
pub use request::{Caller, PeerAddress, RequestMeta, Successor};
pub use router::{HttpHandler, Origin, Router, RouterOptions};
pub use status::{Code, Status};
