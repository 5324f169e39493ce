//! Where records go: a file or standard output, one line each.

use super::{Cdr, RecordId};
use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Takes records.
#[derive(Debug)]
pub struct CdrSink {
    target: Target,
}

#[derive(Debug)]
enum Target {
    Stdout,
    File(PathBuf),
}

impl CdrSink {
    /// Appends to the file at `path`, which is created where there is none; `-` is standard output.
    ///
    /// # Errors
    /// Where the file cannot be opened to append.
    pub fn open(path: &Path) -> Result<Self, SinkError> {
        if path == Path::new("-") {
            return Ok(Self { target: Target::Stdout });
        }
        let mut file = append(path)?;
        if is_cut_off(path) {
            // A process was killed while it wrote; its record is written again on a line of its own.
            file.write_all(b"\n").map_err(|error| SinkError::Write { path: path.to_owned(), error })?;
        }
        Ok(Self { target: Target::File(path.to_owned()) })
    }

    /// Writes a record. The file is opened again for each record, so that it can be moved away at any time; each is one
    /// write in append mode, so that several processes can share a file.
    ///
    /// # Errors
    /// Where the record was not written whole.
    pub fn write(&self, cdr: &Cdr) -> Result<(), SinkError> {
        let line = cdr.to_json_line().map_err(|error| self.failed(error.into()))?;
        match &self.target {
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&line).and_then(|()| stdout.flush()).map_err(|error| self.failed(error))
            }
            Target::File(path) => append(path)?.write_all(&line).map_err(|error| self.failed(error)),
        }
    }

    /// Ids of the records at the file's end: as many as fit in a megabyte. None on standard output.
    pub fn latest(&self) -> HashSet<RecordId> {
        const END: u64 = 1 << 20;
        let Target::File(path) = &self.target else { return HashSet::new() };
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
            let mut end = Vec::new();
            file.take(END).read_to_end(&mut end)?;
            Ok(end)
        };
        let id = |line: &[u8]| {
            let record: serde_json::Value = serde_json::from_slice(line).ok()?;
            u128::from_str_radix(record.get("id")?.as_str()?, 16).ok().map(RecordId)
        };
        read().unwrap_or_default().split(|byte| *byte == b'\n').filter_map(id).collect()
    }

    fn failed(&self, error: io::Error) -> SinkError {
        match &self.target {
            Target::Stdout => SinkError::Write { path: "standard output".into(), error },
            Target::File(path) => SinkError::Write { path: path.clone(), error },
        }
    }
}

/// Records cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file's directory does not exist.
    #[error(
        "cannot write call records to {path}: the directory {directory} does not exist; create it or set `file` in [cdr]"
    )]
    NoDirectory {
        /// The file.
        path: PathBuf,
        /// Where it should be.
        directory: PathBuf,
    },
    /// The file cannot be opened.
    #[error("cannot open {path} for call records: {error}; make it writable or set `file` in [cdr]")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A record was not written whole.
    #[error("cannot write a call record to {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Whether the last line has no end.
fn is_cut_off(path: &Path) -> bool {
    let last = || -> io::Result<u8> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last[0])
    };
    last().is_ok_and(|last| last != b'\n')
}

fn append(path: &Path) -> Result<File, SinkError> {
    // Call records are confidential: a new file is readable by its owner and group only.
    OpenOptions::new().create(true).append(true).mode(0o640).open(path).map_err(|error| match path.parent() {
        Some(directory) if error.kind() == io::ErrorKind::NotFound && !directory.is_dir() => {
            SinkError::NoDirectory { path: path.to_owned(), directory: directory.to_owned() }
        }
        _ => SinkError::Open { path: path.to_owned(), error },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::{CallDirection, EndCause, RecordId, SCHEMA, Terminal, Timestamp};
    use std::fs;

    fn cdr(id: u128) -> Cdr {
        Cdr {
            schema: SCHEMA,
            id: RecordId(id),
            call_id: "x".repeat(500),
            caller: "sip:a@example.com".into(),
            callee: "sip:b@example.com".into(),
            direction: CallDirection::CoreToAccess,
            terminal: Terminal { source: "192.0.2.1:5060".parse().unwrap(), contact: None },
            start: Timestamp(0),
            answer: None,
            end: Timestamp(1),
            duration_ms: 0,
            end_cause: EndCause::Rejected,
            final_code: Some(486),
            streams: Vec::new(),
        }
    }

    /// A directory of the test's own, removed at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("latch-cdr-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn records_of_several_writers_do_not_mix() {
        let scratch = Scratch::new("append");
        let path = scratch.0.join("cdr.jsonl");
        fs::write(&path, "{\"id\":\"before\"}\n").unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4u128 {
                let sink = CdrSink::open(&path).unwrap();
                scope.spawn(move || (0..50).for_each(|n| sink.write(&cdr(writer * 50 + n)).unwrap()));
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        let mut ids: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        let mut expected: Vec<String> = (0..200).map(|n| RecordId(n).to_string()).collect();
        expected.push("before".into());
        assert_eq!(ids, expected);
    }

    #[test]
    fn what_a_killed_process_wrote_is_known_and_its_last_line_spoils_no_other() {
        let scratch = Scratch::new("killed");
        let path = scratch.0.join("cdr.jsonl");
        let sink = CdrSink::open(&path).unwrap();
        assert!(sink.latest().is_empty());
        // Longer than what is looked at.
        for id in 0..2_000 {
            sink.write(&cdr(id)).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        let line = whole.len() / 2_000;
        fs::write(&path, &whole[..whole.len() - line / 2]).unwrap();
        let sink = CdrSink::open(&path).unwrap();
        let latest = sink.latest();
        assert!(latest.contains(&RecordId(1_998)) && !latest.contains(&RecordId(1_999)) && latest.len() > 500);
        sink.write(&cdr(1_999)).unwrap();
        assert!(sink.latest().contains(&RecordId(1_999)));
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let scratch = Scratch::new("moved");
        let (path, moved) = (scratch.0.join("cdr.jsonl"), scratch.0.join("cdr.jsonl.1"));
        let sink = CdrSink::open(&path).unwrap();
        sink.write(&cdr(1)).unwrap();
        fs::rename(&path, &moved).unwrap();
        sink.write(&cdr(2)).unwrap();
        for file in [&path, &moved] {
            assert_eq!(fs::read_to_string(file).unwrap().lines().count(), 1);
        }
    }

    #[test]
    fn a_dash_is_standard_output() {
        let sink = CdrSink::open(Path::new("-")).unwrap();
        assert!(matches!(sink.target, Target::Stdout));
        assert!(!Path::new("-").exists());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let scratch = Scratch::new("missing");
        let directory = scratch.0.join("none");
        let path = directory.join("cdr.jsonl");
        let message = CdrSink::open(&path).unwrap_err().to_string();
        assert_eq!(
            message,
            format!(
                "cannot write call records to {}: the directory {} does not exist; create it or set `file` in [cdr]",
                path.display(),
                directory.display()
            )
        );
    }

    #[test]
    fn a_directory_is_no_file() {
        let scratch = Scratch::new("directory");
        assert!(matches!(CdrSink::open(&scratch.0), Err(SinkError::Open { .. })));
    }
}
