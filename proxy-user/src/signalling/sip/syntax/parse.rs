//! Where the parts of a message are: start line, header fields and their ends, as byte positions.

use super::fields::{Fault, Field, Line};
use super::name::Name;
use super::scan::{all_token, is_space, number, slice, trim_bytes};

/// Where the line that begins at `start` ends, without and with its line end.
pub(super) fn line_end(bytes: &[u8], start: usize) -> (usize, usize) {
    let rest = bytes.get(start..).unwrap_or_default();
    match memchr::memchr(b'\n', rest) {
        Some(0) => (start, start + 1),
        Some(offset) if rest.get(offset - 1) == Some(&b'\r') => (start + offset - 1, start + offset + 1),
        Some(offset) => (start + offset, start + offset + 1),
        None => (bytes.len(), bytes.len()),
    }
}

pub(super) type StartLine = (Line, Option<Fault>);

/// The start line, with a fault if a request can still be answered.
pub(super) fn parse_start(bytes: &[u8], start: usize, end: usize) -> Result<StartLine, Fault> {
    let line = std::str::from_utf8(slice(bytes, start, end)).map_err(|_| Fault::StartLine);
    if slice(bytes, start, end).get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"SIP/")) {
        return parse_status(bytes, start, end).map(|line| (line, None));
    }
    let line = line?;
    let (method, rest) = line.split_once(' ').ok_or(Fault::StartLine)?;
    // The version follows the last space before any trailing white space.
    let (uri, version) = rest.trim_end_matches([' ', '\t']).rsplit_once(' ').ok_or(Fault::StartLine)?;
    let is_sip = version.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("SIP/"));
    if !all_token(method.as_bytes()) || !is_sip {
        return Err(Fault::StartLine);
    }
    let fault = if !version.eq_ignore_ascii_case("SIP/2.0") {
        Some(Fault::Version)
    } else if uri.is_empty() || !rest.ends_with(version) || uri.bytes().any(|byte| is_space(byte) || byte < b' ') {
        Some(Fault::StartLine)
    } else {
        None
    };
    let uri_start = start + method.len() + 1;
    let line = Line::Request { method: start..start + method.len(), uri: uri_start..uri_start + uri.len() };
    Ok((line, fault))
}

/// `SIP/2.0 SP 3DIGIT SP reason`; the space before an empty reason may be missing.
pub(super) fn parse_status(bytes: &[u8], start: usize, end: usize) -> Result<Line, Fault> {
    let line = slice(bytes, start, end);
    let (version, rest) = line.split_at_checked(8).ok_or(Fault::StartLine)?;
    if !version.eq_ignore_ascii_case(b"SIP/2.0 ") {
        return Err(if version.ends_with(b" ") { Fault::Version } else { Fault::StartLine });
    }
    let digits = rest.split(|&byte| byte == b' ').next().unwrap_or_default();
    let code = number(digits).and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| digits.len() == 3 && (100..700).contains(code)).ok_or(Fault::StatusCode)?;
    let reason = (start + 12).min(end)..end;
    Ok(Line::Response { code, reason })
}

/// One header field; `None` without a token and a colon, or with a carriage return that ends no line.
pub(super) fn parse_field(bytes: &[u8], start: usize, value_end: usize, end: usize) -> Option<Field> {
    let line = slice(bytes, start, value_end);
    let name_length = line.iter().position(|byte| matches!(byte, b':' | b' ' | b'\t'))?;
    let name = slice(line, 0, name_length);
    let after = slice(line, name_length, line.len());
    let blanks = after.iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
    let stray = memchr::memchr_iter(b'\r', line).any(|at| line.get(at + 1) != Some(&b'\n'));
    if !all_token(name) || after.get(blanks) != Some(&b':') || stray {
        return None;
    }
    let position = |at: usize| u32::try_from(at).ok();
    Some(Field {
        name: Name::of(name),
        start: position(start)?,
        name_end: position(start + name_length)?,
        value_start: position(start + name_length + blanks + 1)?,
        value_end: position(value_end)?,
        end: position(end)?,
    })
}

/// Content-Length, where present; an error when unreadable or contradicting itself.
pub(super) fn content_length(bytes: &[u8], fields: &[Field]) -> Result<Option<usize>, ()> {
    let mut found = None;
    for field in fields.iter().filter(|field| field.name == Name::ContentLength) {
        let value = slice(bytes, field.value_start as usize, field.value_end as usize);
        let length = number(trim_bytes(value)).ok_or(())? as usize;
        if found.is_some_and(|first| first != length) {
            return Err(());
        }
        found = Some(length);
    }
    Ok(found)
}
