//! `etcdserverpb.KV`: Range, RangeStream, Put, DeleteRange, Txn, Compact.
//!
//! A write's bytes go to the log as they came from the client; they are decoded here only to be
//! checked. A read of one key is answered on the socket thread if its value is in memory; anything
//! that may be long or wait for the disk goes to the read pool, there it is also encoded.

use bytes::Bytes;
use tokio::time::Instant;
use varve_api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest,
    RangeResponse, TxnRequest, TxnResponse,
    range_request::{SortOrder, SortTarget},
    request_op,
};
use varve_api::{Status, error, method};
use varve_store::{Auth, Author, CommandKind, Reply, TxnDecodeError, View, quota, validate};

use crate::grpc::{Encoded, Outgoing, RequestMeta, Router, decode, not_unmarshalled};
use crate::limits;
use crate::services::Services;
use crate::trace::attributes;

/// Registers the service.
pub fn register(router: &mut Router, services: &Services) {
    let s = services.clone();
    router.unary_raw(&method::KV_RANGE, move |meta, body| range(s.clone(), meta, body));
    let s = services.clone();
    router.server_stream(&method::KV_RANGE_STREAM, move |meta, request, outgoing| {
        range_stream(s.clone(), meta, request, outgoing)
    });
    let s = services.clone();
    router.unary_raw(&method::KV_PUT, move |meta, body| put(s.clone(), meta, body));
    let s = services.clone();
    router
        .unary_raw(&method::KV_DELETE_RANGE, move |meta, body| delete_range(s.clone(), meta, body));
    let s = services.clone();
    router.unary_raw(&method::KV_TXN, move |meta, body| txn(s.clone(), meta, body));
    let s = services.clone();
    router.unary_raw(&method::KV_COMPACT, move |meta, body| compact(s.clone(), meta, body));
}

/// Answers a range; `body` is the request encoded. So in the other calls.
///
/// # Errors
/// etcd's, also in the other calls.
pub async fn range(services: Services, meta: RequestMeta, body: Bytes) -> Result<Encoded, Status> {
    let request: RangeRequest = decode(body)?;
    if services.cluster.is_learner() && !request.serializable {
        return Err(error::NOT_SUPPORTED_FOR_LEARNER.into());
    }
    validate::range(&request)?;
    let _span = meta.trace().enter("range", || attributes::range(&request));
    services.metrics.ranges.inc();
    let began = Instant::now();
    let outcome = read(&services, &meta, request).await;
    services.requests.took("Range", outcome.is_ok(), began.elapsed());
    outcome
}

async fn read(
    services: &Services,
    meta: &RequestMeta,
    request: RangeRequest,
) -> Result<Encoded, Status> {
    if !request.serializable {
        services.read_barrier().await?;
    }
    let author = services.author(meta).await?;
    if !may_be_long(&request) {
        let author = author.as_ref();
        let may = |auth: &Auth| auth.may_range(author, &request);
        let began = Instant::now();
        let found = services.view.judged(may, || services.view.range_of_residents(&request));
        if !matches!(found, Ok(None)) {
            services.requests.ranges().took(found.is_ok(), began.elapsed());
        }
        if let Some(mut response) = found? {
            services.complete(&mut response.header);
            return Encoded::bounded(&response);
        }
    }
    let (view, cluster) = (services.view.clone(), services.cluster.clone());
    let ranges = services.requests.ranges().clone();
    services
        .read_pool
        .run(move || {
            let began = Instant::now();
            let found = range_as(&view, author.as_ref(), &request);
            ranges.took(found.is_ok(), began.elapsed());
            let mut response = found?;
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            response.header = Some(cluster.header(revision));
            Encoded::bounded(&response)
        })
        .await?
}

fn range_as(
    view: &View,
    author: Option<&Author>,
    request: &RangeRequest,
) -> Result<RangeResponse, Status> {
    view.judged(|auth| auth.may_range(author, request), || view.range(request))
}

