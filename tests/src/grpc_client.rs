//! A small etcd client for load and checkers: our own messages over tonic's channel.
//!
//! One idea: it does exactly one attempt per call and tells how it ended. A checker must know
//! which writes were acknowledged, and a client that retries on its own would blur that. Tests of
//! compatibility use etcd's clients instead.

use std::time::Duration;

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic_prost::ProstCodec;
use varve_api::etcdserverpb::watch_request::RequestUnion;
use varve_api::etcdserverpb::{
    PutRequest, PutResponse, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use varve_api::method::{self, Kind, Method};

/// A connection to one server.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// A client of the server at `host:port`; connects when it is first used. Calls end after
    /// `timeout`.
    ///
    /// # Panics
    /// If the address is not one.
    pub fn new(address: &str, timeout: Duration) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .expect("an address")
            .connect_timeout(timeout)
            .timeout(timeout)
            .tcp_nodelay(true);
        Client { channel: endpoint.connect_lazy() }
    }

    /// As [`Client::new`], over TLS.
    ///
    /// # Panics
    /// If the address or the certificates are none.
    pub fn over_tls(address: &str, timeout: Duration, tls: ClientTlsConfig) -> Client {
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .expect("an address")
            .tls_config(tls)
            .expect("certificates")
            .connect_timeout(timeout)
            .timeout(timeout)
            .tcp_nodelay(true);
        Client { channel: endpoint.connect_lazy() }
    }

    /// One attempt at a put.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, tonic::Status> {
        self.unary(&method::KV_PUT, request).await
    }

    /// One attempt at a range.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, tonic::Status> {
        self.unary(&method::KV_RANGE, request).await
    }

    /// One attempt at any unary call.
    pub async fn unary<Req, Resp>(
        &self,
        method: &Method,
        request: Req,
    ) -> Result<Resp, tonic::Status>
    where
        Req: Message + Send + Sync + 'static,
        Resp: Message + Default + Send + Sync + 'static,
    {
        self.unary_with(method, tonic::Request::new(request)).await
    }

    /// One attempt at any unary call, with metadata or a deadline of its own.
    pub async fn unary_with<Req, Resp>(
        &self,
        method: &Method,
        request: tonic::Request<Req>,
    ) -> Result<Resp, tonic::Status>
    where
        Req: Message + Send + Sync + 'static,
        Resp: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc().await?;
        let codec: ProstCodec<Req, Resp> = ProstCodec::default();
        let path = PathAndQuery::from_static(method.path);
        Ok(grpc.unary(request, path, codec).await?.into_inner())
    }

    /// One attempt at any unary call with a request that is encoded already; the answer's bytes.
    pub async fn unary_bytes(
        &self,
        method: &Method,
        request: tonic::Request<Vec<u8>>,
    ) -> Result<Vec<u8>, tonic::Status> {
        let path = PathAndQuery::from_static(method.path);
        Ok(self.grpc().await?.unary(request, path, BytesCodec).await?.into_inner())
    }

    /// Opens a stream with one request that is encoded already, and leaves it open.
    pub async fn stream_bytes(
        &self,
        method: &Method,
        request: tonic::Request<Vec<u8>>,
    ) -> Result<tonic::Streaming<Vec<u8>>, tonic::Status> {
        let path = PathAndQuery::from_static(method.path);
        let (metadata, extensions, body) = request.into_parts();
        let mut grpc = self.grpc().await?;
        let answer = if method.kind == Kind::ServerStream {
            let request = tonic::Request::from_parts(metadata, extensions, body);
            grpc.server_streaming(request, path, BytesCodec).await
        } else {
            let requests =
                tokio_stream::StreamExt::chain(tokio_stream::once(body), tokio_stream::pending());
            let request = tonic::Request::from_parts(metadata, extensions, requests);
            grpc.streaming(request, path, BytesCodec).await
        };
        Ok(answer?.into_inner())
    }

    /// Opens a watch stream with one watcher.
    pub async fn watch(
        &self,
        create: WatchCreateRequest,
    ) -> Result<tonic::Streaming<WatchResponse>, tonic::Status> {
        let mut grpc = self.grpc().await?;
        let first = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The stream of requests stays open as long as that of responses.
        let requests =
            tokio_stream::StreamExt::chain(tokio_stream::once(first), tokio_stream::pending());
        let codec: ProstCodec<WatchRequest, WatchResponse> = ProstCodec::default();
        let path = PathAndQuery::from_static(method::WATCH_WATCH.path);
        Ok(grpc.streaming(tonic::Request::new(requests), path, codec).await?.into_inner())
    }

    /// Opens a server stream.
    pub async fn server_stream<Req, Resp>(
        &self,
        method: &Method,
        request: Req,
    ) -> Result<tonic::Streaming<Resp>, tonic::Status>
    where
        Req: Message + Send + Sync + 'static,
        Resp: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc().await?;
        let codec: ProstCodec<Req, Resp> = ProstCodec::default();
        let path = PathAndQuery::from_static(method.path);
        Ok(grpc.server_streaming(tonic::Request::new(request), path, codec).await?.into_inner())
    }

    /// Opens a stream in both directions; it ends with `requests`.
    pub async fn bidi_stream<Req, Resp>(
        &self,
        method: &Method,
        requests: impl tokio_stream::Stream<Item = Req> + Send + 'static,
    ) -> Result<tonic::Streaming<Resp>, tonic::Status>
    where
        Req: Message + Send + Sync + 'static,
        Resp: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc().await?;
        let codec: ProstCodec<Req, Resp> = ProstCodec::default();
        let path = PathAndQuery::from_static(method.path);
        Ok(grpc.streaming(tonic::Request::new(requests), path, codec).await?.into_inner())
    }

    /// One HTTP/2 request as it is: any path, any headers, any bytes. For tests of what a server
    /// does with requests that no gRPC client sends.
    pub async fn raw(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> Result<http::Response<tonic::body::Body>, tonic::Status> {
        use tonic::client::GrpcService as _;
        let unavailable = |error: tonic::transport::Error| {
            tonic::Status::unavailable(format!("{error}: {:?}", std::error::Error::source(&error)))
        };
        let mut channel = self.channel.clone();
        std::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(unavailable)?;
        channel.call(request).await.map_err(unavailable)
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, tonic::Status> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }
}

/// Messages as they are, encoded.
#[derive(Clone, Copy, Debug)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, tonic::Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}
