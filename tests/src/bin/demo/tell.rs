//! The demo's voice: a line for each step, ticked when what it says has been checked.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context, Result};

/// Columns that the text may take.
pub(crate) const WIDTH: usize = 98;

/// Where a step's text begins.
const MARGIN: usize = 12;

/// Writes to standard output, in colour and with the step that is going on where that is a terminal.
pub(crate) struct Teller {
    terminal: bool,
    colour: bool,
    step: Option<&'static str>,
}

impl Teller {
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        // https://no-color.org: present and not empty.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { terminal, colour: terminal && !refused, step: None }
    }

    /// A plain line.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// The title.
    pub(crate) fn title(&self, text: &str) -> Result<()> {
        self.line(&self.paint("1", text))
    }

    /// A step begins: `doing` is shown while it lasts, on a terminal.
    pub(crate) fn begin(&mut self, step: &'static str, doing: &str) -> Result<()> {
        self.step = Some(step);
        if self.terminal {
            self.write(&format!("{} {step:<1$}{doing} ...", self.paint("33", "·"), MARGIN - 2))?;
        }
        Ok(())
    }

    /// The step succeeded: what was checked.
    pub(crate) fn done(&mut self, text: &str) -> Result<()> {
        let step = self.step.take().unwrap_or_default();
        let name = self.paint("1", &format!("{step:<0$}", MARGIN - 2));
        self.write(&format!("{}{} {name}{text}\n", self.erase(), self.paint("32", "✓")))
    }

    /// A further line of the step before.
    pub(crate) fn more(&self, text: &str) -> Result<()> {
        self.line(&format!("{:1$}{text}", "", MARGIN))
    }

    /// A command that was run, and what it is about.
    pub(crate) fn command(&self, command: &str, about: &str) -> Result<()> {
        self.line(&format!("    $ {command}  {}", self.paint("2", &format!("# {about}"))))
    }

    /// Something a program printed.
    pub(crate) fn quote(&self, lines: &[String]) -> Result<()> {
        lines.iter().try_for_each(|line| self.line(&format!("    {}", self.paint("36", line))))
    }

    /// The step that is going on failed.
    pub(crate) fn failed(&mut self, why: &str) {
        let step = self.step.take().unwrap_or("Demo");
        // Standard output may be what failed.
        let _ =
            self.write(&format!("{}{} {step:<width$}{why}\n", self.erase(), self.paint("31", "✗"), width = MARGIN - 2));
    }

    fn erase(&self) -> &'static str {
        if self.terminal { "\r\x1b[2K" } else { "" }
    }

    fn paint(&self, how: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{how}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(&self, text: &str) -> Result<()> {
        let mut output = io::stdout().lock();
        output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("cannot write to standard output")
    }
}