/// Whether a read may touch more than a few entries. A limit bounds what is read only if the first
/// keys are wanted as they come.
fn may_be_long(request: &RangeRequest) -> bool {
    let is_sorted = request.sort_order != SortOrder::None as i32
        || request.sort_target != SortTarget::Key as i32;
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    let is_filtered = bounds.iter().any(|bound| *bound != 0);
    let is_limited = request.limit > 0 && request.limit <= limits::INLINE_RANGE_KEYS_MAX;
    let is_short = (is_limited || request.count_only) && !is_sorted && !is_filtered;
    !request.range_end.is_empty() && !is_short
}

async fn range_stream(
    services: Services,
    meta: RequestMeta,
    request: RangeRequest,
    outgoing: Outgoing,
) -> Result<(), Status> {
    validate::range_stream(&request)?;
    let _span = meta.trace().enter("range_streaming", || attributes::range_stream(&request));
    if !request.serializable {
        services.read_barrier().await?;
    }
    let author = services.author(&meta).await?;
    let (author, asked) = (author.as_ref(), request.clone());
    let mut chunks = services.view.range_stream(request, services.limits.request_bytes_max)?;
    loop {
        let (rest, chunk) = services
            .read_pool
            .run(move || {
                let chunk = chunks.next();
                (chunks, chunk)
            })
            .await?;
        chunks = rest;
        let Some(chunk) = chunk else { return Ok(()) };
        // Each chunk is read at its own time: permitted then, and sent only if it still is.
        let may = |auth: &Auth| auth.may_range(author, &asked);
        let mut chunk: RangeResponse = services.view.judged(may, || chunk)?;
        if chunk.header.is_some() {
            services.complete(&mut chunk.header);
        }
        let response = varve_api::etcdserverpb::RangeStreamResponse { range_response: Some(chunk) };
        if outgoing.send(Encoded::message(&response)).await.is_err() {
            return Ok(());
        }
    }
}

/// Puts a key.
pub async fn put(services: Services, meta: RequestMeta, body: Bytes) -> Result<Encoded, Status> {
    let request: PutRequest = decode(body.clone())?;
    services.admit_growth(quota::put_bytes(&request)).await?;
    validate::put(&request)?;
    let _span = meta.trace().enter("put", || attributes::put(&request));
    match services.propose_for(&meta, CommandKind::Put, body).await? {
        Reply::Put(mut response) => {
            services.complete(&mut response.header);
            Encoded::bounded(&response)
        }
        other => Err(unexpected(&other)),
    }
}

/// Deletes a range.
pub async fn delete_range(
    services: Services,
    meta: RequestMeta,
    body: Bytes,
) -> Result<Encoded, Status> {
    let request: DeleteRangeRequest = decode(body.clone())?;
    Encoded::bounded(&delete(&services, &meta, &request, body).await?)
}

