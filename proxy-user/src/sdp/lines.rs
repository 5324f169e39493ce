//! Lines and tokens of a session description as byte ranges.

use std::ops::Range;

/// One line; all positions are into the whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The line without its ending.
    pub(super) text: Range<usize>,
    /// Where the next line begins.
    pub(super) next: usize,
}

/// Cuts a body into lines that end in LF, with any CRs before it, or at the end of the body. Nothing is lost: the lines
/// and their endings put together are the body.
pub(super) fn split(body: &[u8]) -> impl Iterator<Item = Span> {
    let mut start = 0;
    body.split_inclusive(|&byte| byte == b'\n').map(move |line| {
        let text = start..start + text_length(line);
        start += line.len();
        Span { text, next: start }
    })
}

/// The tokens of a line between spaces and tabs, as ranges of the body that `text` is a range of.
pub(super) fn tokens(body: &[u8], text: Range<usize>) -> Vec<Range<usize>> {
    let mut position = text.start;
    let mut found = Vec::new();
    for token in body.get(text).unwrap_or_default().split(|byte| matches!(byte, b' ' | b'\t')) {
        let end = position + token.len();
        if !token.is_empty() {
            found.push(position..end);
        }
        position = end + 1;
    }
    found
}

/// Length without the line ending.
fn text_length(line: &[u8]) -> usize {
    line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_lf_or_crlf_or_not_at_all() {
        let body = b"v=0\r\na=x\n\na=y\r\r\na=z";
        let texts: Vec<_> = split(body).map(|span| &body[span.text]).collect();
        assert_eq!(texts, [&b"v=0"[..], b"a=x", b"", b"a=y", b"a=z"]);
        assert_eq!(split(body).last().map(|span| span.next), Some(body.len()));
        assert_eq!(split(b"").count(), 0);
    }

    #[test]
    fn tokens_stand_between_any_white_space() {
        let body = b"c= IN \t IP4  x ";
        let texts: Vec<_> = tokens(body, 2..body.len()).into_iter().map(|token| &body[token]).collect();
        assert_eq!(texts, [&b"IN"[..], b"IP4", b"x"]);
        assert!(tokens(body, 15..15).is_empty());
    }
}
