//! The 49 messages of RFC 4475 through the message layer.
//!
//! The files are the RFC's own archive (appendix A), bit for bit.

use std::path::Path;

use proxy_user::signalling::sip::{Fault, Message, Name, Start, check_request, check_response};

/// What the RFC asks of an element like Latch: a proxy that reads what it routes by and carries the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Expect {
    /// Carried: parses, passes the checks, unchanged bytes survive.
    Carried,
    /// Parsing refuses it, and there is a request to answer with this code.
    Fault(Fault, u16),
    /// The checks refuse it with this code.
    Reject(u16),
    /// A response that is dropped: by parsing.
    DropFault(Fault),
    /// A response that is dropped: by the checks.
    DropMalformed(Name),
}
use Expect::{Carried, DropFault, DropMalformed, Reject};

/// Name of the message, section of the RFC, expectation.
pub(crate) const MESSAGES: [(&str, &str, Expect); 49] = [
    ("wsinv", "3.1.1.1", Carried),
    ("intmeth", "3.1.1.2", Carried),
    ("esc01", "3.1.1.3", Carried),
    ("escnull", "3.1.1.4", Carried),
    ("esc02", "3.1.1.5", Carried),
    ("lwsdisp", "3.1.1.6", Carried),
    ("longreq", "3.1.1.7", Carried),
    ("dblreq", "3.1.1.8", Carried),
    ("semiuri", "3.1.1.9", Carried),
    ("transports", "3.1.1.10", Carried),
    ("mpart01", "3.1.1.11", Carried),
    ("unreason", "3.1.1.12", Carried),
    ("noreason", "3.1.1.13", Carried),
    ("badinv01", "3.1.2.1", Reject(400)),
    ("clerr", "3.1.2.2", Expect::Fault(Fault::ShortBody, 400)),
    ("ncl", "3.1.2.3", Expect::Fault(Fault::ContentLength, 400)),
    ("scalar02", "3.1.2.4", Reject(400)),
    ("scalarlg", "3.1.2.5", DropMalformed(Name::CSeq)),
    ("quotbal", "3.1.2.6", Reject(400)),
    ("ltgtruri", "3.1.2.7", Reject(400)),
    ("lwsruri", "3.1.2.8", Expect::Fault(Fault::StartLine, 400)),
    ("lwsstart", "3.1.2.9", Expect::Fault(Fault::StartLine, 400)),
    ("trws", "3.1.2.10", Expect::Fault(Fault::StartLine, 400)),
    ("escruri", "3.1.2.11", Reject(400)),
    // An invalid Date: nothing that a proxy reads, so it goes on.
    ("baddate", "3.1.2.12", Carried),
    ("regbadct", "3.1.2.13", Reject(400)),
    ("badaspec", "3.1.2.14", Reject(400)),
    // Besides its display names, the archive's copy lacks the empty line.
    ("baddn", "3.1.2.15", Expect::Fault(Fault::Truncated, 400)),
    ("badvers", "3.1.2.16", Expect::Fault(Fault::Version, 505)),
    ("mismatch01", "3.1.2.17", Reject(400)),
    ("mismatch02", "3.1.2.18", Reject(400)),
    ("bigcode", "3.1.2.19", DropFault(Fault::StatusCode)),
    ("badbranch", "3.2.1", Reject(400)),
    ("insuf", "3.3.1", Reject(400)),
    ("unkscm", "3.3.2", Reject(416)),
    ("novelsc", "3.3.3", Reject(416)),
    // Unknown schemes in To, From and Contact: the registrar's to refuse.
    ("unksm2", "3.3.4", Carried),
    ("bext01", "3.3.5", Reject(420)),
    // An unknown body and an unknown authorization scheme: the far end's to refuse.
    ("invut", "3.3.6", Carried),
    ("regaut01", "3.3.7", Carried),
    ("multi01", "3.3.8", Reject(400)),
    ("mcl01", "3.3.9", Expect::Fault(Fault::ContentLength, 400)),
    // A proxy drops it because the topmost Via is not its own; the message itself reads well.
    ("bcast", "3.3.10", Carried),
    ("zeromf", "3.3.11", Reject(483)),
    ("cparam01", "3.3.12", Carried),
    ("cparam02", "3.3.13", Carried),
    ("regescrt", "3.3.14", Carried),
    ("sdp01", "3.3.15", Carried),
    ("inv2543", "3.4.1", Carried),
];

