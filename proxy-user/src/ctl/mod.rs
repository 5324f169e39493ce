//! An operator's requests to a running Latch, over a Unix socket in the directory of its state.
//!
//! A connection carries one request, a line of JSON, and one answer, a line of JSON: `{"ok": …}` or `{"error": "…"}`.
//! Where the answer is a file, its bytes follow until the connection ends. Access is by the socket's permissions: its
//! owner alone may open it.

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

mod server;

pub use server::{Answer, Question, Server};

/// The socket's name in the directory of the state.
const SOCKET: &str = "ctl.sock";
/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask", deny_unknown_fields)]
pub enum Request {
    /// How it is going.
    Status,
}

/// Where a Latch with this state listens.
pub fn socket(state: &Path) -> PathBuf {
    state.join(SOCKET)
}

/// Asks the Latch that runs with this state. What follows the answer can be read from the second part.
///
/// # Errors
///
/// None runs, or it refuses.
pub fn ask(state: &Path, request: &Request) -> Result<(Value, BufReader<UnixStream>)> {
    let socket = socket(state);
    let mut stream = match UnixStream::connect(&socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => bail!(
            "no Latch runs with the state in {}: start one (`latch run`), or name the right directory with --state or --config",
            state.display()
        ),
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", socket.display())),
    };
    stream.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
    stream.write_all(format!("{}\n", json!(request)).as_bytes()).context("cannot ask")?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).context("no answer came")?;
    let answer: Value = serde_json::from_str(&line).context("the answer is not JSON")?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("{error}");
    }
    let answer = answer.get("ok").cloned().context("the answer is neither ok nor an error")?;
    reader.get_ref().set_read_timeout(None).context("cannot set a timeout")?;
    Ok((answer, reader))
}
