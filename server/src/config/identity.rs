//! Member ids and cluster ids, computed as etcd computes them.
//!
//! One idea: every member derives the same ids from the same flags, so nothing has to be agreed on
//! before the first election. A member id is the first eight bytes (big-endian) of the SHA-1 of
//! its sorted peer URLs, the cluster token and, for members added later, the time; the cluster id
//! is the same over the founders' ids in ascending order. SHA-1 is a name here, not a protection.

use sha1::{Digest, Sha1};

use super::url::Url;

/// The id of a member with these peer URLs. `added_at_seconds` (Unix time) is given for members
/// that join a running cluster, so that a re-added URL gets a new id.
pub fn member_id(peer_urls: &[Url], cluster_token: &str, added_at_seconds: Option<u64>) -> u64 {
    let texts: Vec<&str> = peer_urls.iter().map(Url::as_str).collect();
    member_id_of_texts(&texts, cluster_token, added_at_seconds)
}

/// As [`member_id`], for URLs that came as text in a request.
pub fn member_id_of_texts(
    peer_urls: &[&str],
    cluster_token: &str,
    added_at_seconds: Option<u64>,
) -> u64 {
    let mut texts = peer_urls.to_vec();
    texts.sort_unstable();
    let mut hash = Sha1::new();
    for text in texts {
        hash.update(text);
    }
    hash.update(cluster_token);
    if let Some(seconds) = added_at_seconds {
        hash.update(seconds.to_string());
    }
    first_eight_bytes(hash)
}

/// The id of the cluster that these members found.
pub fn cluster_id(member_ids: impl IntoIterator<Item = u64>) -> u64 {
    let mut ids: Vec<u64> = member_ids.into_iter().collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_eight_bytes(hash)
}

fn first_eight_bytes(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::url::parse_list;

    fn id(urls: &str, token: &str) -> u64 {
        member_id(&parse_list(urls).unwrap(), token, None)
    }

    #[test]
    fn the_default_member_has_the_ids_everyone_knows() {
        let member = id("http://localhost:2380", "etcd-cluster");
        assert_eq!(member, 0x8e9e_05c5_2164_694d);
        assert_eq!(cluster_id([member]), 0xcdf8_1819_4e3a_8c32);
    }

    /// Taken from three members of etcd 3.7.1 started with these flags.
    #[test]
    fn three_members_have_the_ids_that_etcd_gives_them() {
        let ids: Vec<u64> = (1..=3)
            .map(|number| id(&format!("http://127.0.0.1:2420{number}"), "my-token"))
            .collect();
        assert_eq!(ids, [0xcddf_5678_e2f9_d0be, 0xb41a_e005_06d6_68e2, 0x8c3b_4d27_b0b6_c3d2]);
        assert_eq!(cluster_id(ids), 0xed06_0066_b316_9f89);
    }

    #[test]
    fn the_order_of_urls_and_members_does_not_matter() {
        assert_eq!(id("http://b:1,http://a:1", "t"), id("http://a:1,http://b:1", "t"));
        assert_eq!(cluster_id([3, 1, 2]), cluster_id([1, 2, 3]));
    }

    #[test]
    fn token_and_time_change_the_id() {
        let urls = parse_list("http://a:1").unwrap();
        let ids = [
            member_id(&urls, "t", None),
            member_id(&urls, "u", None),
            member_id(&urls, "t", Some(1)),
            member_id(&urls, "t", Some(2)),
        ];
        for (position, one) in ids.iter().enumerate() {
            assert!(!ids[position + 1..].contains(one));
        }
    }
}
