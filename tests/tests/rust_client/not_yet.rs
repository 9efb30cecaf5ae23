//! What is not supported yet says so, and nothing else does.

use varve_api::method::{Kind, METHODS, Method};
use varve_tests::grpc_client::Client;
use varve_tests::not_yet::is_not_yet;
use varve_tests::process::Program;

use crate::session::{Answer, Anything, Session, run};

async fn is_unimplemented(client: &Client, method: &Method) -> bool {
    let answer: Answer<Anything> = client.unary(method, Anything {}).await;
    answer.is_err_and(|status| status.code() == tonic::Code::Unimplemented)
}

/// For a case that needs these methods: true, after it was asserted that varve refuses them all,
/// if they are in the table. The case is left out then. An etcd under test has them.
pub async fn is_left_out(client: &Client, methods: &[Method]) -> bool {
    if !methods.iter().all(is_not_yet) || !Program::varve().is_varve() {
        return false;
    }
    for method in methods {
        let found = is_unimplemented(client, method).await;
        assert!(found, "{} answers: take it out of tests/src/not_yet.rs", method.path);
    }
    println!("NOT SUPPORTED YET: {}", methods[0].service);
    true
}

#[test]
fn the_methods_that_are_not_supported_yet_are_those_in_the_table() {
    if !Program::varve().is_varve() {
        return;
    }
    run(async {
        let session = Session::start(&[]);
        // Streams that are there would wait for more than an empty request.
        let asked =
            METHODS.iter().filter(|method| is_not_yet(method) || method.kind == Kind::Unary);
        let mut wrong = Vec::new();
        for method in asked {
            if is_unimplemented(&session.client, method).await != is_not_yet(method) {
                wrong.push(method.path);
            }
        }
        assert!(wrong.is_empty(), "tests/src/not_yet.rs is wrong about {wrong:?}");
    });
}
