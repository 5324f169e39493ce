use super::*;
use std::path::PathBuf;

/// A folder of sources, gone afterwards.
struct Sources(PathBuf);

impl Sources {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("latch-imports-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        for (file, text) in files {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        Self(root)
    }

    fn findings(&self, exceptions: &[Exception]) -> Vec<String> {
        let found = findings(&self.0, exceptions).unwrap();
        let root = format!("{}/", self.0.display());
        found.into_iter().map(|finding| finding.replace(&root, "")).collect()
    }

    /// `from -> to` of every import.
    fn imports(&self) -> Vec<String> {
        let imports = Tree::read(&self.0, "proxy_user").unwrap().imports();
        imports.iter().map(|import| format!("{} -> {}", import.from, import.to)).collect()
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn findings_of(name: &str, files: &[(&str, &str)]) -> Vec<String> {
    Sources::new(name, files).findings(&[])
}

#[test]
fn two_files_that_import_each_other_are_named_with_their_lines() {
    let files = [
        ("lib.rs", "mod a;\nmod b;"),
        ("a.rs", "//! A.\nuse crate::b::B;\npub struct A(B);"),
        ("b.rs", "pub struct B;\n\nfn f() -> super::a::A { todo!() }"),
    ];
    assert_eq!(
        findings_of("two", &files),
        ["a cycle:\n    a.rs:2: crate::b::B is in b.rs\n    b.rs:3: super::a::A is in a.rs"]
    );
}

#[test]
fn a_cycle_is_found_at_any_length_and_through_a_module_that_only_hands_on() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a/mod.rs", "//! Hands on.\nmod inner;\npub(crate) use inner::Thing;"),
        ("a/inner.rs", "use crate::b::B;\npub struct Thing(B);"),
        ("b.rs", "use crate::{c::C as Other, d::D};\npub struct B(Other, D);"),
        ("c.rs", "use crate::a;\npub struct C(a::Thing);"),
        ("d.rs", "pub struct D;"),
    ];
    let found = findings_of("length", &files);
    assert_eq!(found.len(), 1, "{found:?}");
    for step in ["a/inner.rs:1: crate::b::B is in b.rs", "b.rs:1: c::C is in c.rs", "c.rs:2: a::Thing is in a/inner.rs"]
    {
        let step = step.replace("b.rs:1: c::C", "b.rs:1: crate::c::C");
        assert!(found[0].contains(&step), "{step} in {found:?}");
    }
    assert!(!found[0].contains("d.rs"), "{found:?}");
}

#[test]
fn a_parent_is_no_import_of_its_children_unless_it_uses_them_itself() {
    let hands_on = [
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod x;\nmod y;\npub use x::X;\npub struct Own;"),
        ("a/x.rs", "use super::Own;\npub struct X(Own);"),
        ("a/y.rs", "use super::{Own, X};\nstruct Y(Own, X);"),
    ];
    assert_eq!(findings_of("hands-on", &hands_on), [""; 0]);
    let mut uses = hands_on;
    uses[1].1 = "mod x;\nmod y;\npub use x::X;\npub struct Own;\nimpl From<X> for u8 {}";
    let found = findings_of("uses", &uses);
    assert_eq!(found, ["a cycle:\n    a/mod.rs:3: x::X is in a/x.rs\n    a/x.rs:1: super::Own is in a/mod.rs"]);
}

#[test]
fn tests_comments_strings_and_visibilities_import_nothing() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            r##"use crate::b::B;
            pub struct A(B);
            pub(in crate::a) struct Small<'a>(&'a u8);"##,
        ),
        (
            "b.rs",
            r##"pub struct B { #[cfg(test)] seen: crate::a::A, pub at: char }
            // crate::a::A
            /* crate::a::A /* nested */ crate::a::A */
            const TEXT: &str = "crate::a::A \" crate::a::A";
            const RAW: &str = r#"crate::a::A " crate::a::A"#;
            const QUOTE: char = '"'; const OTHER: char = '\''; const LAST: u8 = b'"';
            #[cfg(test)] use crate::a::{self, A};
            #[cfg(all(test, unix))] fn only() -> crate::a::A { todo!() }
            #[cfg(test)]
            mod tests;
            #[cfg(test)]
            mod more { use super::*; fn f(_: crate::a::A) {} }
            "##,
        ),
        ("b/tests.rs", "use crate::a::A;"),
    ];
    let sources = Sources::new("tests", &files);
    assert_eq!(sources.imports(), ["a.rs -> b.rs"]);
    assert_eq!(sources.findings(&[]), [""; 0]);
}