#[test]
fn every_message_gets_what_the_rfc_asks_for() {
    for (name, section, expected) in MESSAGES {
        assert_eq!(outcome(&file(name)), expected, "{name}, section {section}");
    }
}

#[test]
fn carried_messages_can_be_read() {
    for message in carried() {
        for name in [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq] {
            assert!(message.value(name).is_some_and(|value| !value.is_empty()), "{name:?}");
        }
        assert!(message.cseq().is_ok());
        assert!(message.vias().all(|via| via.is_ok()));
    }
}

#[test]
fn an_edit_of_nothing_keeps_every_byte() {
    for (name, _, _) in MESSAGES.iter().filter(|(_, _, expected)| *expected == Carried) {
        let input = file(name);
        let output = Message::parse(&input).unwrap().edit().finish();
        // The second request of `dblreq` is excess.
        assert_eq!(output, input[..output.len()], "{name}");
        assert!(output.len() == input.len() || *name == "dblreq", "{name}");
    }
}

#[test]
fn an_edit_of_via_keeps_every_other_byte() {
    for message in carried() {
        let output = message.edit().set(Name::Via, "SIP/2.0/UDP latch.example;branch=z9hG4bKx").finish();
        let edited = Message::parse(&output).unwrap();
        assert_eq!(edited.vias().count(), 1);
        assert_eq!(edited.start(), message.start());
        assert_eq!(edited.body(), message.body());
        assert_eq!(others(&edited), others(&message));
    }
}

#[test]
fn what_can_be_answered_is_answered() {
    for (name, _, expected) in MESSAGES {
        let input = file(name);
        match (Message::parse(&input), expected) {
            (Err(error), Expect::Fault(..)) => assert!(error.answerable().is_some(), "{name}"),
            (Err(error), DropFault(_)) => assert!(error.answerable().is_none(), "{name}"),
            (Ok(message), Reject(code)) => {
                let output = check_request(&message).unwrap_err().response(&message).to_tag("t").finish();
                let response = Message::parse(&output).unwrap();
                assert_eq!(response.code(), Some(code), "{name}");
                let vias = |message: &Message| message.raw_values(Name::Via).map(<[u8]>::to_vec).collect::<Vec<_>>();
                assert_eq!(vias(&response), vias(&message), "{name}");
                assert_eq!(response.value(Name::CSeq), message.value(Name::CSeq), "{name}");
            }
            _ => {}
        }
    }
}

fn outcome(input: &[u8]) -> Expect {
    let message = match Message::parse(input) {
        Ok(message) => message,
        Err(error) if error.answerable().is_some() => return Expect::Fault(error.fault, error.fault.code()),
        Err(error) => return DropFault(error.fault),
    };
    match message.start() {
        Start::Request { .. } => check_request(&message).map_or_else(|reject| Reject(reject.code), |()| Carried),
        Start::Response { .. } => {
            check_response(&message).map_or_else(|malformed| DropMalformed(malformed.0), |()| Carried)
        }
    }
}

pub(crate) fn carried() -> impl Iterator<Item = Message> {
    let names = MESSAGES.iter().filter(|(_, _, expected)| *expected == Carried);
    names.map(|(name, _, _)| Message::parse(&file(name)).unwrap())
}

/// Every header field but Via: name as spelled, value as it came.
fn others(message: &Message) -> Vec<(String, Vec<u8>)> {
    let kept = message.headers().filter(|header| header.name != Name::Via);
    kept.map(|header| (header.raw_name.to_owned(), header.raw_value.to_vec())).collect()
}

pub(crate) fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sip/rfc4475").join(name).with_extension("dat");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