/// A deletion for a caller; `body` is the request encoded.
pub async fn delete(
    services: &Services,
    meta: &RequestMeta,
    request: &DeleteRangeRequest,
    body: Bytes,
) -> Result<DeleteRangeResponse, Status> {
    validate::delete_range(request)?;
    let _span = meta.trace().enter("delete_range", || attributes::delete_range(request));
    match services.propose_for(meta, CommandKind::DeleteRange, body).await? {
        Reply::DeleteRange(mut response) => {
            services.complete(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// Reads, or writes, if its comparisons hold.
pub async fn txn(services: Services, meta: RequestMeta, body: Bytes) -> Result<Encoded, Status> {
    let request = decode_txn(body.clone())?;
    if !validate::is_read_only(&request) {
        return Encoded::bounded(&write_txn(&services, &meta, &request, body).await?);
    }
    validate::txn(&request, services.limits.txn_ops_max)?;
    let _span = meta.trace().enter("txn", || attributes::txn(&request));
    let began = Instant::now();
    let outcome = read_txn(&services, &meta, request).await;
    services.requests.took("ReadonlyTxn", outcome.is_ok(), began.elapsed());
    outcome
}

async fn read_txn(
    services: &Services,
    meta: &RequestMeta,
    request: TxnRequest,
) -> Result<Encoded, Status> {
    if !validate::is_serializable(&request) {
        services.read_barrier().await?;
    }
    let author = services.author(meta).await?;
    if !request_ops(&request).any(may_be_long) {
        let author = author.as_ref();
        let may = |auth: &Auth| auth.may_read_txn(author, &request);
        let found = services.view.judged(may, || services.view.txn_of_residents(&request))?;
        if let Some(mut response) = found {
            services.complete(&mut response.header);
            return Encoded::bounded(&response);
        }
    }
    let (view, cluster) = (services.view.clone(), services.cluster.clone());
    let read = move || {
        let author = author.as_ref();
        let may = |auth: &Auth| auth.may_read_txn(author, &request);
        let mut response = view.judged(may, || view.txn(&request))?;
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        response.header = Some(cluster.header(revision));
        Encoded::bounded(&response)
    };
    services.read_pool.run(read).await?
}

fn decode_txn(body: Bytes) -> Result<TxnRequest, Status> {
    varve_store::decode_txn(body).map_err(|error| match error {
        TxnDecodeError::Malformed(error) => not_unmarshalled(&error),
        TxnDecodeError::TooDeep => error.into(),
    })
}

/// A transaction that goes through the log, for a caller; `body` is the request encoded.
pub async fn write_txn(
    services: &Services,
    meta: &RequestMeta,
    request: &TxnRequest,
    body: Bytes,
) -> Result<TxnResponse, Status> {
    services.admit_growth(quota::txn_bytes(request)).await?;
    validate::txn(request, services.limits.txn_ops_max)?;
    let _span = meta.trace().enter("txn", || attributes::txn(request));
    match services.propose_for(meta, CommandKind::Txn, body).await? {
        Reply::Txn(mut response) => {
            services.complete(&mut response.header);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// A short linearizable read for a caller.
pub async fn read_range(
    services: &Services,
    meta: &RequestMeta,
    request: &RangeRequest,
) -> Result<RangeResponse, Status> {
    validate::range(request)?;
    let _span = meta.trace().enter("range", || attributes::range(request));
    services.read_barrier().await?;
    let author = services.author(meta).await?;
    let mut response = range_as(&services.view, author.as_ref(), request)?;
    services.complete(&mut response.header);
    Ok(response)
}

/// The ranges of a read-only transaction, both branches.
fn request_ops(request: &TxnRequest) -> impl Iterator<Item = &RangeRequest> {
    request.success.iter().chain(&request.failure).filter_map(|op| match &op.request {
        Some(request_op::Request::RequestRange(range)) => Some(range),
        _ => None,
    })
}

/// Forgets history.
pub async fn compact(
    services: Services,
    meta: RequestMeta,
    body: Bytes,
) -> Result<Encoded, Status> {
    let request: CompactionRequest = decode(body.clone())?;
    let _span = meta.trace().enter("compact", || attributes::compact(&request));
    match services.propose_for(&meta, CommandKind::Compact, body).await? {
        Reply::Compact(mut response) => {
            if request.physical {
                services.wait_for_background().await;
            }
            services.complete(&mut response.header);
            Encoded::bounded(&response)
        }
        other => Err(unexpected(&other)),
    }
}

/// The state machine answers every command with its own kind of reply.
pub fn unexpected(reply: &Reply) -> Status {
    Status::new(varve_api::Code::Internal, format!("a reply of another kind: {reply:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_short_only_if_it_stops_at_its_limit() {
        let all = RangeRequest { range_end: Bytes::from_static(&[0]), ..RangeRequest::default() };
        let few = RangeRequest { limit: 1, ..all.clone() };
        let short = [
            RangeRequest::default(),
            RangeRequest { count_only: true, ..all.clone() },
            few.clone(),
        ];
        assert!(!short.iter().any(may_be_long));
        let long = [
            all.clone(),
            RangeRequest { limit: limits::INLINE_RANGE_KEYS_MAX + 1, ..all },
            RangeRequest { sort_order: SortOrder::Descend as i32, ..few.clone() },
            RangeRequest { sort_target: SortTarget::Create as i32, ..few.clone() },
            RangeRequest { min_mod_revision: 9, ..few.clone() },
            RangeRequest { max_create_revision: 9, count_only: true, ..few },
        ];
        assert!(long.iter().all(may_be_long));
    }
}
