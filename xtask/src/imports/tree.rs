//! The modules of a crate, and which file each path in them leads to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::source::{self, Named, Source};

/// Paths through more re-exports than these go round in a circle.
const DEEPEST: usize = 16;

/// A file that names something of another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    /// Relative to the crate's sources, as all files here.
    pub(super) from: String,
    pub(super) to: String,
    pub(super) line: usize,
    /// As it is written.
    pub(super) path: String,
}

#[derive(Debug)]
struct Module {
    file: String,
    parent: Option<usize>,
    children: HashMap<String, usize>,
    /// Modules whose files are elsewhere.
    outside: HashSet<String>,
    source: Source,
}

/// A library and a binary that share a folder of sources.
#[derive(Debug, Default)]
pub(super) struct Tree {
    modules: Vec<Module>,
    /// The name by which the binary knows the library, and its root.
    library: Option<(String, usize)>,
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Module(usize),
    /// Something in this module.
    Item(usize),
}

impl Tree {
    /// Reads `lib.rs` and `main.rs` in `sources`, and all their modules but tests.
    pub(super) fn read(sources: &Path, library: &str) -> Result<Self> {
        let mut tree = Self::default();
        for root in ["lib.rs", "main.rs"] {
            if sources.join(root).exists() {
                let module = tree.add_file(sources, Path::new(root), None)?;
                if root == "lib.rs" {
                    tree.library = Some((library.to_owned(), module));
                }
            }
        }
        Ok(tree)
    }

    /// Every import of one file from another, each file and name once.
    pub(super) fn imports(&self) -> Vec<Import> {
        let mut found = BTreeMap::new();
        for (index, module) in self.modules.iter().enumerate() {
            let mut add = |named: &Named, target: Option<Target>| {
                let Some(to) = target.and_then(|target| self.file_of(target)) else { return };
                if to != module.file {
                    let import = Import {
                        from: module.file.clone(),
                        to: to.to_owned(),
                        line: named.line,
                        path: named.path.join("::"),
                    };
                    found.entry((import.from.clone(), import.to.clone())).or_insert(import);
                }
            };
            for used in &module.source.uses {
                let target = self.resolve(index, &used.named.path, 0);
                let is_written = module.source.words.contains_key(&used.alias);
                // What a parent hands on of its children is theirs, unless it uses it itself.
                let only_hands_on =
                    used.is_public && !is_written && target.is_some_and(|target| self.is_below(target, index));
                // A module is looked at where something of it is named.
                let is_looked_at = matches!(target, Some(Target::Module(_))) && used.alias != "*" && is_written;
                if !only_hands_on && !is_looked_at {
                    add(&used.named, target);
                }
            }
            for named in &module.source.paths {
                add(named, self.resolve(index, &named.path, 0));
            }
        }
        found.into_values().collect()
    }

    fn add_file(&mut self, sources: &Path, file: &Path, parent: Option<usize>) -> Result<usize> {
        let text =
            std::fs::read_to_string(sources.join(file)).with_context(|| format!("reading {}", file.display()))?;
        self.add(sources, file, source::read(&text), parent, &folder_of(file))
    }

    /// `folder` is where the files of the module's children are.
    fn add(
        &mut self,
        sources: &Path,
        file: &Path,
        source: Source,
        parent: Option<usize>,
        folder: &Path,
    ) -> Result<usize> {
        let index = self.modules.len();
        let children = HashMap::new();
        let name = file.to_string_lossy().into_owned();
        let outside = source.files.iter().filter(|(_, place)| place.is_some()).map(|(name, _)| name.clone()).collect();
        self.modules.push(Module { file: name, parent, children, outside, source: source.clone() });
        for (name, _) in source.files.iter().filter(|(_, place)| place.is_none()) {
            let places = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
            let place = places.iter().find(|place| sources.join(place).exists());
            let place = place.with_context(|| format!("{}: no file for module {name}", file.display()))?;
            let child = self.add_file(sources, place, Some(index))?;
            self.modules[index].children.insert(name.clone(), child);
        }
        for (name, block) in &source.blocks {
            let child = self.add(sources, file, block.clone(), Some(index), &folder.join(name))?;
            self.modules[index].children.insert(name.clone(), child);
        }
        Ok(index)
    }

