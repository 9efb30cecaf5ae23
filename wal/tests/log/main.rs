//! The log seen from outside: scenarios, formats, crashes, failures and rot, over the simulated
//! disk, and once over a real one.

mod backend;
mod compress;
mod crash;
mod crash_points;
mod fault;
mod flips;
mod golden;
mod model;
mod real_disk;
mod recycle;
mod rot;
mod script;
mod workload;
