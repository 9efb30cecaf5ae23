//! Messages between JSON and protobuf.
//!
//! One idea: the descriptors that the build of `api` generates say everything; `prost-reflect` reads
//! and writes by them in protobuf's own JSON: names in camel case or as written, 64-bit integers as
//! text, bytes in base64 (with or without padding, of either alphabet), unknown fields and unknown
//! names of enums ignored, defaults left out.
//!
//! What it does not do: values nested deeper than serde_json (128) or prost (100) allow.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};
use varve_api::json::DESCRIPTORS;
use varve_api::method::{METHODS, Method};

use crate::grpc::status::{Code, Status};

/// How the messages of one method are written.
#[derive(Debug)]
pub struct Words {
    request: MessageDescriptor,
    response: MessageDescriptor,
}

/// By `Method::index`. Made when the first client asks.
static WORDS: LazyLock<Vec<Words>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build made the descriptors");
    METHODS.iter().map(|method| Words::find(&pool, method)).collect()
});

impl Words {
    /// Those of `method`.
    pub fn of(method: &Method) -> &'static Self {
        &WORDS[method.index]
    }

    fn find(pool: &DescriptorPool, method: &Method) -> Self {
        let service = pool.get_service_by_name(method.service);
        let service = service.expect("the method table is that of the protos");
        let found = service.methods().find(|found| found.name() == method.name);
        let found = found.expect("the method table is that of the protos");
        Self { request: found.input(), response: found.output() }
    }

    /// The protobuf of a request.
    ///
    /// # Errors
    /// `InvalidArgument`: it is no JSON, or not of this message.
    pub fn read(&self, json: &[u8]) -> Result<Vec<u8>, Status> {
        let mut json = serde_json::Deserializer::from_slice(json);
        let options = DeserializeOptions::new().deny_unknown_fields(false);
        let message =
            DynamicMessage::deserialize_with_options(self.request.clone(), &mut json, &options)
                .map_err(|error| Status::new(Code::InvalidArgument, format!("proto: {error}")))?;
        Ok(message.encode_to_vec())
    }

    /// The JSON of a response.
    ///
    /// # Errors
    /// `Internal`: it is nested too deep.
    pub fn write(&self, message: Bytes) -> Result<Vec<u8>, Status> {
        let failed = |error: &dyn std::fmt::Display| {
            let text = format!("the response cannot be written as JSON: {error}");
            Status::new(Code::Internal, text)
        };
        let message = DynamicMessage::decode(self.response.clone(), message)
            .map_err(|error| failed(&error))?;
        let options = SerializeOptions::new().use_proto_field_name(true);
        let mut json = serde_json::Serializer::new(Vec::new());
        message.serialize_with_options(&mut json, &options).map_err(|error| failed(&error))?;
        Ok(json.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use varve_api::etcdserverpb::{
        DefragmentResponse, LeaseTimeToLiveResponse, RangeRequest, ResponseHeader, StatusResponse,
    };
    use varve_api::method;

    use super::*;

    fn range(json: &str) -> Result<RangeRequest, Status> {
        let bytes = Words::of(&method::KV_RANGE).read(json.as_bytes())?;
        Ok(RangeRequest::decode(&*bytes).unwrap())
    }

    #[test]
    fn requests_are_read_in_every_spelling_that_protobuf_allows() {
        let plain =
            RangeRequest { key: "foo".into(), limit: 2, sort_order: 2, ..RangeRequest::default() };
        for json in [
            r#"{"key":"Zm9v","limit":"2","sort_order":"DESCEND"}"#,
            r#"{"key":"Zm9v","limit":2,"sortOrder":2}"#,
            r#"{"limit":2e0,"sort_order":2,"key":"Zm9v","range_end":null,"serializable":false}"#,
            r#"{"key":"Zm9v","limit":"2","sort_order":"DESCEND","sort_target":"NO","x":{"y":[1]}}"#,
        ] {
            assert_eq!(range(json), Ok(plain.clone()), "{json}");
        }
        let end = |json| range(json).unwrap().range_end;
        assert_eq!(end(r#"{"range_end":"_-8="}"#), &b"\xff\xef"[..]);
        assert_eq!(end(r#"{"rangeEnd":"/+8"}"#), &b"\xff\xef"[..]);
    }

    #[test]
    fn what_is_no_such_request_is_an_invalid_argument() {
        for json in [
            r#"{"key":5}"#,
            r#"{"key":"%%"}"#,
            r#"{"limit":"x"}"#,
            r#"{"limit":1.5}"#,
            r#"{"limit":9223372036854775808}"#,
            r#"{"serializable":"true"}"#,
            "[]",
            "null",
            r#"{"key":"Zm9v"#,
        ] {
            let status = range(json).unwrap_err();
            assert_eq!(status.code, Code::InvalidArgument, "{json}");
            assert!(status.message.starts_with("proto: "), "{json}: {status}");
        }
    }

    #[test]
    fn too_deep_a_request_is_refused() {
        let txn = |depth: usize| {
            let open = r#"{"success":[{"request_txn":"#.repeat(depth);
            Words::of(&method::KV_TXN).read(format!("{open}{{}}{}", "}]}".repeat(depth)).as_bytes())
        };
        assert!(txn(30).is_ok());
        assert_eq!(txn(10_000).unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn responses_have_etcds_names_and_leave_out_what_is_default() {
        let header = Some(ResponseHeader { cluster_id: u64::MAX, ..ResponseHeader::default() });
        let status = StatusResponse {
            header,
            version: "3.7.1".to_owned(),
            db_size: 20480,
            downgrade_info: Some(Default::default()),
            errors: vec!["NOSPACE".to_owned()],
            ..StatusResponse::default()
        };
        let time_to_live = LeaseTimeToLiveResponse {
            id: -5,
            ttl: -1,
            keys: vec!["foo".into(), Bytes::new()],
            ..LeaseTimeToLiveResponse::default()
        };
        let write = |method, message: Vec<u8>| {
            String::from_utf8(Words::of(method).write(message.into()).unwrap()).unwrap()
        };
        assert_eq!(
            write(&method::MAINTENANCE_STATUS, status.encode_to_vec()),
            concat!(
                r#"{"header":{"cluster_id":"18446744073709551615"},"version":"3.7.1","#,
                r#""dbSize":"20480","errors":["NOSPACE"],"downgradeInfo":{}}"#
            )
        );
        assert_eq!(
            write(&method::LEASE_TIME_TO_LIVE, time_to_live.encode_to_vec()),
            r#"{"ID":"-5","TTL":"-1","keys":["Zm9v",""]}"#
        );
        let nothing = DefragmentResponse::default().encode_to_vec();
        assert_eq!(write(&method::MAINTENANCE_DEFRAGMENT, nothing), "{}");
    }
}
