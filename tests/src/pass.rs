//! The far ends of Latch's interfaces: made ready to take frames that an XDP program sends into them.
//!
//! A veth takes XDP_TX and XDP_REDIRECT frames only while its far end runs NAPI. An XDP program that passes everything
//! does that; receive offload (GRO) does it for redirected frames only, so the program is needed.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;

use crate::netns::Namespace;

/// The object with the testbed's small XDP programs, built by `cargo xtask build`.
pub(crate) fn object() -> PathBuf {
    match std::env::var_os("LATCH_TESTBED_OBJECT") {
        Some(path) => path.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/testbed.o"),
    }
}

/// An attached program that passes everything; dropped, it is detached.
#[derive(Debug)]
pub(crate) struct PassProgram {
    _program: Ebpf,
}

impl PassProgram {
    /// Attaches program `pass` of the testbed's object to `interface`.
    pub(crate) fn attach(namespace: &Namespace, interface: &str) -> Result<Self> {
        let object = object();
        ensure!(object.exists(), "no {}: run `cargo xtask build`", object.display());
        let mut ebpf = Ebpf::load_file(&object).with_context(|| format!("load {}", object.display()))?;
        let program: &mut Xdp = ebpf
            .program_mut("pass")
            .ok_or_else(|| anyhow!("{} has no program `pass`", object.display()))?
            .try_into()?;
        program.load().context("load program `pass`")?;
        namespace
            .enter(|| Ok(program.attach(interface, XdpMode::Driver)?))
            .with_context(|| format!("attach `pass` to {interface} in {}", namespace.name()))?;
        Ok(Self { _program: ebpf })
    }
}
