//! A gRPC client that costs as little as possible: messages over an `h2` connection.
//!
//! One idea: client and server share the machine, so each microsecond here is taken from the
//! server. There is no channel, no balancing and no retry; a call is a stream of HTTP/2, five bytes
//! and a message. Responses can be counted without being decoded.
//!
//! What it does not do: TLS, compression, deadlines, reconnecting. A broken connection fails all
//! its calls.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method as HttpMethod, Request, Uri, header};
use prost::Message;
use varve_api::method::Method;

/// What a peer may send before it must wait: large, so that whole databases flow.
const WINDOW_BYTES: u32 = 8 << 20;
/// Largest HTTP/2 frame accepted.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// A flag byte and the length of the message.
const PREFIX_BYTES: usize = 5;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection or the stream broke.
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    /// The server answered with an error.
    #[error("status {code}: {message}")]
    Status {
        /// gRPC's code.
        code: String,
        /// The server's text.
        message: String,
    },
    /// The answer is not gRPC.
    #[error("expected {expected}, found {found}")]
    Malformed {
        /// What gRPC demands.
        expected: &'static str,
        /// What came.
        found: String,
    },
}

/// A connection to one server. Cheap to clone; calls of all clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    authority: String,
    token: Option<HeaderValue>,
}

/// A method at a server, prepared so that a call need not parse anything.
#[derive(Clone)]
pub struct Target {
    uri: Uri,
    headers: HeaderMap,
}

impl Connection {
    /// Connects. Must run within a tokio runtime, which drives the connection from then on.
    ///
    /// # Errors
    /// Nobody listens there, or it is no HTTP/2.
    pub async fn open(address: SocketAddr) -> Result<Self, Error> {
        let connect = |source| Error::Connect { address, source };
        let socket = tokio::net::TcpStream::connect(address).await.map_err(connect)?;
        socket.set_nodelay(true).map_err(connect)?;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .enable_push(false);
        let (sender, connection) = builder.handshake(socket).await?;
        // Its end is seen by the calls, which fail.
        tokio::spawn(async move { _ = connection.await });
        Ok(Self { sender, authority: address.to_string(), token: None })
    }

    /// The same connection for calls with this token.
    ///
    /// # Panics
    /// If it is none that a header can hold.
    pub fn with_token(mut self, token: Option<&str>) -> Self {
        self.token = token.map(|token| token.parse().expect("tokens are visible ASCII"));
        self
    }

    /// Prepares calls of a method.
    pub fn target(&self, method: &Method) -> Target {
        let uri = format!("http://{}{}", self.authority, method.path);
        let uri = uri.parse().expect("an address and a path of the table are a URI");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if let Some(token) = &self.token {
            headers.insert("token", token.clone());
        }
        Target { uri, headers }
    }

    /// One call of a method that is not called often.
    ///
    /// # Errors
    /// As [`Connection::unary`].
    pub async fn call<Resp: Message + Default>(
        &self,
        method: &Method,
        request: &impl Message,
    ) -> Result<Resp, Error> {
        self.unary(&self.target(method), request).await
    }

    /// One request, one response.
    ///
    /// # Errors
    /// The connection broke or the server refused.
    pub async fn unary<Resp: Message + Default>(
        &self,
        target: &Target,
        request: &impl Message,
    ) -> Result<Resp, Error> {
        let mut responses = self.begin(target, frame(request), true).await?.responses;
        let response = responses.message().await?.ok_or_else(missing)?;
        responses.end().await?;
        decode(response)
    }

    /// One request, any number of responses that are only counted: their bytes.
    ///
    /// # Errors
    /// As [`Connection::unary`].
    pub async fn discard(&self, target: &Target, request: Bytes) -> Result<u64, Error> {
        let mut responses = self.begin(target, request, true).await?.responses;
        responses.discard().await
    }

