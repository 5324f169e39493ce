//! Embeds the BPF programs, if `cargo xtask build` has built them; without them the crate builds all the same.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    // OUT_DIR is TARGET_DIR[/TRIPLE]/PROFILE/build/CRATE/out.
    let mut target = out.ancestors().nth(4).ok_or("OUT_DIR is not below a target directory")?;
    if target.file_name() == env::var_os("TARGET").as_deref() {
        target = target.parent().ok_or("OUT_DIR is not below a target directory")?;
    }
    let folder = target.join("bpf");
    // Cargo would rebuild each time while a watched path is missing, so the folder is created and watched.
    fs::create_dir_all(&folder)?;
    println!("cargo::rerun-if-changed={}", folder.display());
    for name in ["latch", "signalling"] {
        let object = folder.join(name).with_extension("o");
        let code = if object.exists() {
            let copy = out.join(name).with_extension("o");
            fs::copy(&object, &copy)?;
            format!("Some(aya::include_bytes_aligned!({copy:?}))")
        } else {
            "None".to_owned()
        };
        fs::write(out.join(name).with_extension("rs"), code)?;
    }
    Ok(())
}
