//! The generated code and the method table say what `proto/*.proto` says.
//!
//! `VARVE_BLESS=1 cargo test -p varve-api --test codegen` writes `src/generated/` anew. The
//! compiler is protox, in Rust: no protoc is needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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