#[test]
fn paths_lead_to_the_file_that_has_what_they_name() {
    let files = [
        ("lib.rs", "pub mod a; pub mod deep; pub mod glob; mod user; pub use a::Top;"),
        ("main.rs", "mod run;\nuse proxy_user::Top;\nfn main() { run::go::<Top>() }"),
        ("run.rs", "pub fn go<T>() { proxy_user::deep::er::f() }"),
        ("a.rs", "pub struct Top;"),
        ("deep/mod.rs", "pub mod er; pub mod block { pub fn f() { super::er::f() } }"),
        ("deep/er.rs", "pub fn f() {}\n#[path = \"../../elsewhere.rs\"]\nmod outside;\nuse self::outside::Out;"),
        ("glob.rs", "pub use crate::deep::er::*;"),
        (
            "user.rs",
            "use std::fmt;\nuse crate::glob::f;\nuse crate::deep::block;\nfn g(_: fmt::Error) { f(); block::f() }",
        ),
    ];
    let expected = [
        "deep/mod.rs -> deep/er.rs",
        "glob.rs -> deep/er.rs",
        "main.rs -> a.rs",
        "main.rs -> run.rs",
        "run.rs -> deep/er.rs",
        "user.rs -> deep/er.rs",
        "user.rs -> deep/mod.rs",
    ];
    assert_eq!(Sources::new("paths", &files).imports(), expected);
}

#[test]
fn layers_are_refused_by_file_line_and_import() {
    let files = [
        (
            "lib.rs",
            "pub mod engine; pub mod signalling; pub mod io; pub mod datapath; pub mod sdp; pub mod media; pub mod flow;",
        ),
        ("engine/mod.rs", "pub mod calls; pub struct Core;"),
        (
            "engine/calls.rs",
            "use super::Core;\nuse crate::{flow::Flow,\n    io::Socket};\nstruct Call(Core, Flow, Socket);",
        ),
        ("signalling/mod.rs", "pub mod sip; pub mod wire;"),
        ("signalling/wire.rs", "pub struct Wire;"),
        ("signalling/sip/mod.rs", "pub mod syntax; pub mod agent;"),
        (
            "signalling/sip/agent.rs",
            "use crate::engine::Core;\nuse crate::datapath as below;\nfn f(_: below::Plane, _: Core) {}",
        ),
        ("signalling/sip/syntax/mod.rs", "pub mod line; pub mod message;"),
        ("signalling/sip/syntax/line.rs", "pub struct Line;"),
        ("signalling/sip/syntax/message.rs", "use super::line::Line;\nstruct Message(Line, crate::flow::Flow);"),
        (
            "io.rs",
            "use crate::engine::Core;\nuse crate::signalling::{sip::agent::f, wire::Wire};\npub struct Socket(Core, Wire);",
        ),
        ("datapath.rs", "use crate::media::Leg;\npub struct Plane(Leg);"),
        ("sdp/mod.rs", "fn f() { crate::signalling::sip::agent::f(); }"),
        ("media.rs", "pub struct Leg(crate::engine::Core);"),
        ("flow.rs", "pub struct Flow;"),
    ];
    let sources = Sources::new("layers", &files);
    let expected = [
        "engine/calls.rs:3: crate::io::Socket is in io.rs, which is another layer",
        "io.rs:2: crate::signalling::sip::agent::f is in signalling/sip/agent.rs, which is another layer",
        "media.rs:1: crate::engine::Core is in engine/mod.rs, which is another layer",
        "sdp/mod.rs:1: crate::signalling::sip::agent::f is in signalling/sip/agent.rs, which is another layer",
        "signalling/sip/agent.rs:3: below::Plane is in datapath.rs, which is another layer",
        "signalling/sip/syntax/message.rs:2: crate::flow::Flow is in flow.rs, which is another layer",
    ];
    assert_eq!(sources.findings(&[]), expected);
    let exception = Exception { rule: Rule::Layers, from: "engine", to: "io" };
    assert_eq!(sources.findings(&[exception]), expected[1..]);
    let narrow = Exception { rule: Rule::Layers, from: "engine/calls.rs", to: "io.rs" };
    assert_eq!(sources.findings(&[narrow]), expected[1..]);
}

#[test]
fn an_exception_lasts_as_long_as_it_is_needed() {
    let mut files = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::B;\npub struct A;"),
        ("b.rs", "use crate::a::A;\npub struct B;"),
        ("c.rs", "use crate::a::A;"),
    ];
    let exception = |from, to| Exception { rule: Rule::Cycles, from, to };
    assert_eq!(Sources::new("needed", &files).findings(&[exception("a.rs", "b.rs")]), [""; 0]);
    let elsewhere = Sources::new("elsewhere", &files).findings(&[exception("c.rs", "a.rs")]);
    assert_eq!(elsewhere.len(), 2, "the cycle, and an exception that is none: {elsewhere:?}");
    files[2].1 = "pub struct B;";
    assert_eq!(
        Sources::new("over", &files).findings(&[exception("a.rs", "b.rs")]),
        ["the exception (Cycles: a.rs may import b.rs) is no longer needed: remove it"]
    );
}

/// What `cargo xtask lint` checks, so that `cargo test` tells too.
#[test]
fn the_control_plane_keeps_to_it() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("proxy-user/src");
    assert_eq!(findings(&sources, EXCEPTIONS).unwrap(), [""; 0]);
}
