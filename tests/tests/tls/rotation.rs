//! Files replaced under a running server: the next handshake sees them, open connections do not
//! notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use varve_tests::certificates::{Authority, CLIENT, SERVER, Wanted, put};
use varve_tests::grpc_client::Client;
use varve_tests::process::{free_port, skip_or_fail};

use crate::{
    CALL_TIMEOUT, Curl, Files, block_on, client_tls, put_key, start, start_made, strings, text,
    value_of,
};

/// How long new files may take to count.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn certificates_and_authorities_are_replaced_under_load_and_no_request_fails() {
    let rounds: u64 = std::env::var("VARVE_TLS_ROTATIONS")
        .map_or(5, |text| text.parse().expect("VARVE_TLS_ROTATIONS is a number"));
    let files = Files::new();
    let server = start(&files.flags_with_clients());
    let address = server.client_address();
    block_on(async {
        let (stop, puts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let loads = (0..4).map(|number| {
            let client = files.client(&address, Some(&files.authority.sign(&CLIENT)));
            let (stop, puts) = (Arc::clone(&stop), Arc::clone(&puts));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    put_key(&client, &format!("load/{number}"), "v").await?;
                    puts.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), tonic::Status>(())
            })
        });
        let loads: Vec<_> = loads.collect();
        // A channel connects with its first call; the connections are to be open before.
        while puts.load(Ordering::Relaxed) < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut slowest = Duration::ZERO;
        let mut before = None;
        for round in 1..=rounds {
            let authority = Authority::new(&format!("authority {round}"));
            put(&files.directory, "ca.crt", authority.pem().as_bytes());
            authority.sign(&SERVER).write(&files.directory, "server");
            let pair = authority.sign(&CLIENT);
            let replaced = Instant::now();
            let seen = loop {
                let tls = client_tls(&authority, Some(&pair));
                let client = Client::over_tls(&address, CALL_TIMEOUT, tls);
                match put_key(&client, "new", &round.to_string()).await {
                    Ok(()) => break client,
                    Err(error) => {
                        assert!(replaced.elapsed() < SEEN_WITHIN, "round {round}: {error:?}");
                    }
                }
            };
            slowest = slowest.max(replaced.elapsed());
            // Whom the authority of the round before has signed is nobody now.
            if let Some((authority, pair)) = before.replace((authority, pair)) {
                let tls = client_tls(&authority, Some(&pair));
                let old = Client::over_tls(&address, CALL_TIMEOUT, tls);
                put_key(&old, "new", "old").await.expect_err("an authority that was replaced");
            }
            assert_eq!(value_of(&seen, "new").await.expect("it is open"), round.to_string());
        }
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            load.await.expect("no panic").expect("no request on an open connection fails");
        }
        let puts = puts.load(Ordering::Relaxed);
        assert!(puts > 0);
        println!(
            "{rounds} rotations, {puts} puts on 4 connections, 0 failed; a new certificate \
                  was seen after {slowest:?} at the most"
        );
    });
    assert!(server.wait_for_log("reloaded TLS files", CALL_TIMEOUT), "{}", server.log());
}

#[test]
fn a_client_is_refused_as_soon_as_it_is_on_the_list() {
    let files = Files::new();
    let list = put(&files.directory, "revoked.crl", &files.authority.revoke(&[]));
    let mut flags = files.flags_with_clients();
    flags.extend(strings(&["--client-crl-file", &text(&list)]));
    let server = start(&flags);
    let pair = files.authority.sign(&Wanted { serial: 777, ..CLIENT });
    block_on(async {
        let open = files.client(&server.client_address(), Some(&pair));
        put_key(&open, "a", "1").await.expect("not revoked yet");
        put(&files.directory, "revoked.crl", &files.authority.revoke(&[777]));
        let new = files.client(&server.client_address(), Some(&pair));
        put_key(&new, "a", "2").await.expect_err("revoked");
        // Half a list changes nothing: it is still refused, others are still welcome.
        let half = &files.authority.revoke(&[1, 2, 3])[..60];
        put(&files.directory, "revoked.crl", half);
        let new = files.client(&server.client_address(), Some(&pair));
        put_key(&new, "a", "3").await.expect_err("revoked");
        let other = files.client(&server.client_address(), Some(&files.authority.sign(&CLIENT)));
        assert_eq!(value_of(&other, "a").await.expect("not revoked"), "1");
        put_key(&open, "a", "4").await.expect("what is open stays open");
    });
    assert!(server.wait_for_log("cannot use changed TLS files", CALL_TIMEOUT), "{}", server.log());
}

