//! Messages out of a stream of bytes: TCP and TLS keep no boundaries, Content-Length does (RFC 3261 §18.3).
//!
//! Between messages a peer may send line ends to keep the connection alive: two of them ask for one in return (RFC 5626
//! §3.5.1). Whatever a peer sends, at most one message is held, and what came together with its end.

use super::fields::MAX_BYTES;
use super::parse::{content_length, line_end, parse_field};
use super::scan::slice;

/// Something whole in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, from its start line to the end of its body.
    Message(Vec<u8>),
    /// Two line ends: to be answered with one.
    Ping,
}

/// Why a stream is no sequence of messages. Nobody can tell where the next one begins, so its connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The first line is not one of SIP.
    #[error("not SIP")]
    NotSip,
    /// A message is longer than allowed.
    #[error("message too large")]
    TooLarge,
    /// A header without Content-Length, which streams need (RFC 3261 §20.14).
    #[error("no Content-Length")]
    NoLength,
    /// A Content-Length that is no number, or two that differ.
    #[error("malformed Content-Length")]
    MalformedLength,
}

/// Divides a stream into messages.
#[derive(Debug)]
pub struct Framer {
    buffer: Vec<u8>,
    /// How far the search for the header's end has come.
    searched: usize,
    /// The length of the message that the buffer begins with, once its header is whole.
    length: Option<usize>,
    /// The longest message.
    limit: usize,
    broken: Option<Broken>,
    refused: Option<Vec<u8>>,
}

impl Framer {
    /// Takes messages of up to `limit` bytes, and never longer ones than [`MAX_BYTES`].
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), searched: 0, length: None, limit: limit.min(MAX_BYTES), broken: None, refused: None }
    }

    /// Takes in what came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Whether a message has begun and is not whole.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.buffer.iter().any(|byte| !is_filler(*byte))
    }

    /// How many bytes are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// The header that broke the stream, where it is whole and says itself what is wrong: as a message it is refused,
    /// and its sender gets the reason.
    pub fn take_refused(&mut self) -> Option<Vec<u8>> {
        self.refused.take()
    }

    /// The next whole thing, or `None` before more has come.
    ///
    /// # Errors
    /// The stream is broken, and stays so.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let next = self.advance();
        if let Err(broken) = next {
            self.broken = Some(broken);
            self.buffer = Vec::new();
        }
        next
    }

    fn advance(&mut self) -> Result<Option<Frame>, Broken> {
        if self.length.is_none() {
            if self.skip_fillers() {
                return Ok(Some(Frame::Ping));
            }
            if self.buffer.first().is_none_or(|first| is_filler(*first)) {
                return Ok(None);
            }
            self.length = self.find_length()?;
        }
        let Some(length) = self.length else { return Ok(None) };
        if self.buffer.len() < length {
            return Ok(None);
        }
        let rest = self.buffer.split_off(length);
        let message = std::mem::replace(&mut self.buffer, rest);
        self.length = None;
        self.searched = 0;
        Ok(Some(Frame::Message(message)))
    }

    /// Drops line ends and zero bytes between messages. True at two line ends, which are a ping; others may follow. A
    /// line end by itself at the end stays: it may be the first half of one.
    fn skip_fillers(&mut self) -> bool {
        let mut at = 0;
        let ping = loop {
            match slice(&self.buffer, at, self.buffer.len()) {
                [b'\r', b'\n', b'\r', b'\n', ..] => {
                    at += 4;
                    break true;
                }
                [b'\r'] | [b'\r', b'\n'] | [b'\r', b'\n', b'\r'] => break false,
                [b'\r', b'\n', ..] => at += 2,
                [first, ..] if is_filler(*first) => at += 1,
                _ => break false,
            }
        };
        self.buffer.drain(..at);
        ping
    }

    /// The length of the message at the buffer's beginning, or `None` before its header is whole.
    fn find_length(&mut self) -> Result<Option<usize>, Broken> {
        if self.searched == 0 {
            let Some(first) = memchr::memchr(b'\n', &self.buffer) else {
                return self.undecided(|start| !might_be_sip(start));
            };
            let line = slice(&self.buffer, 0, first);
            if memchr::memmem::find(&line.to_ascii_uppercase(), b"SIP/").is_none() {
                return Err(Broken::NotSip);
            }
        }
        // A line end right after another one; the first one may have been seen last time.
        let mut from = self.searched;
        while let Some(found) = memchr::memchr(b'\n', slice(&self.buffer, from, self.buffer.len())) {
            let line_feed = from + found;
            let after = line_feed + 1;
            let end = match slice(&self.buffer, after, self.buffer.len()) {
                [b'\r', b'\n', ..] => Some(after + 2),
                [b'\n', ..] => Some(after + 1),
                [] | [b'\r'] => {
                    self.searched = line_feed;
                    return self.undecided(|_| false);
                }
                _ => None,
            };
            if let Some(end) = end {
                return self.whole_header(end).map(Some);
            }
            from = after;
        }
        self.searched = self.searched.max(from);
        self.undecided(|_| false)
    }

    /// The header is not whole yet: is it worth waiting for?
    fn undecided(&self, hopeless: impl Fn(&[u8]) -> bool) -> Result<Option<usize>, Broken> {
        if hopeless(&self.buffer) {
            return Err(Broken::NotSip);
        }
        if self.buffer.len() > self.limit { Err(Broken::TooLarge) } else { Ok(None) }
    }

    fn whole_header(&mut self, end: usize) -> Result<usize, Broken> {
        let head = slice(&self.buffer, 0, end);
        let length = match stated_length(head) {
            Ok(None) => return Err(Broken::NoLength),
            Ok(Some(body)) => end.checked_add(body).filter(|length| *length <= self.limit).ok_or(Broken::TooLarge),
            Err(()) => Err(Broken::MalformedLength),
        };
        if length.is_err() {
            self.refused = Some(head.to_vec());
        }
        length
    }
}

