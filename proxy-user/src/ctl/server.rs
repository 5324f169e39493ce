//! The running side: turns connections into requests to the loop, and sends its answers back.

use super::Request;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

/// The most connections at once.
const CONNECTIONS: usize = 16;
/// A request is no longer than this.
const LONGEST: u64 = 4_096;
/// A request comes within this time, and whatever is sent is read within it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub request: Request,
    answer: oneshot::Sender<Answer>,
}

/// What is answered.
#[derive(Debug)]
pub enum Answer {
    /// This.
    Value(Value),
    /// It cannot be, because.
    Error(String),
    /// This, and then a file as it grows.
    File(Value, mpsc::Receiver<Vec<u8>>),
}

impl Question {
    /// Answers; a client that no longer waits gets nothing.
    pub fn answer(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }
}

/// The socket. Dropped, it is gone.
pub struct Server {
    path: PathBuf,
    questions: mpsc::Receiver<Question>,
}

impl Server {
    /// Listens in the directory of the state, which this process holds alone.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub fn start(state: &Path) -> Result<Self> {
        let path = super::socket(state);
        // What an earlier process left.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        let (sender, questions) = mpsc::channel(CONNECTIONS);
        tokio::spawn(accept(listener, sender));
        Ok(Self { path, questions })
    }

    /// The next question.
    pub(crate) fn poll(&mut self, context: &mut std::task::Context<'_>) -> Poll<Option<Question>> {
        self.questions.poll_recv(context)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, questions: mpsc::Sender<Question>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let questions = questions.clone();
                tokio::spawn(async move {
                    // The client sees that the connection ended early; nobody else needs to know.
                    let _ = serve(stream, questions).await;
                    drop(permit);
                });
            }
            // Too many open files, for one: it passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(mut stream: UnixStream, questions: mpsc::Sender<Question>) -> Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LONGEST));
    timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            questions.send(Question { request, answer }).await?;
            answered.await?
        }
        Err(error) => Answer::Error(format!("this version of Latch does not know the request: {error}")),
    };
    let (value, file) = match answer {
        Answer::Value(value) => (json!({ "ok": value }), None),
        Answer::Error(error) => (json!({ "error": error }), None),
        Answer::File(value, file) => (json!({ "ok": value }), Some(file)),
    };
    timeout(PATIENCE, writer.write_all(format!("{value}\n").as_bytes())).await??;
    let Some(mut file) = file else { return Ok(()) };
    let mut gone = [0; 1];
    loop {
        tokio::select! {
            bytes = file.recv() => match bytes {
                Some(bytes) => timeout(PATIENCE, writer.write_all(&bytes)).await??,
                None => return Ok(()),
            },
            // Nothing more is asked on this connection: it was closed.
            _ = reader.get_mut().get_mut().read(&mut gone) => return Ok(()),
        }
    }
}
