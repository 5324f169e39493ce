//! As much of rtpengine's ng protocol as one call needs: a request is a datagram, `COOKIE DICTIONARY`, and so is its
//! answer; the dictionary is bencoded.

use std::fmt::Write as _;
use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};

/// A value of a request's dictionary.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    List(&'a [&'a str]),
}

/// Sends a request and gives the text called `wanted` of its answer; an error if the answer's result is not "ok".
pub(crate) fn request(
    socket: &UdpSocket,
    cookie: &str,
    dictionary: &[(&str, Value<'_>)],
    wanted: &str,
) -> Result<String> {
    socket.send(format!("{cookie} {}", encode(dictionary)).as_bytes())?;
    let mut buffer = [0; 8192];
    let length = socket.recv(&mut buffer).context("no answer from rtpengine")?;
    let answer = std::str::from_utf8(buffer.get(..length).unwrap_or_default())?;
    let answer = answer.strip_prefix(cookie).context("an answer to another request")?;
    ensure!(matches!(text(answer, "result").as_deref(), Some("ok" | "pong")), "rtpengine answers {answer}");
    text(answer, wanted).with_context(|| format!("no {wanted} in {answer}"))
}

fn encode(dictionary: &[(&str, Value<'_>)]) -> String {
    let mut out = String::from("d");
    let put = |out: &mut String, text: &str| {
        let _ = write!(out, "{}:{text}", text.len());
    };
    for (key, value) in dictionary {
        put(&mut out, key);
        match value {
            Value::Text(text) => put(&mut out, text),
            Value::List(items) => {
                out.push('l');
                items.iter().for_each(|item| put(&mut out, item));
                out.push('e');
            }
        }
    }
    out.push('e');
    out
}

/// The text that follows `key` in a bencoded dictionary.
fn text(dictionary: &str, key: &str) -> Option<String> {
    let (_, value) = dictionary.split_once(&format!("{}:{key}", key.len()))?;
    let (length, rest) = value.split_once(':')?;
    Some(rest.get(..length.parse().ok()?)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_are_written_and_read() {
        let ours = [("command", Value::Text("offer")), ("direction", Value::List(&["access", "core"]))];
        assert_eq!(encode(&ours), "d7:command5:offer9:directionl6:access4:coreee");
        let answer = "x d3:sdp5:v=0\r\n6:result2:oke";
        assert_eq!(text(answer, "sdp").as_deref(), Some("v=0\r\n"));
        assert_eq!(text(answer, "result").as_deref(), Some("ok"));
        assert_eq!(text(answer, "warning"), None);
        assert_eq!(text("d3:sdp99:v=0e", "sdp"), None);
    }
}
