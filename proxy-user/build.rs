//! Embeds the XDP program, if `cargo xtask build` has built it; without it the crate builds all the same.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    // OUT_DIR is TARGET_DIR[/TRIPLE]/PROFILE/build/CRATE/out.
    let mut target = out.ancestors().nth(4).ok_or("OUT_DIR is not below a target directory")?;
    if target.file_name() == env::var_os("TARGET").as_deref() {
        target = target.parent().ok_or("OUT_DIR is not below a target directory")?;
    }
    let folder = target.join("bpf");
    // Cargo would rebuild for ever while a watched path is missing, so the folder is made and watched.
    fs::create_dir_all(&folder)?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let object = folder.join("latch.o");
    let code = if object.exists() {
        let copy = out.join("latch.o");
        fs::copy(&object, &copy)?;
        format!("Some(aya::include_bytes_aligned!({:?}))", copy)
    } else {
        "None".to_owned()
    };
    fs::write(out.join("object.rs"), code)?;
    Ok(())
}
