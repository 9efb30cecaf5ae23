//! TLS for clients and members: certificates from files, who may connect, and all of it reread.
//!
//! One idea: a [`TlsSource`] is a set of files. Whoever makes a handshake asks it for its
//! configuration; it looks at the stamps of the files (a few microseconds, beside a handshake's
//! hundreds) and builds a new configuration if one has changed. So a certificate, a key, an
//! authority or a list of revoked certificates counts for the next handshake, and connections that
//! are open stay open.
//!
//! - [`options`]: what the flags say;
//! - [`source`]: files to configurations, and their reloading;
//! - [`verify`]: chains, allowed names, revoked serial numbers;
//! - [`certificate`]: the few fields of a certificate and of a revocation list that we read;
//! - [`address`]: whether a member's certificate is for the address that it comes from;
//! - [`made_up`]: `--auto-tls` and `--peer-auto-tls`.
//!
//! Invariants: sessions are never resumed, so every connection passes the checks of its time.
//!
//! What it does not do: encrypted keys, OCSP, versions below TLS 1.2.

pub mod address;
pub mod certificate;
pub mod made_up;
pub mod options;
pub mod source;
pub mod verify;

pub use options::{TlsOptions, TlsVersion};
pub use source::TlsSource;
