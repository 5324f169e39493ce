//! The core: calls, terminals, media, ports, limits and records. It knows the syntax of no protocol.
//!
//! It touches no socket, no clock and no map: time and randomness are arguments, and what has to be done comes out as
//! [`Output`]. Protocols (`signalling/`) are in front of it: they read messages, ask the core, and write messages.
//!
//! ```text
//! agent ──begin, offer, answer, answered, end──▶ Core ──Send, Media, Record──▶ io
//!   ▲  └──may_act, bind, rebind, unbind───────▶   │
//!   └──────────── CallEvent ──────────────────────┘
//! ```
//!
//! | file | what it decides |
//! |---|---|
//! | `core` | what the core has, and what all its verbs use |
//! | `trust` | who may act for a party |
//! | `terminals` | who is registered, and over which flow each is reached |
//! | `calls` | one call and its record |
//! | `life` | how calls begin, are answered and end |
//! | `media` | offers and answers of a call, and what the datapath reports |
//! | `session`, `slot`, `description` | the media of one call, and of one stream; what offer and answer agree on |
//! | `admission`, `admit` | what is counted for limits; whether one more call, or more media, is within them |
//! | `budgets`, `acquaintances`, `strangers` | what strangers may use, and what may be sent to an unproved address |
//! | `journalled`, `restore` | what is journalled, and how a later process takes it up |
//! | `ids`, `inputs`, `statistics` | names, what comes in and goes out, what is counted |
//! | `timers`, `tracked`, `sides` | what is due, what was touched, what each side has |
//!
//! No file imports one that imports it: state knows nothing of [`Core`], which owns it, and the verbs are in files of
//! their own, which know [`Core`].

mod acquaintances;
mod admission;
mod admit;
pub mod budgets;
mod calls;
mod core;
mod description;
mod ids;
mod inputs;
mod journalled;
mod life;
mod media;
mod restore;
mod session;
mod sides;
mod slot;
mod statistics;
mod strangers;
mod terminals;
pub(crate) mod timers;
pub(crate) mod tracked;
mod trust;

pub use self::core::Core;
pub use acquaintances::strangers_memory;
pub use calls::{CallEvent, CallStart, Refusal};
pub use ids::{CallId, Protocol};
pub use inputs::{Input, Output};
pub use journalled::NotRestored;
pub(crate) use journalled::{Written, read};
pub use restore::{EarlierStreams, Restored};
pub use sides::{CallSide, PerSide};
pub use statistics::{Load, Statistics};
pub use terminals::{Terminal, TerminalId, Terminals};
pub use trust::{Standing, Verdict};