    /// Opens a stream with a first request; with `is_last` no other can follow.
    ///
    /// # Errors
    /// As [`Connection::unary`].
    pub async fn begin(
        &self,
        target: &Target,
        request: Bytes,
        is_last: bool,
    ) -> Result<Call, Error> {
        let mut head = Request::new(());
        *head.method_mut() = HttpMethod::POST;
        *head.uri_mut() = target.uri.clone();
        *head.headers_mut() = target.headers.clone();
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut requests) = sender.send_request(head, false)?;
        requests.send_data(request, is_last)?;
        let response = response.await?;
        if !response.status().is_success() {
            let found = response.status().to_string();
            return Err(Error::Malformed { expected: "HTTP status 200", found });
        }
        // Without a body the status is in the headers.
        check_status(response.headers(), false)?;
        let responses = Responses { body: response.into_body(), buffer: BytesMut::new() };
        Ok(Call { _requests: requests, responses })
    }
}

/// An open call; dropping it cancels it.
pub struct Call {
    /// Its being there keeps the requests' side open.
    _requests: SendStream<Bytes>,
    /// What the server sends.
    pub responses: Responses,
}

/// Responses of a call.
pub struct Responses {
    body: RecvStream,
    buffer: BytesMut,
}

impl Responses {
    /// The next message, not decoded; `None` at the end.
    ///
    /// # Errors
    /// The connection broke or the server ended the call with an error.
    pub async fn message(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some((_, length)) = prefix(&self.buffer)
                && self.buffer.len() >= PREFIX_BYTES + length
            {
                let mut message = self.buffer.split_to(PREFIX_BYTES + length).freeze();
                return Ok(Some(message.split_off(PREFIX_BYTES)));
            }
            match self.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => break,
            }
        }
        self.end().await?;
        match self.buffer.len() {
            0 => Ok(None),
            left => Err(Error::Malformed {
                expected: "a whole message",
                found: format!("{left} bytes of one"),
            }),
        }
    }

    /// Counts the bytes of all messages to the end of the call.
    async fn discard(&mut self) -> Result<u64, Error> {
        let mut bytes = 0;
        while let Some(chunk) = self.chunk().await? {
            bytes += chunk.len() as u64;
        }
        self.end().await?;
        Ok(bytes)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(chunk) = self.body.data().await.transpose()? else { return Ok(None) };
        self.body.flow_control().release_capacity(chunk.len())?;
        Ok(Some(chunk))
    }

    /// Reads the status at the end. What is left of the body is not expected and not read.
    async fn end(&mut self) -> Result<(), Error> {
        match self.body.trailers().await? {
            Some(trailers) => check_status(&trailers, true),
            None => Ok(()),
        }
    }
}

/// A message as gRPC sends it.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("requests are small"));
    message.encode(&mut out).expect("a buffer grows");
    out.freeze()
}

/// Decodes a message.
///
/// # Errors
/// It is not one.
pub fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Error> {
    M::decode(bytes).map_err(|error| Error::Malformed {
        expected: "a protobuf message",
        found: error.to_string(),
    })
}

fn missing() -> Error {
    Error::Malformed { expected: "a response", found: "the end of the call".to_owned() }
}

/// Flag byte and length of the message at the front.
fn prefix(buffer: &[u8]) -> Option<(u8, usize)> {
    let length = buffer.get(1..PREFIX_BYTES)?;
    let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
    Some((buffer[0], length as usize))
}

/// The status in trailers, where it must be, or in headers, where it may be.
fn check_status(headers: &HeaderMap, is_required: bool) -> Result<(), Error> {
    let text = |name: &str| {
        headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status") {
        Some(code) if code == "0" => Ok(()),
        Some(code) => {
            Err(Error::Status { code, message: text("grpc-message").unwrap_or_default() })
        }
        None if is_required => {
            Err(Error::Malformed { expected: "grpc-status", found: format!("{headers:?}") })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use varve_api::etcdserverpb::PutRequest;

    use super::*;

    #[test]
    fn a_framed_message_has_its_prefix() {
        let request = PutRequest { key: Bytes::from_static(b"a"), ..Default::default() };
        let framed = frame(&request);
        assert_eq!(&framed[..], b"\0\0\0\0\x03\x0a\x01a");
        assert_eq!(prefix(&framed), Some((0, 3)));
        assert_eq!(prefix(&framed[..4]), None);
        assert_eq!(decode::<PutRequest>(framed.slice(PREFIX_BYTES..)).unwrap(), request);
    }
}
