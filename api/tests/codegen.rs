//! The generated code and the method table say what `proto/*.proto` says.
//!
//! `VARVE_BLESS=1 cargo test -p varve-api --test codegen` writes `src/generated/` anew. The
//! compiler is protox, in Rust: no protoc is needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost::Message as _;
use varve_api::method::{Kind, METHODS};

fn manifest_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_in(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{} is readable: {error}", directory.display()))
        .map(|entry| entry.expect("the directory is readable").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

fn compile() -> prost_types::FileDescriptorSet {
    let proto = manifest_dir().join("proto");
    protox::compile(files_in(&proto, "proto"), [&proto]).expect("proto/*.proto compile")
}

#[test]
fn generated_code_is_what_the_protos_generate() {
    let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(fresh.path())
        .compile_fds(compile())
        .expect("the descriptors generate code");
    let committed = manifest_dir().join("src/generated");
    if std::env::var_os("VARVE_BLESS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(&committed).unwrap();
        for old in files_in(&committed, "rs") {
            std::fs::remove_file(old).unwrap();
        }
        for new in files_in(fresh.path(), "rs") {
            std::fs::copy(&new, committed.join(new.file_name().unwrap())).unwrap();
        }
    }
    let names = |directory: &Path| -> Vec<_> {
        files_in(directory, "rs").iter().map(|path| path.file_name().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&committed), names(fresh.path()), "rerun with VARVE_BLESS=1");
    for name in names(fresh.path()) {
        let same = std::fs::read_to_string(committed.join(&name)).unwrap()
            == std::fs::read_to_string(fresh.path().join(&name)).unwrap();
        assert!(same, "src/generated/{} is out of date; rerun with VARVE_BLESS=1", name.display());
    }
}

/// The descriptors that the gateway reads and writes JSON by. Names that Rust would mangle are
/// snake case in `proto/`, with etcd's name as `json_name`; here etcd's name is the field's.
fn descriptors_for_json() -> Vec<u8> {
    /// Number of `json_name` in `google.protobuf.FieldDescriptorProto`.
    const JSON_NAME: i32 = 10;
    let mut set = compile();
    for file in &mut set.file {
        let source = file.source_code_info.take().expect("protox tells where things stand");
        let said: BTreeSet<Vec<i32>> =
            source.location.into_iter().map(|location| location.path).collect();
        for (message_index, message) in (0..).zip(&mut file.message_type) {
            for (field_index, field) in (0..).zip(&mut message.field) {
                // 4: `FileDescriptorProto.message_type`; 2: `DescriptorProto.field`.
                if said.contains(&vec![4, message_index, 2, field_index, JSON_NAME]) {
                    field.name.clone_from(&field.json_name);
                }
                field.json_name = Some(camel_case(field.name()));
            }
        }
    }
    set.encode_to_vec()
}

/// As protoc makes a `json_name`: underscores go, and what follows them is upper case.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut joined, word| {
        let mut letters = word.chars();
        joined.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        joined.extend(letters);
        joined
    })
}

#[test]
fn descriptors_are_what_the_protos_describe() {
    let fresh = descriptors_for_json();
    let committed = manifest_dir().join("src/generated/descriptors.bin");
    if std::env::var_os("VARVE_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&committed, &fresh).unwrap();
    }
    let same = std::fs::read(&committed).unwrap() == fresh;
    assert!(same, "src/generated/descriptors.bin is out of date; rerun with VARVE_BLESS=1");
}

#[test]
fn fields_have_etcds_names_in_json() {
    let set = prost_types::FileDescriptorSet::decode(&*descriptors_for_json()).unwrap();
    let names: BTreeSet<_> = set
        .file
        .iter()
        .flat_map(|file| &file.message_type)
        .flat_map(|message| {
            let of = |field: &prost_types::FieldDescriptorProto| {
                (message.name().to_owned(), field.name().to_owned(), field.json_name().to_owned())
            };
            message.field.iter().map(of).collect::<Vec<_>>()
        })
        .collect();
    for (message, name, json_name) in [
        ("RangeRequest", "range_end", "rangeEnd"),
        ("AuthStatusResponse", "authRevision", "authRevision"),
        ("Member", "ID", "ID"),
        ("Member", "peerURLs", "peerURLs"),
        ("LeaseCheckpoint", "remaining_TTL", "remainingTTL"),
        ("StatusResponse", "dbSizeInUse", "dbSizeInUse"),
        ("ResponseHeader", "cluster_id", "clusterId"),
        ("Permission", "permType", "permType"),
    ] {
        let wanted = (message.to_owned(), name.to_owned(), json_name.to_owned());
        assert!(names.contains(&wanted), "{wanted:?}");
    }
}

#[test]
fn method_table_is_what_the_services_declare() {
    let mut declared = BTreeSet::new();
    for file in compile().file {
        for service in &file.service {
            for method in &service.method {
                let kind = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => Kind::Unary,
                    (false, true) => Kind::ServerStream,
                    (true, true) => Kind::BidiStream,
                    (true, false) => panic!("etcd has no calls that stream requests only"),
                };
                let service = format!("{}.{}", file.package(), service.name());
                let path = format!("/{service}/{}", method.name());
                declared.insert((path, service, method.name().to_owned(), kind));
            }
        }
    }
    let table: BTreeSet<_> = METHODS
        .iter()
        .map(|m| (m.path.to_owned(), m.service.to_owned(), m.name.to_owned(), m.kind))
        .collect();
    assert_eq!(table.len(), METHODS.len(), "a method is listed twice");
    assert_eq!(table, declared);
}
