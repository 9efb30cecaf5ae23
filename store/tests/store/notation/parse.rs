//! From text to requests.

use std::iter::Peekable;
use std::vec::IntoIter;

use bytes::Bytes;
use varve_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use varve_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// Words, with brackets and semicolons as words of their own.
pub struct Words(Peekable<IntoIter<String>>);

impl Words {
    pub fn new(line: &str) -> Self {
        let spaced = line.replace('(', " ( ").replace(')', " ) ").replace(';', " ; ");
        let words: Vec<String> = spaced.split_whitespace().map(str::to_owned).collect();
        Self(words.into_iter().peekable())
    }

    pub fn next(&mut self) -> String {
        self.0.next().expect("a word")
    }

    fn next_if(&mut self, wanted: &str) -> bool {
        self.0.next_if(|word| word == wanted).is_some()
    }

    /// The next word, unless an operation ends here.
    pub fn option(&mut self) -> Option<String> {
        self.0.next_if(|word| word != ")" && word != ";")
    }

    pub fn number(&mut self) -> i64 {
        number(&self.next())
    }

    pub fn text(&mut self) -> Bytes {
        text(&self.next())
    }

    pub fn keys(&mut self) -> (Bytes, Bytes) {
        let word = self.next();
        match word.split_once("..") {
            Some((key, end)) => (text(key), text(end)),
            None => (text(&word), Bytes::new()),
        }
    }
}

pub fn number(word: &str) -> i64 {
    word.parse().unwrap_or_else(|_| panic!("a number, not {word}"))
}

fn text(word: &str) -> Bytes {
    match word {
        "''" => Bytes::new(),
        word => word.replace("\\0", "\0").into_bytes().into(),
    }
}

/// The operation that begins with `verb`; `None` if that is no operation.
pub fn operation(verb: &str, words: &mut Words) -> Option<Option<Request>> {
    Some(match verb {
        "put" => Some(Request::RequestPut(put(words))),
        "del" => Some(Request::RequestDeleteRange(delete(words))),
        "get" => Some(Request::RequestRange(range(words))),
        "txn" => Some(Request::RequestTxn(txn(words))),
        "nothing" => None,
        _ => return None,
    })
}

fn put(words: &mut Words) -> PutRequest {
    let mut request =
        PutRequest { key: words.text(), value: words.text(), ..PutRequest::default() };
    while let Some(option) = words.option() {
        match option.split_once('=').unwrap_or((&option, "")) {
            ("lease", id) => request.lease = number(id),
            ("prev", _) => request.prev_kv = true,
            ("ignore_value", _) => request.ignore_value = true,
            ("ignore_lease", _) => request.ignore_lease = true,
            other => panic!("an option of put, not {other:?}"),
        }
    }
    request
}

fn delete(words: &mut Words) -> DeleteRangeRequest {
    let (key, range_end) = words.keys();
    let prev_kv = words.option().is_some_and(|option| {
        assert_eq!(option, "prev");
        true
    });
    DeleteRangeRequest { key, range_end, prev_kv }
}

pub fn range(words: &mut Words) -> RangeRequest {
    let (key, range_end) = words.keys();
    let mut request = RangeRequest { key, range_end, ..RangeRequest::default() };
    while let Some(option) = words.option() {
        match option.split_once('=').unwrap_or((&option, "")) {
            ("rev", revision) => request.revision = number(revision),
            ("limit", limit) => request.limit = number(limit),
            ("keys", _) => request.keys_only = true,
            ("count", _) => request.count_only = true,
            ("serializable", _) => request.serializable = true,
            ("sort", "unknown") => request.sort_target = 99,
            ("sort", target) => request.sort_target = sort_target(target) as i32,
            ("order", "asc") => request.sort_order = SortOrder::Ascend as i32,
            ("order", "desc") => request.sort_order = SortOrder::Descend as i32,
            ("order", "unknown") => request.sort_order = 99,
            ("min_mod", revision) => request.min_mod_revision = number(revision),
            ("max_mod", revision) => request.max_mod_revision = number(revision),
            ("min_create", revision) => request.min_create_revision = number(revision),
            ("max_create", revision) => request.max_create_revision = number(revision),
            other => panic!("an option of get, not {other:?}"),
        }
    }
    request
}

fn sort_target(name: &str) -> SortTarget {
    SortTarget::from_str_name(&name.to_uppercase()).expect("a target")
}

fn txn(words: &mut Words) -> TxnRequest {
    let mut request = TxnRequest::default();
    if words.next_if("if") {
        request.compare = list(words, guard);
    }
    if words.next_if("then") {
        request.success = list(words, request_op);
    }
    if words.next_if("else") {
        request.failure = list(words, request_op);
    }
    request
}

fn list<T>(words: &mut Words, item: impl Fn(&mut Words) -> T) -> Vec<T> {
    assert_eq!(words.next(), "(");
    let mut items = Vec::new();
    while !words.next_if(")") {
        items.push(item(words));
        words.next_if(";");
    }
    items
}

fn request_op(words: &mut Words) -> RequestOp {
    let verb = words.next();
    RequestOp { request: operation(&verb, words).unwrap_or_else(|| panic!("no operation {verb}")) }
}

fn guard(words: &mut Words) -> Compare {
    let target = words.next();
    let (key, range_end) = words.keys();
    let result = match words.next().as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        "<" => CompareResult::Less,
        ">" => CompareResult::Greater,
        other => panic!("a relation, not {other}"),
    };
    let operand = words.next();
    let (target, union) = match target.as_str() {
        "version" => (CompareTarget::Version, TargetUnion::Version(number(&operand))),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(&operand))),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(&operand))),
        "value" => (CompareTarget::Value, TargetUnion::Value(text(&operand))),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(&operand))),
        other => panic!("a target, not {other}"),
    };
    Compare {
        result: result as i32,
        target: target as i32,
        key,
        range_end,
        target_union: Some(union),
    }
}