/// One list each for clients and members, replaced under the running server.
#[test]
fn who_is_on_a_new_list_is_refused_on_every_listener() {
    let Some(curl) = Curl::find() else { return skip_or_fail("curl") };
    let files = Files::new();
    let list = text(&put(&files.directory, "revoked.crl", &files.authority.revoke(&[])));
    let (http, metrics) = (free_port(), free_port());
    let server = start_made(|options| {
        let client = format!("https://127.0.0.1:{}", options.client_port);
        let peer = format!("https://127.0.0.1:{}", options.peer_port);
        let mut flags = files.flags_with_clients();
        flags.extend(strings(&[
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]));
        flags.extend(strings(&[
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]));
        flags.extend(strings(&["--initial-cluster", &format!("{}={peer}", options.name)]));
        flags.extend(strings(&["--peer-cert-file", &files.cert, "--peer-key-file", &files.key]));
        flags.extend(strings(&["--peer-client-cert-auth", "--peer-trusted-ca-file", &files.ca]));
        flags.extend(strings(&["--client-crl-file", &list, "--peer-crl-file", &list]));
        flags.extend(strings(&["--listen-client-http-urls", &format!("https://127.0.0.1:{http}")]));
        flags.extend(strings(&["--listen-metrics-urls", &format!("https://127.0.0.1:{metrics}")]));
        flags
    });
    let peer = server.options().peer_port;
    let pair = files.authority.sign(&Wanted { serial: 778, ..CLIENT });
    let as_client = || {
        block_on(async {
            put_key(&files.client(&server.client_address(), Some(&pair)), "a", "1").await
        })
    };
    as_client().expect("not revoked yet");
    for port in [http, metrics] {
        assert_eq!(curl.health(&files, port, Some(&pair)), "200", "{port}");
    }
    // Members speak no HTTP; what became of a certificate is in the log.
    curl.health(&files, peer, Some(&pair));
    assert!(!server.log().contains("Revoked"), "{}", server.log());
    put(&files.directory, "revoked.crl", &files.authority.revoke(&[778]));
    curl.health(&files, peer, Some(&pair));
    assert!(server.wait_for_log("Revoked", CALL_TIMEOUT), "{}", server.log());
    as_client().expect_err("revoked");
    for port in [http, metrics] {
        assert_eq!(curl.health(&files, port, Some(&pair)), "000", "{port}");
    }
}

#[test]
fn a_certificate_whose_key_is_not_there_yet_changes_nothing() {
    let files = Files::new();
    let server = start(&files.flags());
    let new = files.authority.sign(&SERVER);
    put(&files.directory, "server.crt", new.certificate.as_bytes());
    block_on(async {
        put_key(&files.client(&server.client_address(), None), "a", "1")
            .await
            .expect("the old pair");
    });
    assert!(server.wait_for_log("cannot use changed TLS files", CALL_TIMEOUT), "{}", server.log());
    put(&files.directory, "server.key", new.key.as_bytes());
    block_on(async {
        put_key(&files.client(&server.client_address(), None), "a", "2")
            .await
            .expect("the new pair");
    });
    assert!(server.wait_for_log("reloaded TLS files", CALL_TIMEOUT), "{}", server.log());
}
