//! A client of a meeting place: single calls of gRPC, to one of several endpoints.
//!
//! One idea: one connection at a time, to the first endpoint that takes one; an error of it means
//! the next call dials again. What is on the wire is shared with the server (`grpc/client.rs`), and
//! so are connections with those of members.
//!
//! What it does not do: streams; spreading calls over endpoints.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use prost::Message;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use varve_api::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use varve_api::method::{self, Method};
use varve_api::{Code, Status, error};

use super::DiscoveryOptions;
use crate::grpc::client::{self, Connection, unavailable};
use crate::limits;
use crate::peer::stream::{self, PeerStream};
use crate::tls::source::Use;
use crate::tls::{TlsOptions, TlsSource};

/// Why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// It may succeed later.
    Again(String),
    /// It will not.
    Refused(String),
}

/// Calls the endpoints of `options`.
pub(super) struct Client<'a> {
    options: &'a DiscoveryOptions,
    /// For endpoints whose scheme asks for TLS.
    tls: Arc<ClientConfig>,
    /// Whether endpoints without a scheme are spoken to with TLS.
    prefers_tls: bool,
    connection: Option<Connection>,
    token: Option<HeaderValue>,
}

impl<'a> Client<'a> {
    /// Reads the files that the options name; dials nobody yet.
    ///
    /// # Errors
    /// A file is missing or wrong.
    pub(super) fn new(options: &'a DiscoveryOptions) -> Result<Self, String> {
        let names_files =
            options.cert_file.is_some() || options.key_file.is_some() || options.ca_file.is_some();
        let prefers_tls = names_files || !options.is_plain || options.skips_verification;
        let is_secure = |endpoint: &String| is_secure(endpoint, prefers_tls);
        let tls = TlsOptions {
            client_cert_file: options.cert_file.clone(),
            client_key_file: options.key_file.clone(),
            trusted_ca_file: options.ca_file.clone(),
            // The system may have no authorities, and who speaks in plain needs none.
            is_made_up: options.skips_verification || !options.endpoints.iter().any(is_secure),
            ..TlsOptions::default()
        };
        let tls = TlsSource::load(tls, Use::AcceptAndDial)?.client();
        let mut tls = ClientConfig::clone(&tls.expect("a source to dial with has a client"));
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { options, tls: Arc::new(tls), prefers_tls, connection: None, token: None })
    }

    /// One call.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(super) async fn call<A: Message + Default>(
        &mut self,
        method: &Method,
        request: &impl Message,
    ) -> Result<A, CallError> {
        let outcome = match self.authenticate().await {
            Ok(()) => self.call_plainly(method, request).await,
            Err(error) => return Err(error),
        };
        outcome.map_err(|error| {
            // Whatever it was: the next call begins anew.
            (self.connection, self.token) = (None, None);
            CallError::Again(error.to_string())
        })
    }

    /// Gets a token, if there is a user and no token.
    async fn authenticate(&mut self) -> Result<(), CallError> {
        let DiscoveryOptions { user, password, .. } = self.options;
        if user.is_empty() || password.is_empty() || self.token.is_some() {
            return Ok(());
        }
        let request = AuthenticateRequest { name: user.clone(), password: password.clone() };
        let answer: Result<AuthenticateResponse, Status> =
            self.call_plainly(&method::AUTH_AUTHENTICATE, &request).await;
        match answer {
            Ok(answer) => {
                let token = HeaderValue::try_from(answer.token);
                let token = token.map_err(|error| CallError::Refused(error.to_string()))?;
                self.token = Some(token);
                Ok(())
            }
            Err(status) if status.message == error::AUTH_NOT_ENABLED.message => Ok(()),
            Err(status) => {
                self.connection = None;
                Err(match status.code {
                    Code::InvalidArgument => CallError::Refused(status.to_string()),
                    _ => CallError::Again(status.to_string()),
                })
            }
        }
    }

    async fn call_plainly<A: Message + Default>(
        &mut self,
        method: &Method,
        request: &impl Message,
    ) -> Result<A, Status> {
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_ready() => connection,
            _ => self.connect().await?,
        };
        let mut metadata = HeaderMap::new();
        if let Some(token) = &self.token {
            metadata.insert("token", token.clone());
        }
        let answer = client::unary(&mut connection, "discovery", method.path, metadata, request);
        let answer = timeout(self.options.request_timeout, answer);
        let answer = answer.await.map_err(|_| unavailable(&"context deadline exceeded"))??;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Dials one endpoint after the other.
    async fn connect(&self) -> Result<Connection, Status> {
        let mut why = unavailable(&"no endpoint is given");
        for endpoint in &self.options.endpoints {
            let dialled = timeout(self.options.dial_timeout, self.dial(endpoint)).await;
            match dialled.unwrap_or_else(|_| Err("i/o timeout".to_owned())) {
                Ok(connection) => return Ok(connection),
                Err(error) => why = unavailable(&format!("{endpoint}: {error}")),
            }
        }
        Err(why)
    }

    async fn dial(&self, endpoint: &str) -> Result<Connection, String> {
        let (scheme, place) = endpoint.split_once("://").unwrap_or(("", endpoint));
        let stream =
            stream::open(scheme, place.trim_end_matches('/'), limits::PEER_SILENCE_MAX).await;
        let mut stream: PeerStream = stream.map_err(|error| error.to_string())?;
        if is_secure(endpoint, self.prefers_tls) {
            let name = ServerName::try_from(stream::host_of(place).to_owned());
            let name = name.map_err(|error| error.to_string())?;
            let secured = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
            stream = Box::new(secured.map_err(|error| error.to_string())?);
        }
        client::connect(stream).await.map_err(|error| error.to_string())
    }
}

/// Whether an endpoint is spoken to with TLS.
fn is_secure(endpoint: &str, prefers_tls: bool) -> bool {
    match endpoint.split_once("://") {
        Some((scheme, _)) => matches!(scheme, "https" | "unixs"),
        None => prefers_tls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_say_whether_tls_is_spoken_and_flags_where_there_is_none() {
        for (endpoint, with, without) in [
            ("https://a:1", true, true),
            ("unixs://a:1", true, true),
            ("http://a:1", false, false),
            ("unix://a:1", false, false),
            ("a:1", true, false),
        ] {
            assert_eq!(is_secure(endpoint, true), with, "{endpoint}");
            assert_eq!(is_secure(endpoint, false), without, "{endpoint}");
        }
    }
}
