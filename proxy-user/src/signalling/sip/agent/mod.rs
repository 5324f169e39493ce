//! What SIP messages do: registrations, transactions, dialogs, and the calls in them.
//!
//! [`Sip`] owns the state, in machines that each keep their own maps whole: `transactions`, `dialogs`, `registrations`,
//! `connections`. What a message means is decided in a `Turn`: one input with access to the core and all machines,
//! which ends with the handling of that input.
//!
//! | file | what it decides |
//! |---|---|
//! | `state` | the state, and one input with access to all of it |
//! | `protocol` | SIP as the rest of Latch sees it |
//! | `inbound` | what a message is: garbage, a retransmission, a request, a response |
//! | `plan` | where a request goes |
//! | `reading` | what is read of a message in several places |
//! | `requests` | where a request goes and what it looks like there |
//! | `exemption` | what the token of a party gets beyond the share of strangers |
//! | `in_dialog` | whether a request in a dialog is its party's, and what it does there |
//! | `responses` | where a response goes and what it means |
//! | `registrar` | REGISTER and its answers |
//! | `invite` | INVITE, ACK, CANCEL, BYE: the life of a call |
//! | `offer_answer` | which session descriptions are offers and answers |
//! | `dialog_setup` | what a dialog knows at its beginning, and how long it lasts |
//! | `kept` | how many bytes a stranger's request makes us keep |
//! | `keepalive` | requests that keep NAT mappings alive |
//! | `originate` | requests of the proxy's own inside a dialog |
//! | `refusals` | which refusals by the softswitch are logged |
//! | `identity` | who may know who is calling |
//! | `topology` | addresses that must not leave their network |
//! | `flows` | over which flow messages leave, and what a lost connection means |
//! | `restore`, `setup` | what is journalled, and how a later process takes it up; a call that rings then |

mod calls;
mod connections;
mod dialog_setup;
mod dialogs;
mod exemption;
mod flows;
mod identity;
mod in_dialog;
mod inbound;
mod invite;
mod keepalive;
mod kept;
mod offer_answer;
mod originate;
mod plan;
mod protocol;
mod reading;
mod refusals;
mod registrar;
mod registrations;
mod requests;
mod responses;
mod restore;
mod roles;
mod setup;
mod state;
mod topology;
mod transactions;

pub use state::{PROTOCOL, Sip};
