//! Paths: the workspace's folders and the files that `cargo xtask build` leaves there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;

/// The workspace's root and its build folder, both absolute.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's build folder: `target`, or what `CARGO_TARGET_DIR` and the like say.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo where the workspace of xtask is.
    pub(crate) fn locate() -> Result<Self> {
        let mut metadata = Command::new(shell::cargo());
        metadata
            .args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
        let answer: serde_json::Value =
            serde_json::from_str(&shell::output(&mut metadata)?).context("reading cargo's metadata")?;
        let folder = |key: &str| {
            let path = answer.get(key).and_then(serde_json::Value::as_str);
            path.map(PathBuf::from).with_context(|| format!("cargo's metadata lacks `{key}`"))
        };
        Ok(Self { root: folder("workspace_root")?, target: folder("target_directory")? })
    }

    /// The crate of the XDP program. It is no member of the workspace.
    pub(crate) fn ebpf_crate(&self) -> PathBuf {
        self.root.join("proxy-ebpf")
    }

    /// Where the BPF objects and `versions.txt` are left for user space and the tests.
    pub(crate) fn bpf(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// The root of the tools that `cargo xtask setup` builds for this workspace alone.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }
}
