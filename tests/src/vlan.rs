//! A VLAN between Latch and one of its networks, made of BPF programs: kernels without VLAN devices do as well.
//!
//! ```text
//! Latch                                       far end
//! access.vlan ─ tag ─→ access ══ tags ══ latch ─ untag ─→ bridge
//!             ←─ untag ─                       ←── tag ──
//! ```
//!
//! `access.vlan` is the VLAN's device: it has the realm's address, answers ARP and carries signalling.

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TcAttachType, tc};
use aya::{Ebpf, EbpfLoader};

use crate::netns::{Namespace, link};
use crate::pass::object;
use crate::topology::{Testbed, address};

/// A VLAN tag: identifier and priority.
type Tag = (u16, u8);

/// The programs of one link; dropped, they are detached.
#[derive(Debug)]
pub struct Vlan {
    _programs: Vec<Ebpf>,
}

impl Vlan {
    /// Puts Latch's `interface` (`access` or `core`) on a VLAN, or with two tags, outermost first, on one within
    /// another. Frames to Latch have the priorities of `tags`. The address moves to the VLAN's device: before Latch
    /// starts.
    pub fn new(testbed: &Testbed, interface: &str, tags: &[Tag]) -> Result<Self> {
        let (far, own) = match interface {
            "access" => (testbed.inet(), address::LATCH_ACCESS),
            _ => (testbed.softswitch(), address::LATCH_CORE),
        };
        let latch = testbed.latch();
        for (namespace, interface) in [(latch, interface), (far, "latch")] {
            // XDP at the other end does not see tags that are stored outside the frame.
            namespace.run("ethtool", &format!("-K {interface} tx-vlan-hw-insert off tx-vlan-stag-hw-insert off"))?;
        }
        let device = Self::device(interface);
        link((latch, &device), (latch, &format!("{interface}.none")))?;
        let mac: Vec<String> = latch.mac(interface)?.iter().map(|byte| format!("{byte:02x}")).collect();
        latch.ip(&format!("link set {device} address {}", mac.join(":")))?;
        latch.ip(&format!("address flush dev {interface}"))?;
        latch.ip(&format!("address add {own}/24 dev {device}"))?;

        let (up, down) = (latch.index(&device)?, latch.index(interface)?);
        let programs = [
            attach(far, "latch", "tag", TcAttachType::Egress, tags, 0),
            attach(far, "latch", "untag", TcAttachType::Ingress, tags, 0),
            attach(latch, &device, "tag", TcAttachType::Egress, tags, down),
            attach(latch, interface, "untag", TcAttachType::Ingress, tags, up),
        ];
        Ok(Self { _programs: programs.into_iter().collect::<Result<_>>()? })
    }

    /// The name of the VLAN's device.
    pub fn device(interface: &str) -> String {
        format!("{interface}.vlan")
    }

    /// The setting of the realm.
    pub fn setting(tags: &[Tag]) -> String {
        let tags: Vec<_> =
            tags.iter().map(|(id, priority)| format!("{{ id = {id}, priority = {priority} }}")).collect();
        format!("vlan = [{}]", tags.join(", "))
    }
}

fn attach(
    namespace: &Namespace,
    interface: &str,
    name: &str,
    direction: TcAttachType,
    tags: &[Tag],
    device: u32,
) -> Result<Ebpf> {
    let control =
        |number: usize| tags.get(number).map_or(0, |(id, priority)| u32::from(*priority) << 13 | u32::from(*id));
    let mut ebpf = EbpfLoader::new()
        .override_global("TAG_COUNT", &u32::try_from(tags.len())?, true)
        .override_global("TAGS", &[control(0), control(1)], true)
        .override_global("TAG_DEVICE", &device, true)
        .load_file(object())
        .context("load the testbed's programs")?;
    let program: &mut SchedClassifier = ebpf.program_mut(name).context("no such program")?.try_into()?;
    program.load().with_context(|| format!("load {name}"))?;
    namespace
        .enter(|| {
            // Where the kernel needs it and does not have it yet.
            let _ = tc::qdisc_add_clsact(interface);
            Ok(program.attach(interface, direction).map(drop)?)
        })
        .with_context(|| format!("attach {name} to {interface} in {}", namespace.name()))?;
    Ok(ebpf)
}
