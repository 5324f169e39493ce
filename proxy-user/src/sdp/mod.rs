//! Session descriptions (SDP, RFC 8866): read what the proxy has to know, replace what names an address, leave the rest
//! byte for byte.
//!
//! [`Session::parse`] cuts the body into lines and says what each line means to the proxy; [`Session::media`] is the
//! view for the engine; [`Session::rewrite`] puts the same lines out again with the proxy's addresses and ports.
//!
//! The reader is the project's own and works on lines, because the body belongs to somebody else: the crates that model
//! a session description write it back normalised. They turn LF into CRLF, refuse or invent a missing `t=` or `s=`, and
//! drop unknown lines or a `c=` in an odd place, some of them together with all media that follow. The proxy must pass
//! on what it does not understand, so it never serialises a model.
//!
//! # What is replaced
//!
//! | line | becomes |
//! |---|---|
//! | `c=`, session and media | the own address; `0.0.0.0` and `::` (hold before RFC 3264) stay |
//! | `o=` | the own address; user name, session id and version stay, so that the version counts as its author meant it |
//! | `m=` | the relay's RTP port; port 0 stays; 0 where the media cannot be relayed ([`MediaSection::relayable`]) |
//! | `a=rtcp` (RFC 3605) | the relay's RTCP port, with the own address where there was one; removed where the port is 0 |
//! | `a=rtcp-mux` (RFC 5761) | what the plan says: there or not, whatever came; one with each side by itself |
//! | `a=rtcp-mux-only` (RFC 8858) | `a=rtcp-mux`: the other side need not be able to do only that |
//!
//! # What is removed, and why
//!
//! | attribute | why |
//! |---|---|
//! | `candidate`, `end-of-candidates`, `remote-candidates`, `ice-*` (RFC 8839) | they would lead media around the relay |
//! | `group:BUNDLE`, `bundle-only` (RFC 8843) | the relay has one pair of ports for each `m=` |
//! | `altc` (RFC 6947), `alt`, `x-alt`, `ccap` (RFC 7006), `visited-realm`, `secondary-realm`, `omr-*` (3GPP TS 29.079) | other addresses for the same media |
//! | `group:ANAT` (RFC 4091) | the same; one alternative is kept, the others get port 0 |
//! | `source-filter` (RFC 4570) | the far side receives from the relay, not from the source named |
//! | `path` (MSRP, RFC 4975) | names a host; its media cannot be relayed |
//! | any other attribute that contains an address which is replaced elsewhere | no side may see the other's addresses |
//!
//! `crypto`, `fingerprint` and `zrtp-hash` are never touched: keys are the terminals' own affair.
//!
//! Text for people (`s=`, `i=`, `u=`, `e=`, the user name in `o=`) is not searched for addresses.

mod lines;
mod media;
mod rewrite;
mod session;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod snapshots;

pub use crate::media::MediaPlan;
pub use media::{Direction, Host, MediaKind, MediaSection, Protocol, Rtcp};
pub use rewrite::Rewrite;
pub use session::{MAX_ADDRESSES, MAX_MEDIA, SdpError, Session};
