//! Byte-level helpers that every parser here shares: white space, tokens, quoted strings, checked slices.
//!
//! Line folding counts as white space (RFC 3261 §7.3.1), so values can be read in place, still folded.

use std::borrow::Cow;

/// `bytes[start..end]`, or nothing where the range is outside.
pub(super) fn slice(bytes: &[u8], start: usize, end: usize) -> &[u8] {
    bytes.get(start..end).unwrap_or_default()
}

/// `text[start..end]`, or nothing where the range is outside or cuts a character.
pub(super) fn part(text: &str, start: usize, end: usize) -> &str {
    text.get(start..end).unwrap_or_default()
}

pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// RFC 3261 §25.1, `token`.
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// Whether all of `text` is one non-empty token.
pub(super) fn all_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token(byte))
}

pub(super) fn trim(text: &str) -> &str {
    let bytes = text.as_bytes();
    let start = bytes.iter().position(|&byte| !is_space(byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|&byte| !is_space(byte)).map_or(start, |last| last + 1);
    part(text, start, end)
}

pub(super) fn trim_bytes(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_space(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_space(*last)
    {
        bytes = rest;
    }
    bytes
}

/// The position after the quoted string that opens at `start`; `None` when it never closes (RFC 3261 §25.1).
pub(super) fn quoted_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

/// The first position from `start` on, outside quoted strings, whose byte `wanted` accepts; else the end.
///
/// An unbalanced quote hides everything after it.
pub(super) fn find_outside_quotes(bytes: &[u8], start: usize, wanted: impl Fn(u8) -> bool) -> usize {
    let mut at = start;
    while let Some(&byte) = bytes.get(at) {
        if wanted(byte) {
            return at;
        }
        at = if byte == b'"' { quoted_end(bytes, at).unwrap_or(bytes.len()) } else { at + 1 };
    }
    bytes.len()
}

/// A decimal number of digits only, in a `u32`; leading zeros allowed.
pub(super) fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u32, |sum, &byte| {
        if !byte.is_ascii_digit() {
            return None;
        }
        sum.checked_mul(10)?.checked_add(u32::from(byte - b'0'))
    })
}

/// The value as one line: every fold becomes a single space. Bytes that are not UTF-8 become U+FFFD.
pub(super) fn unfold(raw: &[u8]) -> Cow<'_, str> {
    let raw = trim_bytes(raw);
    if memchr::memchr2(b'\r', b'\n', raw).is_none() {
        return String::from_utf8_lossy(raw);
    }
    let mut line = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if matches!(byte, b'\r' | b'\n') {
            while line.last().is_some_and(|&last| is_space(last)) {
                line.pop();
            }
            while bytes.next_if(|&next| is_space(next)).is_some() {}
            line.push(b' ');
        } else {
            line.push(byte);
        }
    }
    Cow::Owned(String::from_utf8_lossy(&line).into_owned())
}

/// `text` without line ends, so that no value can end its header field and begin another.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'\r', b'\n', text.as_bytes()).is_some() {
        Cow::Owned(text.replace(['\r', '\n'], " "))
    } else {
        Cow::Borrowed(text)
    }
}

/// Seconds, saturating; `None` for what is not a number (RFC 3261 §25.1, `delta-seconds`).
pub(super) fn delta_seconds(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| number(text).unwrap_or(u32::MAX))
}
