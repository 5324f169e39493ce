//! Which files of Latch's control plane may know of which: no cycles, and no upper layer from below.
//!
//! - `source`: what one file declares and names;
//! - `tree`: which file each name leads to, through modules that only hand on what their children have;
//! - here: what is refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;
use tree::{Import, Tree};

mod source;
mod tree;

/// Files under the first may import nothing from files under the others. `*` means one folder.
const LAYERS: [(&str, &[&str]); 6] = [
    ("io", &["signalling/*"]),
    ("engine", &["signalling", "io", "datapath"]),
    ("sdp", &["engine", "signalling"]),
    ("media", &["engine", "signalling"]),
    ("signalling", &["io", "datapath"]),
    // Itself is left out below.
    ("signalling/*/syntax", &[""]),
];

/// What breaks the rules today. One that is no longer needed is a finding itself: remove it.
const EXCEPTIONS: &[Exception] = &[];

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// No file imports itself through others.
    Cycles,
    /// [`LAYERS`].
    Layers,
}

/// Imports that a rule does not see.
#[derive(Clone, Copy, Debug)]
struct Exception {
    rule: Rule,
    /// A file, or a folder of them.
    from: &'static str,
    /// A file, or a folder of them.
    to: &'static str,
}

impl Exception {
    fn covers(&self, rule: Rule, import: &Import) -> bool {
        self.rule == rule && is_under(&import.from, self.from) && is_under(&import.to, self.to)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} may import {}", self.rule, self.from, self.to)
    }
}

/// Checks the control plane's sources.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let sources = workspace.root.join("proxy-user/src");
    let findings = findings(&sources, EXCEPTIONS)?;
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = findings.iter().map(|finding| format!("  {finding}")).collect();
    bail!("imports that are not allowed (xtask/src/imports.rs):\n{}", lines.join("\n"))
}

fn findings(sources: &Path, exceptions: &[Exception]) -> Result<Vec<String>> {
    let tree = Tree::read(sources, "proxy_user").context("cannot read the modules of proxy-user")?;
    let imports = tree.imports();
    let shown = |import: &Import| {
        let file = sources.join(&import.from);
        format!("{}:{}: {} is in {}", relative(&file), import.line, import.path, import.to)
    };
    let is_excepted = |rule, import: &Import| exceptions.iter().any(|exception| exception.covers(rule, import));
    let mut findings = Vec::new();

    let (excepted, refused): (Vec<_>, Vec<_>) =
        imports.iter().filter(|import| breaks_a_layer(import)).partition(|import| is_excepted(Rule::Layers, import));
    findings.extend(refused.into_iter().map(|import| format!("{}, which is another layer", shown(import))));

    let kept: Vec<_> = imports.iter().filter(|import| !is_excepted(Rule::Cycles, import)).collect();
    for cycle in cycles(&kept) {
        let steps: Vec<_> = cycle.into_iter().map(shown).collect();
        findings.push(format!("a cycle:\n    {}", steps.join("\n    ")));
    }

    let every: Vec<_> = imports.iter().collect();
    let in_cycles: Vec<_> = tangles(&every).into_iter().flatten().collect();
    for exception in exceptions {
        let of_rule = match exception.rule {
            Rule::Layers => &excepted,
            Rule::Cycles => &in_cycles,
        };
        if !of_rule.iter().any(|import| exception.covers(exception.rule, import)) {
            findings.push(format!("the exception ({exception}) is no longer needed: remove it"));
        }
    }
    Ok(findings)
}

fn relative(file: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(""));
    file.strip_prefix(root).unwrap_or(file).display().to_string()
}

fn breaks_a_layer(import: &Import) -> bool {
    LAYERS.iter().any(|(layer, forbidden)| {
        let Some(own) = layer_of(&import.from, layer) else { return false };
        !is_under(&import.to, &own) && forbidden.iter().any(|other| is_in(&import.to, other))
    })
}

/// The folder of a layer that a file is in; the layer may have a `*` in it.
fn layer_of(file: &str, layer: &str) -> Option<String> {
    let mut parts = file.split('/');
    let folder: Option<Vec<_>> =
        layer.split('/').map(|part| parts.next().filter(|found| part == "*" || is_named(found, part))).collect();
    folder.map(|folder| folder.join("/"))
}

/// Whether a file is in a folder, which may be any folder in another one: `engine`, `signalling/*`.
fn is_in(file: &str, folder: &str) -> bool {
    match folder.strip_suffix("*") {
        Some(parent) => file.strip_prefix(parent).is_some_and(|rest| rest.contains('/')),
        None => is_under(file, folder),
    }
}

/// Whether a file is in a folder, or is the folder's own module.
fn is_under(file: &str, folder: &str) -> bool {
    let rest = file.strip_prefix(folder);
    folder.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
}

fn is_named(part: &str, name: &str) -> bool {
    part == name || part.strip_suffix(".rs") == Some(name)
}

/// One cycle of each tangle, the shortest.
fn cycles<'a>(imports: &[&'a Import]) -> Vec<Vec<&'a Import>> {
    let shortest =
        |tangle: Vec<&'a Import>| tangle.iter().filter_map(|first| way_back(first, &tangle)).min_by_key(Vec::len);
    tangles(imports).into_iter().filter_map(shortest).collect()
}

/// From an import's target back to its file, by the fewest imports, itself first.
fn way_back<'a>(first: &'a Import, imports: &[&'a Import]) -> Option<Vec<&'a Import>> {
    let mut seen = BTreeSet::from([first.to.as_str()]);
    let mut queue = VecDeque::from([vec![first]]);
    while let Some(way) = queue.pop_front() {
        let at = way.last()?.to.as_str();
        if at == first.from {
            return Some(way);
        }
        for next in imports.iter().filter(|import| import.from == at) {
            if seen.insert(&next.to) {
                queue.push_back([&way[..], &[*next]].concat());
            }
        }
    }
    None
}

/// The imports between files that all lead to each other, a tangle each.
fn tangles<'a>(imports: &[&'a Import]) -> Vec<Vec<&'a Import>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports {
        next.entry(&import.from).or_default().insert(&import.to);
    }
    let reach = |from: &'a str| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![from]);
        while let Some(at) = todo.pop() {
            todo.extend(next.get(at).into_iter().flatten().filter(|to| seen.insert(**to)));
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        imports.iter().map(|import| import.from.as_str()).map(|file| (file, reach(file))).collect();
    let mutual = |one: &str, other: &str| {
        reached.get(one).is_some_and(|to| to.contains(other)) && reached.get(other).is_some_and(|to| to.contains(one))
    };
    let mut tangles: Vec<Vec<&Import>> = Vec::new();
    for import in imports.iter().filter(|import| mutual(&import.from, &import.to)) {
        match tangles.iter_mut().find(|tangle| tangle.iter().any(|other| mutual(&other.from, &import.from))) {
            Some(tangle) => tangle.push(import),
            None => tangles.push(vec![import]),
        }
    }
    tangles
}

#[cfg(test)]
mod tests;
