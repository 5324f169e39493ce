//! The realms' interfaces, and how packets leave by them.

use super::next_hops::{Egress, Tags};
use crate::{
    config::Config,
    media::PerRealm,
    netlink::{Link, Netlink},
};
use anyhow::{Context as _, Result};
use std::net::IpAddr;

/// What a relay has to know about the host.
pub(in crate::datapath) struct Links {
    /// The interfaces of the realms, each once; the position is the slot in `DEVICES`.
    pub(in crate::datapath) interfaces: Vec<Link>,
    pub(in crate::datapath) egress: PerRealm<Egress>,
}

impl Links {
    pub(in crate::datapath) fn find(config: &Config, netlink: &mut Netlink) -> Result<Self> {
        let interfaces = interfaces(config, &netlink.links().context("cannot list the network interfaces")?)?;
        let addresses = netlink.addresses().context("cannot list the addresses of this host")?;
        let egress = egress(config, &interfaces, &addresses)?;
        Ok(Self { interfaces, egress })
    }
}

/// The interfaces of the realms, each once; the position is the slot in `DEVICES`.
pub(in crate::datapath) fn interfaces(config: &Config, links: &[Link]) -> Result<Vec<Link>> {
    let mut interfaces: Vec<Link> = Vec::new();
    for realm in &config.realms {
        if interfaces.iter().any(|link| link.name == realm.interface) {
            continue;
        }
        let link = links.iter().find(|link| link.name == realm.interface);
        interfaces.push(link.with_context(|| format!("there is no interface {}", realm.interface))?.clone());
    }
    Ok(interfaces)
}

/// How packets leave for each realm. `addresses` are those of the host, with the index of their interface.
fn egress(config: &Config, interfaces: &[Link], addresses: &[(u32, IpAddr)]) -> Result<PerRealm<Egress>> {
    let one = |realm: &crate::config::Realm| {
        let found = (0u32..).zip(interfaces).find(|(_, link)| link.name == realm.interface);
        let (device, link) = found.with_context(|| format!("there is no interface {}", realm.interface))?;
        let mac = link.mac.with_context(|| format!("{} has no Ethernet address", link.name))?;
        let on = |index: u32| addresses.contains(&(index, realm.media));
        let elsewhere = addresses.iter().find(|(_, address)| *address == realm.media).map(|(index, _)| *index);
        Ok(Egress {
            interface: link.index,
            neighbour_interface: if on(link.index) { link.index } else { elsewhere.unwrap_or(link.index) },
            device,
            mac,
            source: realm.media,
            vlan: Tags::new(&realm.vlan),
            // No packet is larger than 65,535 bytes.
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        })
    };
    config.realms.iter().map(one).collect()
}
