//! Watchers, owned by the socket thread on which their stream lives.
//!
//! The apply thread posts each batch of events once to every socket thread. There it is matched
//! against that thread's watchers and written into their streams: no lock, no shared table, and a
//! watcher's cost is paid by the thread that serves it.
//!
//! A watcher is *synced* when it has got everything up to the last batch this thread has seen, and
//! takes events straight from the batch; otherwise it is *behind* and reads the history from the
//! state machine, a bounded piece at a time, until it has caught up. A stream without room makes
//! its watchers fall behind; that costs others nothing.
//!
//! | file | its part |
//! | --- | --- |
//! | `batch` | the events of one batch, each encoded once |
//! | `interval` | which ranges contain a key |
//! | `hub` | what callers can do: streams, watchers, batches, progress |
//! | `table` | who watches what on this thread; matching and sending |
//! | `response` | a response's bytes |
//! | `catch_up` | reading history for watchers that are behind |

pub mod batch;
pub mod catch_up;
pub mod hub;
mod interval;
mod response;
mod table;
#[cfg(test)]
mod tests;
