//! What one Rust file declares and names, read token by token. Test code is left out.

use std::collections::{HashMap, HashSet};

/// A piece of Rust without comments and literals, except strings.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

/// A path as it is written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// One name that a `use` brings in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) named: Named,
    /// The name that it has here; `*` for all names of a module.
    pub(super) alias: String,
    pub(super) is_public: bool,
}

/// A module as its text has it: a file, or a block in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// Modules in files of their own, with the file that an attribute names.
    pub(super) files: Vec<(String, Option<String>)>,
    /// Modules in blocks.
    pub(super) blocks: Vec<(String, Source)>,
    /// Names of functions, types, constants and the like.
    pub(super) items: HashSet<String>,
    pub(super) uses: Vec<Use>,
    /// Paths in code.
    pub(super) paths: Vec<Named>,
    /// How often each identifier stands outside of `use`.
    pub(super) words: HashMap<String, usize>,
}

const ITEMS: [&str; 8] = ["fn", "struct", "enum", "union", "trait", "type", "const", "static"];

/// Reads a file.
pub(super) fn read(text: &str) -> Source {
    let tokens = without_tests(&tokens(text));
    let mut source = Source::default();
    module(&tokens, &mut source);
    source
}

/// Reads the tokens of a module.
fn module(tokens: &[Token], source: &mut Source) {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let (mut at, mut depth, mut file) = (0, 0usize, None);
    while at < tokens.len() {
        match text(at) {
            "#" if text(at + 1) == "[" && text(at + 2) == "path" => {
                file = Some(text(at + 4).trim_matches('"').to_owned());
                at += 5;
            }
            // A visibility is no import.
            "pub" if text(at + 1) == "(" && text(at + 2) == "in" => {
                at = end_of_group(tokens, at + 1);
                continue;
            }
            "mod" if depth == 0 && text(at + 2) == ";" => {
                source.files.push((text(at + 1).to_owned(), file.take()));
                at += 2;
            }
            "mod" if depth == 0 && text(at + 2) == "{" => {
                let end = end_of_group(tokens, at + 2);
                let mut block = Source::default();
                module(&tokens[at + 3..end - 1], &mut block);
                source.blocks.push((text(at + 1).to_owned(), block));
                at = end;
                continue;
            }
            "use" if text(at.wrapping_sub(1)) != "::" => {
                let is_public = depth == 0 && is_after_visibility(tokens, at);
                at = uses(tokens, at + 1, is_public, &mut source.uses);
            }
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            "macro_rules" if depth == 0 => drop(source.items.insert(text(at + 2).to_owned())),
            word if is_word(word) => {
                if depth == 0 && ITEMS.contains(&word) {
                    source.items.insert(text(at + 1).to_owned());
                }
                *source.words.entry(word.to_owned()).or_default() += 1;
                if text(at + 1) == "::" && !matches!(text(at.wrapping_sub(1)), "::" | ".") {
                    let line = tokens[at].line;
                    let mut path = vec![word.to_owned()];
                    while text(at + 1) == "::" && is_word(text(at + 2)) {
                        path.push(text(at + 2).to_owned());
                        at += 2;
                    }
                    source.paths.push(Named { path, line });
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// Reads a `use` from behind its keyword; where it ends.
fn uses(tokens: &[Token], from: usize, is_public: bool, found: &mut Vec<Use>) -> usize {
    let end = (from..tokens.len()).find(|at| tokens[*at].text == ";").unwrap_or(tokens.len());
    let from = from + usize::from(tokens.get(from).is_some_and(|token| token.text == "::"));
    tree(&tokens[from..end], &[], is_public, found);
    end
}

/// Reads what stands between the commas of a `use`, behind `prefix`.
fn tree(tokens: &[Token], prefix: &[String], is_public: bool, found: &mut Vec<Use>) {
    let mut path = prefix.to_vec();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => {
                let end = end_of_group(tokens, at);
                for part in parts(&tokens[at + 1..end - 1]) {
                    tree(part, &path, is_public, found);
                }
                return;
            }
            "as" => break,
            "::" => {}
            // `a::{self}` is `a`.
            "self" if !path.is_empty() => {}
            word => path.push(word.to_owned()),
        }
        at += 1;
    }
    let Some(line) = tokens.first().map(|token| token.line) else { return };
    let alias = if tokens.get(at).is_some_and(|token| token.text == "as") {
        tokens.get(at + 1).map(|token| token.text.clone())
    } else {
        path.last().cloned()
    };
    if path.last().is_some_and(|last| last == "*") {
        path.pop();
    }
    found.push(Use { named: Named { path, line }, alias: alias.unwrap_or_default(), is_public });
}

/// Divides at the commas that are in no braces.
fn parts(tokens: &[Token]) -> Vec<&[Token]> {
    let mut depth = 0usize;
    tokens
        .split(|token| {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && token.text == ","
        })
        .filter(|part| !part.is_empty())
        .collect()
}

fn is_after_visibility(tokens: &[Token], at: usize) -> bool {
    let before = tokens[..at].iter().rev().map(|token| token.text.as_str());
    let mut before =
        before.skip_while(|text| matches!(*text, ")" | "(" | "in" | "::") || is_word(text) && *text != "pub");
    before.next() == Some("pub") && tokens[..at].last().is_some_and(|token| matches!(token.text.as_str(), "pub" | ")"))
}

/// Takes out every item behind `#[cfg(test)]` or the like.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_attribute(tokens, at) {
            at = end_of_item(tokens, end_of_group(tokens, at + 1));
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

fn is_test_attribute(tokens: &[Token], at: usize) -> bool {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    if !(is(at, "#") && is(at + 1, "[") && is(at + 2, "cfg")) {
        return false;
    }
    let inside = &tokens[at + 2..end_of_group(tokens, at + 1)];
    let has = |word: &str| inside.iter().any(|token| token.text == word);
    has("test") && !has("not")
}

/// Where the item that begins here ends, attributes of its own included.
fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    while is(at, "#") && is(at + 1, "[") {
        at = end_of_group(tokens, at + 1);
    }
    let begin = at;
    let is_use = tokens[begin..].iter().map(|token| token.text.as_str()).find(|text| is_word(text) && *text != "pub");
    let is_use = is_use == Some("use");
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            ";" => return at + 1,
            "{" if !is_use => return end_of_group(tokens, at),
            "{" | "(" | "[" => at = end_of_group(tokens, at),
            // A field, a variant or an argument.
            "," | "}" | ")" => return at + usize::from(token.text == ","),
            _ => at += 1,
        }
    }
    at
}

