//! JSON text, member by member: for showing parts of what a program printed, in its own words and order.

/// The text without white space outside strings.
pub(crate) fn squeeze(text: &str) -> String {
    let mut inside = Strings::default();
    text.chars().filter(|&c| inside.next(c) || !c.is_whitespace()).collect()
}

/// The members of an object, or the elements of an array: squeezed text in, slices of it out.
pub(crate) fn parts(text: &str) -> Vec<&str> {
    let inner = text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
    let (mut inside, mut depth, mut start, mut parts) = (Strings::default(), 0_i32, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        if inside.next(c) {
            continue;
        }
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.extend(inner.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(inner.get(start..).filter(|last| !last.is_empty()));
    parts
}

/// The value of a member of an object.
pub(crate) fn field<'t>(object: &'t str, key: &str) -> Option<&'t str> {
    parts(object).into_iter().find_map(|part| part.strip_prefix(&format!("\"{key}\":")))
}

/// The object with these members only, an ellipsis wherever others are left out.
pub(crate) fn select(object: &str, keys: &[&str]) -> String {
    format!("{{{}}}", join(parts(object).into_iter().map(|part| keys.contains(&key(part)).then(|| part.to_owned()))))
}

/// The value without these members, wherever in it they stand; an ellipsis in the place of each.
pub(crate) fn omit(value: &str, keys: &[&str]) -> String {
    let (Some(first), Some(last)) = (value.chars().next(), value.chars().last()) else { return String::new() };
    if !['{', '['].contains(&first) {
        return value.to_owned();
    }
    let shown = parts(value).into_iter().map(|part| {
        let (key_text, value) = part.split_at(key_length(part));
        (!keys.contains(&key(part))).then(|| format!("{key_text}{}", omit(value, keys)))
    });
    format!("{first}{}{last}", join(shown))
}

/// The parts with commas between, an ellipsis for each run of those that are not there.
fn join(parts: impl Iterator<Item = Option<String>>) -> String {
    let mut shown: Vec<String> = parts.map(|part| part.unwrap_or_else(|| "…".into())).collect();
    shown.dedup_by(|next, before| next == "…" && before == "…");
    shown.join(",")
}

/// The key of a member; nothing where it is an element.
fn key(part: &str) -> &str {
    part.get(..key_length(part)).unwrap_or_default().trim_end_matches(':').trim_matches('"')
}

/// Length of a member's key with quotes and colon, 0 where there is none. Keys hold no quotes.
fn key_length(part: &str) -> usize {
    if part.starts_with('"') { part.find("\":").map_or(0, |at| at + 2) } else { 0 }
}

/// Columns that should be free where a value begins that fits on no line.
const ROOM: usize = 30;

/// Lines of at most `width` characters where that is possible, broken between members; a line begins further right, the
/// deeper it stands.
pub(crate) fn fold(text: &str, width: usize) -> Vec<String> {
    let mut page = Page { lines: Vec::new(), line: String::new(), width };
    page.write(text, "", 0);
    page.lines.push(page.line);
    page.lines
}

struct Page {
    lines: Vec<String>,
    line: String,
    width: usize,
}

impl Page {
    /// Writes a value, or a member with its key, and `after` it what closes or follows it.
    fn write(&mut self, text: &str, after: &str, depth: usize) {
        let whole = format!("{}{after}", airy(text));
        let margin = " ".repeat(depth);
        let length = whole.trim_end().chars().count();
        // What fits nowhere may as well begin here.
        let move_on = if depth + length <= self.width { !self.fits(length) } else { !self.fits(length.min(ROOM)) };
        if move_on && !self.line.trim().is_empty() {
            let full = std::mem::replace(&mut self.line, margin);
            self.lines.push(full.trim_end().to_owned());
        }
        let (key, value) = text.split_at(key_length(text));
        let parts = parts(value);
        if self.fits(length) || !value.starts_with(['{', '[']) || parts.is_empty() {
            self.line += &whole;
            return;
        }
        self.line += &airy(key);
        self.line += value.get(..1).unwrap_or_default();
        let close = format!("{}{after}", value.chars().last().unwrap_or_default());
        let inside = if value.starts_with('{') { depth + 2 } else { depth };
        for (number, part) in parts.iter().enumerate() {
            let last = number + 1 == parts.len();
            self.write(part, if last { &close } else { ", " }, inside);
        }
    }

    fn fits(&self, length: usize) -> bool {
        self.line.chars().count() + length <= self.width
    }
}

/// With a space after each colon and comma, but not between numbers.
fn airy(text: &str) -> String {
    let mut inside = Strings::default();
    let mut airy = String::new();
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        airy.push(c);
        let number_follows = characters.peek().is_some_and(|next| next.is_ascii_digit());
        if !inside.next(c) && (c == ':' || (c == ',' && !number_follows)) {
            airy.push(' ');
        }
    }
    airy
}

/// Follows a JSON text and knows what is inside its strings.
#[derive(Default)]
struct Strings {
    string: bool,
    escaped: bool,
}

impl Strings {
    /// Takes the next character; true where it belongs to a string, the quotes included.
    fn next(&mut self, c: char) -> bool {
        let inside = self.string || c == '"';
        match (self.string, self.escaped, c) {
            (true, true, _) => self.escaped = false,
            (true, false, '\\') => self.escaped = true,
            (_, false, '"') => self.string = !self.string,
            _ => {}
        }
        inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str =
        "[{\n\t\"key\": 7,\n\t\"value\": {\n\t\t\"a\": [1,2\n\t\t],\"b\": {\"c\": \"x, \\\" {y\"\n}, \"d\": 0 }\n}\n]";

    #[test]
    fn members_are_found_and_chosen_as_they_stand() {
        let text = squeeze(DUMP);
        let entry = parts(&text)[0];
        assert_eq!(field(entry, "key"), Some("7"));
        let value = field(entry, "value").unwrap();
        assert_eq!(parts(value), ["\"a\":[1,2]", "\"b\":{\"c\":\"x, \\\" {y\"}", "\"d\":0"]);
        assert_eq!(select(value, &["a", "d"]), "{\"a\":[1,2],…,\"d\":0}");
        assert_eq!(omit(&text, &["c", "a"]), "[{\"key\":7,\"value\":{…,\"b\":{…},\"d\":0}}]");
    }

    #[test]
    fn what_fits_stays_on_one_line() {
        let text = squeeze(DUMP);
        assert_eq!(
            fold(&text, 80),
            ["[{\"key\": 7, \"value\": {\"a\": [1,2], \"b\": {\"c\": \"x, \\\" {y\"}, \"d\": 0}}]"]
        );
        let narrow = fold(field(parts(&text)[0], "value").unwrap(), 20);
        assert_eq!(narrow, ["{\"a\": [1,2],", "  \"b\": {", "    \"c\": \"x, \\\" {y\"},", "  \"d\": 0}"]);
    }
}
