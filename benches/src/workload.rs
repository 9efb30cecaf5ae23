//! What is written and read: keys as Kubernetes names them, values of realistic sizes.
//!
//! One idea: key and value are functions of a number. Both servers get the same bytes in the same
//! order, a reader can name any key that a writer wrote, and nothing is generated while time is
//! measured but a slice of a prepared buffer.
//!
//! Invariants: keys of different numbers differ; the same seed gives the same bytes on each run.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

/// Smallest value of a log-normal distribution, bytes.
const LOG_NORMAL_BYTES_MIN: usize = 300;
/// Largest value of a log-normal distribution, bytes.
const LOG_NORMAL_BYTES_MAX: usize = 8 << 10;
/// Median of a log-normal distribution, bytes: an ordinary object of Kubernetes.
const LOG_NORMAL_BYTES_MEDIAN: f64 = 1100.0;
/// Standard deviation of the logarithm of a size.
const LOG_NORMAL_SIGMA: f64 = 0.75;
/// Values are slices of a buffer of this size.
const POOL_BYTES: usize = 4 << 20;

/// Well-mixed bits of a number (splitmix64's finalizer).
pub fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Resources with their share of all objects in percent, and whether they have a namespace.
const RESOURCES: [(&str, u64, bool); 11] = [
    ("pods", 25, true),
    ("events", 25, true),
    ("replicasets", 10, true),
    ("endpointslices", 8, true),
    ("configmaps", 8, true),
    ("secrets", 7, true),
    ("leases", 5, true),
    ("serviceaccounts", 4, true),
    ("deployments", 4, true),
    ("services/specs", 3, true),
    ("minions", 1, false),
];

/// The prefix of all keys.
pub const PREFIX: &str = "/registry/";
/// The first key behind [`PREFIX`].
pub const PREFIX_END: &str = "/registry0";

/// The key of a number: `/registry/<resource>/<namespace>/<name>`, 40 to 70 bytes.
pub fn kubernetes_key(number: u64) -> String {
    let bits = mix(number);
    let mut share = bits % 100;
    let mut found = RESOURCES[0];
    for resource in RESOURCES {
        if share < resource.1 {
            found = resource;
            break;
        }
        share -= resource.1;
    }
    let (resource, _, is_namespaced) = found;
    // A few namespaces have most of the objects.
    let namespace = ((bits >> 8) % 40) * ((bits >> 16) % 40) / 8;
    let application = (bits >> 24) % 50;
    let template = bits >> 28 & 0xff_ffff_ffff;
    let name = format!("service-{application}-{template:010x}-{number:07x}");
    if is_namespaced {
        format!("{PREFIX}{resource}/namespace-{namespace:03}/{name}")
    } else {
        format!("{PREFIX}{resource}/{name}")
    }
}

/// How long values are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueSizes {
    /// All as long, in bytes.
    Fixed(usize),
    /// Log-normal between 300 B and 8 KiB, about 1.4 KiB in the mean: objects of Kubernetes.
    LogNormal,
}

impl ValueSizes {
    fn bytes(self, bits: u64) -> usize {
        match self {
            ValueSizes::Fixed(bytes) => bytes,
            ValueSizes::LogNormal => {
                let bytes = LOG_NORMAL_BYTES_MEDIAN * (LOG_NORMAL_SIGMA * normal(bits)).exp();
                (bytes as usize).clamp(LOG_NORMAL_BYTES_MIN, LOG_NORMAL_BYTES_MAX)
            }
        }
    }
}

impl fmt::Display for ValueSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueSizes::Fixed(bytes) => write!(f, "{bytes} B"),
            ValueSizes::LogNormal => f.write_str("0.3-8 KiB"),
        }
    }
}

impl FromStr for ValueSizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "log-normal" {
            return Ok(ValueSizes::LogNormal);
        }
        let bytes: usize = text.parse().map_err(|_| "expected bytes or log-normal".to_owned())?;
        if bytes > POOL_BYTES / 2 {
            return Err(format!("at most {} bytes", POOL_BYTES / 2));
        }
        Ok(ValueSizes::Fixed(bytes))
    }
}

