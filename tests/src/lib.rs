//! What the whole-system tests share: running servers and driving them with etcd's own clients.
//!
//! One idea: varve is a drop-in replacement, so every test here starts a server by its path with
//! etcd's flags and talks to it over sockets; which server it is, varve or etcd, is a parameter.
//! A test that passes against etcd and fails against varve has found a defect of varve.
//!
//! What it does not do: look inside a server. Tests of parts sit beside the parts.

pub mod acknowledged;
pub mod certificates;
pub mod etcdctl;
pub mod etcdctl_compare;
pub mod etcdctl_normalise;
pub mod etcdctl_script;
pub mod group;
pub mod grpc_client;
pub mod http_client;
pub mod load;
pub mod network;
pub mod not_yet;
pub mod process;
pub mod program;
pub mod trouble;
pub mod workload;