/// Content-Length in a whole header, read as [`super::Message::parse`] reads it.
fn stated_length(head: &[u8]) -> Result<Option<usize>, ()> {
    let (_, mut at) = line_end(head, 0);
    let mut fields = Vec::new();
    while at < head.len() {
        let (mut value_end, mut end) = line_end(head, at);
        while matches!(head.get(end), Some(b' ' | b'\t')) {
            (value_end, end) = line_end(head, end);
        }
        if value_end > at {
            let field = parse_field(head, at, value_end, end);
            fields.extend(field.filter(|field| field.name == super::Name::ContentLength));
        }
        at = end;
    }
    content_length(head, &fields)
}

/// Whether bytes without a line end can begin a message: a method is a token, and tokens are no control characters.
fn might_be_sip(start: &[u8]) -> bool {
    start.iter().all(|byte| *byte >= b' ' || matches!(byte, b'\r' | b'\t'))
}

fn is_filler(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nl : 3\r\n\r\nabc";

    fn frames(limit: usize, stream: &[u8]) -> (Vec<Frame>, Option<Broken>) {
        let mut framer = Framer::new(limit);
        framer.push(stream);
        let mut frames = Vec::new();
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(broken) => {
                    assert_eq!((framer.next_frame(), framer.held()), (Err(broken), 0), "it stays so");
                    return (frames, Some(broken));
                }
            }
        }
    }

    #[test]
    fn streams_and_what_is_in_them() {
        let message = |bytes: &[u8]| Frame::Message(bytes.to_vec());
        let join = |parts: &[&[u8]]| parts.concat();
        let table: [(Vec<u8>, Vec<Frame>, Option<Broken>); 15] = [
            (OPTIONS.to_vec(), vec![message(OPTIONS)], None),
            (join(&[OPTIONS, OPTIONS]), vec![message(OPTIONS), message(OPTIONS)], None),
            (
                join(&[b"\r\n", OPTIONS, b"\r\n\r\n", OPTIONS]),
                vec![message(OPTIONS), Frame::Ping, message(OPTIONS)],
                None,
            ),
            (b"\r\n\r\n\r\n\r\n".to_vec(), vec![Frame::Ping, Frame::Ping], None),
            (b"\0\r\n\r".to_vec(), vec![], None),
            (OPTIONS[..OPTIONS.len() - 1].to_vec(), vec![], None),
            (
                b"SIP/2.0 200 OK\nContent-Length:\n 0\n\n".to_vec(),
                vec![message(b"SIP/2.0 200 OK\nContent-Length:\n 0\n\n")],
                None,
            ),
            (b"GET / HTTP/1.1\r\n".to_vec(), vec![], Some(Broken::NotSip)),
            (b"\x16\x03\x01\x02\0".to_vec(), vec![], Some(Broken::NotSip)),
            (b"OPTIONS sip:a@b SIP/2.0\r\nX: y\r\n\r\n".to_vec(), vec![], Some(Broken::NoLength)),
            (b"OPTIONS sip:a@b SIP/2.0\r\nl: 1\r\nl: 2\r\n\r\n".to_vec(), vec![], Some(Broken::MalformedLength)),
            (b"OPTIONS sip:a@b SIP/2.0\r\nl: -1\r\n\r\n".to_vec(), vec![], Some(Broken::MalformedLength)),
            (b"OPTIONS sip:a@b SIP/2.0\r\nl: 4294967295\r\n\r\n".to_vec(), vec![], Some(Broken::TooLarge)),
            (b"OPTIONS sip:a@b SIP/2.0\r\nl: 200\r\n\r\n".to_vec(), vec![], Some(Broken::TooLarge)),
            (vec![b'A'; 201], vec![], Some(Broken::TooLarge)),
        ];
        for (stream, expected, broken) in table {
            assert_eq!(frames(200, &stream), (expected, broken), "{}", String::from_utf8_lossy(&stream));
        }
    }

    #[test]
    fn whoever_states_an_impossible_length_can_be_told() {
        for (length, code) in [("4294967295", 513), ("-1", 400)] {
            let head = format!("OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP c\r\nl: {length}\r\n\r\n");
            let mut framer = Framer::new(MAX_BYTES);
            framer.push(head.as_bytes());
            framer.next_frame().unwrap_err();
            let refused = framer.take_refused().unwrap();
            let error = super::super::Message::parse(&refused).unwrap_err();
            assert_eq!((error.fault.code(), error.answerable().is_some()), (code, true), "{length}");
            assert_eq!(framer.take_refused(), None);
        }
    }

    #[test]
    fn it_tells_a_message_that_has_begun_from_line_ends() {
        let mut framer = Framer::new(1_000);
        for (bytes, begun) in [(&b"\r\n"[..], false), (b"O", true), (&OPTIONS[1..], true)] {
            framer.push(bytes);
            assert_eq!(framer.is_mid_message(), begun);
        }
        assert_eq!(framer.next_frame(), Ok(Some(Frame::Message(OPTIONS.to_vec()))));
        assert!(!framer.is_mid_message());
    }
}