/// A number of the standard normal distribution (Box-Muller).
fn normal(bits: u64) -> f64 {
    let unit = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let radius = (-2.0 * unit(mix(bits)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(mix(!bits))).cos()
}

/// In which order keys are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// 0, 1, 2, ... and again from 0.
    Sequential,
    /// Uniformly.
    Random,
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sequential" => Ok(Order::Sequential),
            "random" => Ok(Order::Random),
            _ => Err("expected sequential or random".to_owned()),
        }
    }
}

/// Keys and values of one run. Cheap to clone.
#[derive(Clone)]
pub struct Workload {
    /// Number of different keys.
    pub key_space: u64,
    /// In which order they are taken.
    pub order: Order,
    /// How long values are.
    pub value_sizes: ValueSizes,
    /// Another seed gives other values and another random order; keys stay.
    pub seed: u64,
    /// Random bytes: a server that compresses gains nothing.
    pool: Bytes,
}

impl Workload {
    /// Keys 0 to `key_space`, at least one.
    pub fn new(key_space: u64, order: Order, value_sizes: ValueSizes, seed: u64) -> Self {
        let words = (0..POOL_BYTES as u64 / 8).flat_map(|at| mix(seed ^ at << 20).to_le_bytes());
        let pool = Bytes::from(words.collect::<Vec<u8>>());
        Self { key_space: key_space.max(1), order, value_sizes, seed, pool }
    }

    /// The key of the `call`th call.
    pub fn key(&self, call: u64) -> Bytes {
        let number = match self.order {
            Order::Sequential => call,
            Order::Random => mix(self.seed ^ mix(call)),
        };
        Bytes::from(kubernetes_key(number % self.key_space))
    }

    /// The value of the `call`th call.
    pub fn value(&self, call: u64) -> Bytes {
        let bits = mix(self.seed.wrapping_add(call));
        let bytes = self.value_sizes.bytes(bits);
        let from = (bits % (self.pool.len() - bytes) as u64) as usize;
        self.pool.slice(from..from + bytes)
    }

    /// The same keys in another order.
    pub fn in_order(&self, order: Order) -> Arc<Self> {
        Arc::new(Self { order, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn shares_of_resources_add_up() {
        assert_eq!(RESOURCES.iter().map(|(_, share, _)| share).sum::<u64>(), 100);
    }

    #[test]
    fn keys_differ_and_stay_the_same() {
        let keys: BTreeSet<String> = (0..20_000).map(kubernetes_key).collect();
        assert_eq!(keys.len(), 20_000);
        assert!(keys.iter().all(|key| key.as_str() > PREFIX && key.as_str() < PREFIX_END));
        assert!(keys.iter().all(|key| (35..=75).contains(&key.len())));
        let key = "/registry/events/namespace-012/service-21-220a8397b1-0000000";
        assert_eq!(kubernetes_key(0).len(), key.len());
    }

    #[test]
    fn sizes_of_values_are_log_normal() {
        let workload = Workload::new(10, Order::Random, ValueSizes::LogNormal, 7);
        let mut sizes: Vec<usize> = (0..20_000).map(|call| workload.value(call).len()).collect();
        sizes.sort_unstable();
        let median = sizes[sizes.len() / 2];
        assert!((1000..1200).contains(&median), "median {median}");
        assert!(sizes[0] >= LOG_NORMAL_BYTES_MIN);
        assert!(sizes[sizes.len() - 1] <= LOG_NORMAL_BYTES_MAX);
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((1300..1600).contains(&mean), "mean {mean}");
    }

    #[test]
    fn a_sequential_order_takes_each_key_once() {
        let workload = Workload::new(50, Order::Sequential, ValueSizes::Fixed(16), 7);
        let keys: BTreeSet<Bytes> = (0..50).map(|call| workload.key(call)).collect();
        assert_eq!(keys.len(), 50);
        assert_eq!(workload.key(50), workload.key(0));
        assert_eq!(workload.value(3), workload.value(3));
        assert_ne!(workload.value(3), workload.value(4));
    }
}
