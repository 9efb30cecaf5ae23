//! The program `varve`: flags to configuration to server; nothing else.

fn main() {}
