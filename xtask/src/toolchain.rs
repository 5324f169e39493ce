//! The compiler and the linker of the XDP program: which ones can do it, and which of those this machine has.
//!
//! A compiler can do it in one of two ways: a rustup nightly builds `core` for BPF from its `rust-src`; a
//! distribution's rustc may ship `core` for `bpfel-unknown-none` ready made, as Debian's `rustc-web` with
//! `libstd-rust-web-dev-bpf` does. The linker, `bpf-linker`, reads the compiler's LLVM bitcode: both must stand on the
//! same major version of LLVM.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell;
use crate::workspace::Workspace;

/// The target that the XDP program is compiled for: BPF, little endian.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// The release of bpf-linker that Latch is built with.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// The LLVM majors that this bpf-linker can be built for (its features `llvm-NN`).
pub(crate) const LINKER_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// A compiler and a linker that fit together.
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: Linker,
}

impl Toolchain {
    /// The first compiler of this machine that has a linker to go with it.
    pub(crate) fn find(workspace: &Workspace) -> Option<Self> {
        let linkers = linkers(workspace);
        compilers().into_iter().find_map(|compiler| {
            let linker = linkers.iter().find(|linker| linker.fits(&compiler))?.clone();
            Some(Self { compiler, linker })
        })
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rustc: {} ({})", self.compiler.version.release, self.compiler.core)?;
        writeln!(f, "rustc's LLVM: {}", self.compiler.version.llvm)?;
        writeln!(f, "bpf-linker: {LINKER_VERSION} ({})", self.linker.llvm)
    }
}

/// A rustc that can compile for BPF.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    pub(crate) rustc: PathBuf,
    /// The cargo to use it with.
    pub(crate) cargo: PathBuf,
    pub(crate) core: Core,
    pub(crate) version: Version,
}

/// Where a compiler has `core` for BPF from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Core {
    /// It is built from `rust-src` together with the program (`-Z build-std=core`).
    FromSource,
    /// The compiler ships it.
    Prebuilt,
}

impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FromSource => "core built from rust-src",
            Self::Prebuilt => "core ready made",
        })
    }
}

/// What `rustc -vV` tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    /// For example `1.96.0` or `1.97.0-nightly`.
    pub(crate) release: String,
    /// For example `22.1.8`.
    pub(crate) llvm: String,
}

impl Version {
    fn parse(told: &str) -> Option<Self> {
        let field = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().into());
        Some(Self { release: field("release:")?, llvm: field("LLVM version:")? })
    }

    /// The LLVM major, which decides what the compiler and the linker have to agree on.
    pub(crate) fn llvm_major(&self) -> Option<u32> {
        self.llvm.split('.').next()?.parse().ok()
    }
}

/// A bpf-linker of the right release.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    pub(crate) llvm: LinkerLlvm,
}

/// The LLVM inside a bpf-linker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LinkerLlvm {
    /// It loads the machine's `libLLVM` of this major version.
    Shared(u32),
    /// It is linked in, as in the project's own binaries; which version, it does not tell.
    Static,
}

impl fmt::Display for LinkerLlvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared(major) => write!(f, "with the machine's LLVM {major}"),
            Self::Static => f.write_str("with an LLVM of its own"),
        }
    }
}

impl Linker {
    /// A static linker is taken with a rustup toolchain only: those binaries are made to follow the nightlies.
    fn fits(&self, compiler: &Compiler) -> bool {
        match self.llvm {
            LinkerLlvm::Shared(major) => compiler.version.llvm_major() == Some(major),
            LinkerLlvm::Static => compiler.core == Core::FromSource,
        }
    }
}

/// The compilers of this machine that can compile for BPF, the preferred ones first.
pub(crate) fn compilers() -> Vec<Compiler> {
    let mut found: Vec<Compiler> = nightly().into_iter().collect();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut seen = Vec::new();
    for rustc in std::env::split_paths(&on_path).chain([PathBuf::from("/usr/bin")]).map(|dir| dir.join("rustc")) {
        // rustup's proxy and a distribution's links lead several names to one file.
        let Ok(real) = rustc.canonicalize() else {
            continue;
        };
        if !seen.contains(&real) {
            seen.push(real);
            found.extend(shipping_core(&rustc));
        }
    }
    found
}

/// A rustup nightly that has `rust-src`.
fn nightly() -> Option<Compiler> {
    let toolchains = shell::probe(Command::new("rustup").args(["toolchain", "list"]))?;
    nightlies(&toolchains).find_map(|toolchain| {
        let sysroot = shell::probe(Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"]))?;
        let sysroot = Path::new(sysroot.trim());
        let bin = sysroot.join("bin");
        sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists().then_some(())?;
        let version = version_of(&bin.join("rustc"))?;
        Some(Compiler { rustc: bin.join("rustc"), cargo: bin.join("cargo"), core: Core::FromSource, version })
    })
}

/// The names of the nightlies in `rustup toolchain list`.
fn nightlies(told: &str) -> impl Iterator<Item = &str> {
    told.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| name.starts_with("nightly"))
}

/// `rustc` as a compiler for BPF, if `core` is in its library folder for the target.
fn shipping_core(rustc: &Path) -> Option<Compiler> {
    let mut ask = Command::new(rustc);
    ask.args(["--print", "target-libdir", "--target", TARGET]);
    let folder = shell::probe(shell::without_outer_cargo(&mut ask))?;
    let files = std::fs::read_dir(folder.trim()).ok()?;
    let names = files.filter_map(Result::ok).map(|file| file.file_name().to_string_lossy().into_owned());
    holds_core(names).then_some(())?;
    let version = version_of(rustc)?;
    Some(Compiler { rustc: rustc.to_owned(), cargo: shell::cargo().into(), core: Core::Prebuilt, version })
}

