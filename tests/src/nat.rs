//! A home router: masquerades its inside behind one public address, and lets nothing in that was not asked for.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;

use crate::netns::Namespace;

/// How a NAT chooses the outside port (RFC 4787 §4.1, §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// Keeps the inside port where it is free, so every destination sees the same outside port; only a destination
    /// that was written to may answer.
    PortRestricted,
    /// A fresh random port for every destination.
    Symmetric,
}

/// A NAT of the testbed: outside interface `wan`, inside bridge `lan` (192.168.1.1/24).
#[derive(Debug)]
pub struct Nat {
    pub(crate) namespace: Namespace,
    pub(crate) public: Ipv4Addr,
}

impl Nat {
    /// The NAT's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The address that the access network sees.
    pub fn public(&self) -> Ipv4Addr {
        self.public
    }

    pub(crate) fn configure(namespace: Namespace, public: Ipv4Addr, kind: NatKind) -> Result<Self> {
        namespace.sysctl("net/ipv4/ip_forward", "1")?;
        // What comes unasked is dropped before it becomes a flow: an entry for it would later push the phone's own
        // packets to another outside port.
        namespace.nft(
            "table ip nat {
               chain outgoing { type nat hook postrouting priority srcnat; }
             }
             table ip guard {
               chain in { type filter hook input priority filter; iifname \"wan\" ct state new drop; }
               chain through { type filter hook forward priority filter; iifname \"wan\" ct state new drop; }
             }",
        )?;
        let nat = Self { namespace, public };
        nat.set_kind(kind)?;
        Ok(nat)
    }

    /// Changes how ports are chosen for flows that start from now on.
    pub fn set_kind(&self, kind: NatKind) -> Result<()> {
        let how = match kind {
            NatKind::PortRestricted => "masquerade",
            NatKind::Symmetric => "masquerade random,fully-random",
        };
        self.namespace.nft(&format!("flush chain ip nat outgoing\nadd rule ip nat outgoing oifname \"wan\" {how}"))
    }

    /// How long a silent UDP mapping lives, in whole seconds: the same for one-way flows and answered flows.
    pub fn set_udp_timeout(&self, timeout: Duration) -> Result<()> {
        for key in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            self.namespace.sysctl(&format!("net/netfilter/{key}"), &timeout.as_secs().to_string())?;
        }
        Ok(())
    }
}
