//! Where the XDP program's object file comes from.

use anyhow::{Context as _, Result, bail};
use std::borrow::Cow;

/// The program's name in it.
pub(super) const PROGRAM: &str = "latch";

/// The object that was there when this binary was built.
const EMBEDDED: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/object.rs"));

/// Names an object file that is used instead of the embedded one.
const VARIABLE: &str = "LATCH_BPF_OBJECT";

/// The object's bytes, and where they are from.
///
/// # Errors
///
/// The file that the environment names cannot be read, or there is no object at all.
pub fn find() -> Result<(Cow<'static, [u8]>, String)> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = std::path::PathBuf::from(path);
        let bytes = std::fs::read(&path).with_context(|| format!("{VARIABLE} names {}", path.display()))?;
        return Ok((bytes.into(), path.display().to_string()));
    }
    match EMBEDDED {
        Some(bytes) => Ok((bytes.into(), "embedded in this binary".into())),
        None => bail!(
            "this binary was built without the XDP program: run `cargo xtask build`, or name an object file in \
             {VARIABLE}"
        ),
    }
}
