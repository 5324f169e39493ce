//! Where the BPF programs' object files come from.

use anyhow::{Context as _, Result, bail};
use std::borrow::Cow;

/// An object file with one program.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// The program's name in it, and that of the object.
    pub program: &'static str,
    /// The object that was there when this binary was built.
    embedded: Option<&'static [u8]>,
    /// Names an object file that is used instead of the embedded one.
    variable: &'static str,
}

/// The XDP program that relays media.
pub const RELAY: Object = Object {
    program: "latch",
    embedded: include!(concat!(env!("OUT_DIR"), "/latch.rs")),
    variable: "LATCH_BPF_OBJECT",
};

/// The filter of signalling sockets.
pub const SIGNALLING: Object = Object {
    program: "signalling",
    embedded: include!(concat!(env!("OUT_DIR"), "/signalling.rs")),
    variable: "LATCH_SIGNALLING_OBJECT",
};

impl Object {
    /// The object's bytes, and where they are from.
    ///
    /// # Errors
    ///
    /// The file that the environment names cannot be read, or there is no object at all.
    pub fn find(&self) -> Result<(Cow<'static, [u8]>, String)> {
        if let Some(path) = std::env::var_os(self.variable) {
            let path = std::path::PathBuf::from(path);
            let bytes = std::fs::read(&path).with_context(|| format!("{} names {}", self.variable, path.display()))?;
            return Ok((bytes.into(), path.display().to_string()));
        }
        match self.embedded {
            Some(bytes) => Ok((bytes.into(), "embedded in this binary".into())),
            None => bail!(
                "this binary was built without the BPF program {}: run `cargo xtask build`, or name an object file in {}",
                self.program,
                self.variable,
            ),
        }
    }
}