/// Whether a library folder with these files has `core`.
fn holds_core(mut names: impl Iterator<Item = String>) -> bool {
    names.any(|name| name.starts_with("libcore-") && name.ends_with(".rlib"))
}

fn version_of(rustc: &Path) -> Option<Version> {
    let mut ask = Command::new(rustc);
    Version::parse(&shell::probe(shell::without_outer_cargo(ask.arg("-vV")))?)
}

/// The bpf-linkers of the right release on this machine: ours first, then those on `PATH`.
fn linkers(workspace: &Workspace) -> Vec<Linker> {
    let ours = workspace.tools().join("bin");
    let cargos = std::env::home_dir().map(|home| home.join(".cargo/bin"));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    [ours]
        .into_iter()
        .chain(std::env::split_paths(&on_path))
        .chain(cargos)
        .map(|folder| folder.join("bpf-linker"))
        .filter(|path| path.is_file())
        .filter_map(|path| linker(&path))
        .collect()
}

fn linker(path: &Path) -> Option<Linker> {
    let mut ask = Command::new(path);
    let told = shell::probe(shell::without_outer_cargo(ask.arg("--version")))?;
    (told.split_whitespace().nth(1) == Some(LINKER_VERSION)).then_some(())?;
    let mut ldd = Command::new("ldd");
    let llvm = match shell::probe(shell::without_outer_cargo(ldd.arg(path))) {
        // ldd fails on what is linked statically.
        None => LinkerLlvm::Static,
        Some(libraries) => shared_llvm(&libraries),
    };
    Some(Linker { path: path.to_owned(), llvm })
}

/// The LLVM among the libraries that `ldd` names.
fn shared_llvm(libraries: &str) -> LinkerLlvm {
    let majors = libraries.split_whitespace().filter_map(|word| {
        let version = word.strip_prefix("libLLVM.so.").or_else(|| word.strip_prefix("libLLVM-"))?;
        version.split('.').next()?.parse().ok()
    });
    majors.map(LinkerLlvm::Shared).next().unwrap_or(LinkerLlvm::Static)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_and_llvm_are_read_from_rustcs_verbose_version() {
        let told = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                    host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let version = Version::parse(told).unwrap();
        assert_eq!(version, Version { release: "1.96.0".into(), llvm: "22.1.8".into() });
        assert_eq!(version.llvm_major(), Some(22));
        assert_eq!(Version::parse("rustc 1.96.0\n"), None);
    }

    #[test]
    fn nightlies_are_found_whatever_rustup_remarks_on_them() {
        let told = "stable-x86_64-unknown-linux-gnu (active, default)\nnightly-2026-05-01-x86_64-unknown-linux-gnu\n\
                    nightly-x86_64-unknown-linux-gnu (override)\n";
        let found: Vec<_> = nightlies(told).collect();
        assert_eq!(found, ["nightly-2026-05-01-x86_64-unknown-linux-gnu", "nightly-x86_64-unknown-linux-gnu"]);
    }

    #[test]
    fn a_library_folder_counts_only_with_core_itself() {
        let files = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().into_iter();
        assert!(holds_core(files(&["liballoc-216f9b29.rlib", "libcore-8056e5e5.rmeta", "libcore-8056e5e5.rlib"])));
        assert!(!holds_core(files(&["libcore-8056e5e5.rmeta", "libcompiler_builtins-be37.rlib"])));
        assert!(!holds_core(files(&[])));
    }

    #[test]
    fn the_linkers_llvm_is_read_from_its_libraries() {
        let debian = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x00007fa18e200000)\n";
        assert_eq!(shared_llvm(debian), LinkerLlvm::Shared(22));
        let old = "\tlibLLVM-14.so.1 => /lib/x86_64-linux-gnu/libLLVM-14.so.1 (0x0000)\n";
        assert_eq!(shared_llvm(old), LinkerLlvm::Shared(14));
        assert_eq!(shared_llvm("\tlibc.so.6 => /lib/libc.so.6 (0x0)\n"), LinkerLlvm::Static);
    }

    #[test]
    fn a_linker_fits_only_a_compiler_of_its_llvm() {
        let compiler = |core, llvm: &str| Compiler {
            rustc: "rustc".into(),
            cargo: "cargo".into(),
            core,
            version: Version { release: "1.96.0".into(), llvm: llvm.into() },
        };
        let linker = |llvm| Linker { path: "bpf-linker".into(), llvm };
        for (core, llvm, linker_llvm, fits) in [
            (Core::Prebuilt, "22.1.8", LinkerLlvm::Shared(22), true),
            (Core::Prebuilt, "22.1.8", LinkerLlvm::Shared(21), false),
            (Core::Prebuilt, "22.1.8", LinkerLlvm::Static, false),
            (Core::FromSource, "23.1.0", LinkerLlvm::Shared(22), false),
            (Core::FromSource, "23.1.0", LinkerLlvm::Static, true),
        ] {
            assert_eq!(linker(linker_llvm).fits(&compiler(core, llvm)), fits, "{core:?} {llvm} {linker_llvm:?}");
        }
    }
}
