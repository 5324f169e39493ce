//! One table of the file: its values by name and type, each with its place; values that were not read are reported as
//! unknown.

use super::report::Report;
use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A table, whose fields are read one by one. End with [`Section::finish`].
pub(super) struct Section<'i> {
    path: String,
    table: DeTable<'i>,
    asked: Vec<&'static str>,
}

impl<'i> Section<'i> {
    /// `path` is "" for the whole file, else such as `realm[0]`.
    pub(super) fn new(path: impl Into<String>, table: DeTable<'i>) -> Self {
        Self { path: path.into(), table, asked: Vec::new() }
    }

    /// The full path of a field.
    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }

    /// A table of tables, empty where there is none.
    pub(super) fn tables(&mut self, name: &'static str, report: &mut Report<'_>) -> Vec<Section<'i>> {
        let path = self.path(name);
        let remedy = format!("write [[{path}]] above each one's fields");
        let Some(value) = self.take(name, report) else { return Vec::new() };
        let DeValue::Array(items) = value.into_inner() else {
            report.problem(&path, "is not a list of tables", remedy);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            report.place(&path, item.span().start);
            match item.into_inner() {
                DeValue::Table(table) => sections.push(Section::new(path, table)),
                _ => report.problem(&path, "is not a table", remedy.clone()),
            }
        }
        sections
    }

    /// A table, empty where there is none.
    pub(super) fn table(&mut self, name: &'static str, report: &mut Report<'_>) -> Section<'i> {
        let path = self.path(name);
        match self.take(name, report).map(Spanned::into_inner) {
            Some(DeValue::Table(table)) => Section::new(path, table),
            None => Section::new(path, DeTable::new()),
            Some(_) => {
                report.problem(&path, "is not a table", format!("write [{path}] above its fields"));
                Section::new(path, DeTable::new())
            }
        }
    }

    /// A string.
    pub(super) fn string(&mut self, name: &'static str, report: &mut Report<'_>) -> Option<String> {
        match self.take(name, report)?.into_inner() {
            DeValue::String(text) => Some(text.into_owned()),
            other => {
                let remedy = format!("put it in quotes: {name} = \"…\"");
                report.problem(&self.path(name), format!("is {}, not a string", kind(&other)), remedy);
                None
            }
        }
    }

    /// True or false, if it is there.
    pub(super) fn boolean(&mut self, name: &'static str, report: &mut Report<'_>) -> Option<bool> {
        match self.take(name, report)?.into_inner() {
            DeValue::Boolean(value) => Some(value),
            other => {
                let message = format!("is {}, not true or false", kind(&other));
                report.problem(
                    &self.path(name),
                    message,
                    format!("write {name} = true or {name} = false, without quotes"),
                );
                None
            }
        }
    }

    /// Whether a field is there and is a string.
    pub(super) fn is_string(&self, name: &str) -> bool {
        matches!(self.table.get(name).map(Spanned::get_ref), Some(DeValue::String(_)))
    }

    /// A list of strings, empty where there is none.
    pub(super) fn strings(&mut self, name: &'static str, report: &mut Report<'_>) -> Vec<String> {
        let path = self.path(name);
        let remedy = format!("write it like {name} = [\"…\", \"…\"]");
        let Some(value) = self.take(name, report) else { return Vec::new() };
        let DeValue::Array(items) = value.into_inner() else {
            report.problem(&path, "is not a list of strings", remedy);
            return Vec::new();
        };
        let mut strings = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            report.place(&path, item.span().start);
            match item.into_inner() {
                DeValue::String(text) => strings.push(text.into_owned()),
                other => report.problem(&path, format!("is {}, not a string", kind(&other)), remedy.clone()),
            }
        }
        strings
    }

    /// A string that must be there; `example` is what could be written.
    pub(super) fn required(&mut self, name: &'static str, example: &str, report: &mut Report<'_>) -> Option<String> {
        if !self.table.contains_key(name) {
            self.asked.push(name);
            report.problem(&self.path(name), "is missing", format!("add {name} = \"{example}\""));
            return None;
        }
        self.string(name, report)
    }

    /// A string that must be there and mean a `T`; `what` names a `T`.
    pub(super) fn parsed<T: FromStr>(
        &mut self,
        name: &'static str,
        what: &str,
        example: &str,
        report: &mut Report<'_>,
    ) -> Option<T> {
        let text = self.required(name, example, report)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            report.problem(
                &self.path(name),
                format!("\"{text}\" is not {what}"),
                format!("write it like {name} = \"{example}\""),
            );
        }
        parsed
    }

    /// A whole number in a range.
    pub(super) fn number<T>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<T>,
        default: T,
        report: &mut Report<'_>,
    ) -> T
    where
        T: TryFrom<i128> + PartialOrd + Display + Copy,
    {
        let Some(value) = self.take(name, report) else { return default };
        let number = match value.get_ref() {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            other => {
                let message = format!("is {}, not a whole number", kind(other));
                report.problem(&self.path(name), message, format!("write it like {name} = {default}"));
                return default;
            }
        };
        match number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                report.problem(
                    &self.path(name),
                    "is out of range",
                    format!("use {} to {}; the default is {default}", range.start(), range.end()),
                );
                default
            }
        }
    }

    /// A whole number in a range, if it is there.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<T>,
        report: &mut Report<'_>,
    ) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + Display + Copy,
    {
        let value = self.take(name, report)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            other => {
                let message = format!("is {}, not a whole number", kind(other));
                let remedy = format!("use {} to {}, or leave it out", range.start(), range.end());
                report.problem(&self.path(name), message, remedy);
                return None;
            }
        };
        let number = number.and_then(|number| T::try_from(number).ok()).filter(|number| range.contains(number));
        if number.is_none() {
            let remedy = format!("use {} to {}, or leave it out", range.start(), range.end());
            report.problem(&self.path(name), "is out of range", remedy);
        }
        number
    }

    /// A whole number of seconds.
    pub(super) fn seconds(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
        default: Duration,
        report: &mut Report<'_>,
    ) -> Duration {
        Duration::from_secs(self.number(name, range, default.as_secs(), report))
    }

    /// A whole number of milliseconds.
    pub(super) fn millis(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
        default: Duration,
        report: &mut Report<'_>,
    ) -> Duration {
        Duration::from_millis(self.number(name, range, u64::try_from(default.as_millis()).unwrap_or(u64::MAX), report))
    }

    /// Reports every field that nobody asked for.
    pub(super) fn finish(self, report: &mut Report<'_>) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            let best = self
                .asked
                .iter()
                .map(|known| (strsim::jaro_winkler(name, known), known))
                .max_by(|(one, _), (other, _)| one.total_cmp(other))
                .filter(|(similarity, _)| *similarity > 0.8);
            let known = self.asked.join(", ");
            let remedy = match best {
                Some((_, best)) => format!("did you mean {best}? Known here: {known}"),
                None => format!("remove it. Known here: {known}"),
            };
            report.problem_at(key.span().start, &self.path(name), "is not a known field", remedy);
        }
    }

    fn take(&mut self, name: &'static str, report: &mut Report<'_>) -> Option<Spanned<DeValue<'i>>> {
        self.asked.push(name);
        let value = self.table.remove(name)?;
        report.place(&self.path(name), value.span().start);
        Some(value)
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
