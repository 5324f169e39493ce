//! The SIP message layer from outside: published vectors, tables of forms, properties, and what it originates.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod forms;
mod framing;
mod originated;
mod properties;
mod torture;