/// Behind the bracket that closes the one that stands here.
fn end_of_group(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Divides a file into words, `::`, strings and single characters.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(c) = rest.chars().next() {
        let (length, is_token) = match c {
            _ if c.is_whitespace() => (c.len_utf8(), false),
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (block_comment(rest), false),
            '\'' => (character_or_lifetime(rest), false),
            _ if string(rest).is_some() => (string(rest).unwrap_or(1), true),
            _ if c.is_alphanumeric() || c == '_' => {
                (rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len()), true)
            }
            ':' if rest.starts_with("::") => (2, true),
            _ => (c.len_utf8(), true),
        };
        let (token, after) = rest.split_at(length.max(1));
        if is_token {
            tokens.push(Token { text: token.to_owned(), line });
        }
        line += token.matches('\n').count();
        rest = after;
    }
    tokens
}

/// The length of a block comment, with those inside of it.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of `'x'`, `'\n'` or `'life`.
fn character_or_lifetime(text: &str) -> usize {
    let inner = &text[1..];
    let Some(first) = inner.chars().next() else { return 1 };
    if first == '\\' {
        return 1 + inner.char_indices().skip(2).find(|(_, c)| *c == '\'').map_or(inner.len(), |(at, _)| at + 1);
    }
    if inner[first.len_utf8()..].starts_with('\'') {
        return 2 + first.len_utf8();
    }
    1 + inner.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(inner.len())
}

/// The length of a string literal of any kind, if one stands here.
fn string(text: &str) -> Option<usize> {
    let prefix = text.find(|c: char| !matches!(c, 'b' | 'c' | 'r'))?;
    let is_raw = text[..prefix].ends_with('r');
    let body = &text[prefix..];
    let hashes = if is_raw { body.find(|c| c != '#')? } else { 0 };
    if prefix > 2 || !body[hashes..].starts_with('"') {
        return None;
    }
    let inner = &body[hashes + 1..];
    let length = if is_raw {
        let end = format!("\"{}", "#".repeat(hashes));
        inner.find(&end).map(|at| at + end.len())
    } else {
        let mut is_escaped = false;
        let end = inner.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !is_escaped;
            is_escaped = *c == '\\' && !is_escaped;
            ends
        });
        end.map(|(at, _)| at + 1)
    };
    Some(prefix + hashes + 1 + length.unwrap_or(inner.len()))
}
