//! What the documentation says of maps and memory is what is so.

use anyhow::{Context as _, Result, ensure};
use proxy_common::verdict::Verdict;
use std::{path::Path, process::Command};

/// The structs of the maps that an operator looks at, as BTF names them, by object.
const STRUCTS: [(&str, &[&str]); 2] = [
    ("latch", &["Leg", "LegState", "Component", "RtcpComponent", "Quality", "Drops", "Remote", "NextHop", "Local"]),
    ("signalling", &["Remote", "Prefix", "Bucket", "Counters"]),
];

fn watching() -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/watching.md");
    std::fs::read_to_string(&file).with_context(|| file.display().to_string())
}

/// Whether a table of the document explains a field: it is in backticks, maybe with what it belongs to before it.
fn explains(text: &str, field: &str) -> bool {
    text.lines().filter(|line| line.starts_with("| ")).any(|line| {
        [format!("`{field}`"), format!(".{field}`"), format!("`{field}.")].iter().any(|name| line.contains(name))
    })
}

#[test]
fn every_counter_is_explained() -> Result<()> {
    let text = watching()?;
    let missing: Vec<_> =
        Verdict::ALL.iter().map(|verdict| verdict.name()).filter(|name| !explains(&text, name)).collect();
    ensure!(missing.is_empty(), "docs/watching.md does not explain {missing:?}");
    Ok(())
}

#[test]
fn every_field_that_bpftool_shows_is_explained() -> Result<()> {
    if !testbed::available() {
        return Ok(());
    }
    let text = watching()?;
    for (object, structs) in STRUCTS {
        let object = testbed::xdp::object(object);
        let output = Command::new("bpftool").args(["-j", "btf", "dump", "file"]).arg(&object).output()?;
        ensure!(output.status.success(), "bpftool: {}", String::from_utf8_lossy(&output.stderr));
        let dump: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let types = dump["types"].as_array().context("no types in the BTF")?;
        for name in structs {
            let found = types.iter().find(|kind| kind["kind"] == "STRUCT" && kind["name"] == *name);
            let members =
                found.and_then(|found| found["members"].as_array()).with_context(|| format!("no {name} in the BTF"))?;
            for field in
                members.iter().filter_map(|member| member["name"].as_str()).filter(|field| *field != "reserved")
            {
                ensure!(explains(&text, field), "docs/watching.md does not explain `{field}` of {name}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_memory_that_strangers_may_take_is_stated() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sip.md");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let bytes = proxy_user::engine::strangers_memory(&testbed::LatchConfig::default().parsed()?);
    let stated = format!("less than {} MB", bytes.div_ceil(1_000_000));
    let words: Vec<_> = text.split_whitespace().collect();
    ensure!(words.join(" ").contains(&stated), "docs/sip.md does not say {stated:?}");
    Ok(())
}
