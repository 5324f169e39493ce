//! The engine as its peers see it: datagrams in, datagrams out, in virtual time.

mod calls;
mod lab;
mod registrations;
