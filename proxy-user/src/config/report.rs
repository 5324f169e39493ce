//! What is wrong with a configuration: the place, the field, and what would be right.

use std::{collections::BTreeMap, fmt, path::PathBuf};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line and column in the file, from 1; `None` where no line of the file is the cause.
    pub place: Option<(usize, usize)>,
    /// Path of the field, such as `realm[0].ports`; empty where it is the file as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub remedy: String,
}

/// Everything that is wrong, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.file.display())?;
            if let Some((line, column)) = problem.place {
                write!(f, ":{line}:{column}")?;
            }
            if !problem.field.is_empty() {
                write!(f, ": {}", problem.field)?;
            }
            write!(f, ": {}\n    {}", problem.message, problem.remedy)?;
        }
        Ok(())
    }
}

/// Collects problems and knows where each field is in the file.
pub(super) struct Report<'a> {
    text: &'a str,
    places: BTreeMap<String, usize>,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, places: BTreeMap::new(), problems: Vec::new() }
    }

    /// The field begins at this byte of the text.
    pub(super) fn place(&mut self, field: &str, offset: usize) {
        self.places.insert(field.into(), offset);
    }

    /// Whether the file has this field.
    pub(super) fn stands(&self, field: &str) -> bool {
        self.places.contains_key(field)
    }

    /// A problem with a field: shown at its place, or at the section that lacks it.
    pub(super) fn problem(&mut self, field: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let mut known = field;
        let offset = loop {
            match (self.places.get(known), known.rfind('.')) {
                (Some(&offset), _) => break Some(offset),
                (None, Some(dot)) => known = known.get(..dot).unwrap_or_default(),
                (None, None) => break None,
            }
        };
        self.push(offset, field, message, remedy);
    }

    /// A problem at a byte of the text.
    pub(super) fn problem_at(
        &mut self,
        offset: usize,
        field: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(Some(offset), field, message, remedy);
    }

    /// Forgets the problems, but not the places of the fields.
    pub(super) fn clear(&mut self) {
        self.problems.clear();
    }

    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// The problems in the order of the file, those without a place last.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.place.unwrap_or((usize::MAX, 0)));
        self.problems
    }

    fn push(&mut self, offset: Option<usize>, field: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let place = offset.map(|offset| line_and_column(self.text, offset));
        self.problems.push(Problem { place, field: field.into(), message: message.into(), remedy: remedy.into() });
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line, before.get(line_start..).unwrap_or_default().chars().count() + 1)
}
