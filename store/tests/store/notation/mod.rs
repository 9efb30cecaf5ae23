//! Requests as text, and answers as text.
//!
//! ```text
//! put KEY VALUE [lease=ID] [prev] [ignore_value] [ignore_lease]
//! del KEYS [prev]
//! get KEYS [rev=N] [limit=N] [keys] [count] [sort=TARGET] [order=asc|desc]
//!          [min_mod=N] [max_mod=N] [min_create=N] [max_create=N] [serializable]
//! txn [if (GUARD; ...)] [then (OP; ...)] [else (OP; ...)]      an OP may be `txn`, or `nothing`
//! GUARD: version|create|mod|value|lease KEYS =|!=|<|> OPERAND
//! KEYS: KEY or KEY..END, where END `\0` is no upper bound; '' is empty
//! ```

pub mod auth;
pub mod parse;
pub mod print;
