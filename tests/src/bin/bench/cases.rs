//! What is compared: four relays, each in a chain of its own, all of the same links and addresses and fed with the same
//! packet.

use std::net::SocketAddrV4;

use anyhow::{Context, Result};
use testbed::feed::{BareRedirect, Generator, Sink};
use testbed::{Chain, address, chain};

use crate::latch;
use crate::rtpengine::Rtpengine;

/// How many streams, each of which has a packet in turn.
pub(crate) const STREAMS: u16 = 64;
/// Where the packets of the first stream go, in the cases where that can be chosen; those of the others go to the next
/// even ports.
pub(crate) const RELAY: SocketAddrV4 = SocketAddrV4::new(address::LATCH_ACCESS, 30_000);

/// A relay in its chain, ready to be fed.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) generator: Generator,
    pub(crate) sink: Sink,
    /// Where the relay has a queue that it may lose packets of: rtpengine.
    pub(crate) queued: Option<Queued>,
}

/// What a relay with a queue needs.
pub(crate) struct Queued {
    /// Its calls are renewed before each turn.
    pub(crate) relay: Rtpengine,
    /// Packets a second at which the next search begins.
    pub(crate) begin: f64,
}

impl Case {
    /// Gives a relay that has been fed too much fresh calls.
    pub(crate) fn renew(&mut self) -> Result<()> {
        if let Some(queued) = &mut self.queued {
            self.generator.set_streams(&queued.relay.renew(&streams(), chain::SINK)?)?;
        }
        Ok(())
    }
}

/// The names, in the order in which they take turns and are printed.
pub(crate) const NAMES: [&str; 4] = ["bare", "latch", "nft", "rtpengine"];

/// The bare XDP redirect.
pub(crate) fn bare(chain: &Chain) -> Result<(Case, BareRedirect)> {
    let redirect = BareRedirect::attach(chain.relay(), "access", "core", chain.macs_to_sink()?)?;
    Ok((case("bare", chain, chain.frame(RELAY)?, &streams())?, redirect))
}

/// Latch's XDP program with its streams, all latched on both sides. To be called by a thread in the relay's namespace.
pub(crate) fn latch(chain: &Chain) -> Result<(Case, latch::Relay)> {
    let mut relay = latch::Relay::start()?;
    let frame = chain.frame(RELAY)?;
    prove(chain, &frame, &streams())?;
    relay.ensure_latched()?;
    Ok((case("latch", chain, frame, &streams())?, relay))
}

/// The kernel's own NAT, set up by nftables.
pub(crate) fn nft(chain: &Chain) -> Result<Case> {
    let relay = chain.relay();
    relay.sysctl("net/ipv4/ip_forward", "1")?;
    // Network cards verify UDP checksums; a veth's frames would have conntrack do it, which no real NAT pays for.
    relay.nft(&format!(
        "table ip relay {{
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                ip daddr {} udp dport {}-{} dnat to {}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                oifname core masquerade
            }}
        }}",
        RELAY.ip(),
        RELAY.port(),
        RELAY.port() + 2 * (STREAMS - 1),
        chain::SINK,
    ))?;
    relay.sysctl("net/netfilter/nf_conntrack_checksum", "0")?;
    let frame = chain.frame(RELAY)?;
    prove(chain, &frame, &streams())?;
    case("nft", chain, frame, &streams())
}

/// Debian's rtpengine in user space.
pub(crate) fn rtpengine(chain: &Chain) -> Result<Case> {
    let mut relay = Rtpengine::start(chain.relay())?;
    // It chooses its ports itself.
    let streams = relay.renew(&streams(), chain::SINK)?;
    let frame = chain.frame(RELAY)?;
    prove(chain, &frame, &streams)?;
    let case = case("rtpengine", chain, frame, &streams)?;
    Ok(Case { queued: Some(Queued { relay, begin: BEGIN }), ..case })
}

/// A rate that every relay takes.
const BEGIN: f64 = 10_000.0;

/// Source and destination port of each stream.
fn streams() -> Vec<(u16, u16)> {
    (0..STREAMS).map(|number| (chain::SOURCE.port() + 2 * number, RELAY.port() + 2 * number)).collect()
}

fn prove(chain: &Chain, frame: &[u8], streams: &[(u16, u16)]) -> Result<()> {
    let mut generator = Generator::new(chain.generator(), "out", frame.to_vec(), streams)?;
    chain.prove(STREAMS, || generator.run(1, 0).map(drop)).context("the chain does not relay")
}

fn case(name: &'static str, chain: &Chain, frame: Vec<u8>, streams: &[(u16, u16)]) -> Result<Case> {
    Ok(Case {
        name,
        generator: Generator::new(chain.generator(), "out", frame, streams)?,
        sink: Sink::attach(chain.sink(), "in")?,
        queued: None,
    })
}
