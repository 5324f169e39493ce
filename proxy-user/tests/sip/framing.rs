//! Streams hold the same messages however they are cut, and no stream makes the framer hold more than it may.

use crate::torture;
use proptest::prelude::*;
use proxy_user::signalling::sip::{Broken, Frame, Framer, MAX_BYTES};

/// Everything in a stream that comes in pieces of these lengths, over and over.
fn frames(stream: &[u8], pieces: &[usize], limit: usize) -> (Vec<Frame>, Option<Broken>) {
    let mut framer = Framer::new(limit);
    let mut frames = Vec::new();
    let mut lengths = pieces.iter().copied().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(lengths.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
        rest = later;
        framer.push(piece);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(broken) => return (frames, Some(broken)),
            }
        }
        assert!(framer.held() <= limit.min(MAX_BYTES) + piece.len());
    }
    (frames, None)
}

/// A message as it would be sent over a stream.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    let name = proptest::sample::select(vec!["Content-Length: ", "l:", "CONTENT-LENGTH :\r\n "]);
    let end = proptest::sample::select(vec!["\r\n", "\n"]);
    (body, name, end, 0..40_usize).prop_map(|(body, name, end, more)| {
        let more: String = (0..more).map(|n| format!("X-{n}: y{end}")).collect();
        let head = format!("MESSAGE sip:a@b SIP/2.0{end}{more}{name}{}{end}{end}", body.len());
        [head.into_bytes(), body].concat()
    })
}

/// What a peer may send between and inside messages.
#[derive(Clone, Debug)]
enum Part {
    Message(Vec<u8>),
    Ping,
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![4 => message().prop_map(Part::Message), 1 => Just(Part::Ping)]
}

proptest! {
    #[test]
    fn cuts_do_not_matter(
        parts in proptest::collection::vec(part(), 0..8),
        pieces in proptest::collection::vec(1..600_usize, 1..20),
    ) {
        let stream: Vec<u8> = parts.iter().flat_map(|part| match part {
            Part::Message(bytes) => bytes.clone(),
            Part::Ping => b"\r\n\r\n".to_vec(),
        }).collect();
        let expected: Vec<_> = parts.into_iter().map(|part| match part {
            Part::Message(bytes) => Frame::Message(bytes),
            Part::Ping => Frame::Ping,
        }).collect();
        prop_assert_eq!(frames(&stream, &pieces, MAX_BYTES), (expected, None));
    }

    #[test]
    fn anything_is_borne_and_cut_alike(
        stream in proptest::collection::vec(
            prop_oneof![proptest::sample::select(b"\r\n: lSIP/2.0\0 19".to_vec()), any::<u8>()], 0..400),
        pieces in proptest::collection::vec(1..50_usize, 1..9),
        limit in 20..200_usize,
    ) {
        // The limit may be noticed sooner or later, all else is the same.
        let (whole, first) = frames(&stream, &[usize::MAX], limit);
        let (cut, second) = frames(&stream, &pieces, limit);
        if first.is_none() {
            prop_assert_eq!((cut, second), (whole, first));
        }
    }
}

#[test]
fn every_message_of_rfc_4475_that_states_its_length_is_found_in_a_stream() {
    let mut found = 0;
    for message in torture::carried().filter(|message| message.value("Content-Length").is_some()) {
        let (frames, broken) = frames(message.bytes(), &[7], MAX_BYTES);
        assert_eq!((frames.as_slice(), broken), ([Frame::Message(message.bytes().to_vec())].as_slice(), None));
        found += 1;
    }
    assert!(found > 10, "{found}");
}
