//! The proxy as its peers see it: datagrams in, datagrams out, in virtual time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it finds what it did not expect")]

mod admission;
mod attacker;
mod calls;
mod exemptions;
mod garbage;
mod hiding;
mod identity;
mod ipv6;
mod lab;
mod lengths;
mod made_up;
mod negotiation;
mod phone;
mod races;
mod registrations;
mod restart;
mod simulation;
mod stated;
mod strangers;
mod streams;
mod trust;
