//! The log seen from outside: scenarios, formats, crashes, failures and rot, over the simulated
//! disk, and once over a real one.

mod backend;
mod crash;
mod fault;
mod golden;
mod model;
mod real_disk;
mod rot;
mod script;