    /// A module that only declares and re-exports counts for nothing itself.
    fn file_of(&self, target: Target) -> Option<&str> {
        match target {
            Target::Module(module) if self.modules[module].source.items.is_empty() => None,
            Target::Module(module) | Target::Item(module) => Some(&self.modules[module].file),
        }
    }

    fn is_below(&self, target: Target, module: usize) -> bool {
        let (Target::Module(mut at) | Target::Item(mut at)) = target;
        loop {
            match self.modules[at].parent {
                Some(parent) if parent == module => return true,
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    /// Where a path in `module` leads; `None` for one into another crate.
    fn resolve(&self, module: usize, path: &[String], depth: usize) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        if depth > DEEPEST {
            return None;
        }
        match first.as_str() {
            "crate" => self.walk(self.root_of(module), rest, depth),
            "self" => self.walk(module, rest, depth),
            "super" => self.walk_up(module, rest, depth),
            name if self.library.as_ref().is_some_and(|(library, _)| library == name) => {
                self.walk(self.library.as_ref()?.1, rest, depth)
            }
            name => {
                let here = &self.modules[module];
                if let Some(child) = here.children.get(name) {
                    return self.walk(*child, rest, depth);
                }
                // A name that a `use` brings in.
                let used = here.source.uses.iter().find(|used| used.alias == name)?;
                if used.named.path == [name] {
                    return None;
                }
                self.resolve(module, &[&used.named.path[..], rest].concat(), depth + 1)
            }
        }
    }

    fn walk_up(&self, module: usize, rest: &[String], depth: usize) -> Option<Target> {
        let parent = self.modules[module].parent?;
        match rest.split_first() {
            Some((first, rest)) if first == "super" => self.walk_up(parent, rest, depth),
            _ => self.walk(parent, rest, depth),
        }
    }

    fn root_of(&self, module: usize) -> usize {
        self.modules[module].parent.map_or(module, |parent| self.root_of(parent))
    }

    /// Goes down from `module`, through what it hands on.
    fn walk(&self, module: usize, path: &[String], depth: usize) -> Option<Target> {
        let Some((first, rest)) = path.split_first() else { return Some(Target::Module(module)) };
        if depth > DEEPEST {
            return None;
        }
        let here = &self.modules[module];
        if let Some(child) = here.children.get(first) {
            return self.walk(*child, rest, depth);
        }
        if here.outside.contains(first) {
            return None;
        }
        if here.source.items.contains(first) {
            return Some(Target::Item(module));
        }
        if let Some(used) = here.source.uses.iter().find(|used| used.alias == *first) {
            return self.resolve(module, &[&used.named.path[..], rest].concat(), depth + 1);
        }
        for all in here.source.uses.iter().filter(|used| used.alias == "*") {
            if let Some(Target::Module(other)) = self.resolve(module, &all.named.path, depth + 1)
                && other != module
                && self.has(other, first)
            {
                return self.walk(other, path, depth + 1);
            }
        }
        Some(Target::Item(module))
    }

    /// Whether a module itself names something so.
    fn has(&self, module: usize, name: &str) -> bool {
        let here = &self.modules[module];
        let is_used = here.source.uses.iter().any(|used| used.alias == name || used.alias == "*");
        here.children.contains_key(name) || here.source.items.contains(name) || is_used
    }
}

/// Where the files of a file's child modules are.
fn folder_of(file: &Path) -> PathBuf {
    let parent = file.parent().unwrap_or(Path::new(""));
    match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib" | "main") | None => parent.to_path_buf(),
        Some(stem) => parent.join(stem),
    }
}
