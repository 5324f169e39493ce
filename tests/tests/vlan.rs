//! Realms on VLANs: signalling and media of real calls with tags, priorities and DSCP as they are on the wire.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::ensure;
use testbed::call::{audio, dropped, recorded};
use testbed::feed::Generator;
use testbed::rtp::{Sink, Stream};
use testbed::xdp::Packet;
use testbed::{
    Capture, GATEWAY, KamailioConfig, LatchConfig, MediaCall, NatKind, Scene, TestbedConfig, Vlan, address, in_testbed,
};

/// Media of each direction, packets.
const PACKETS: u32 = 100;

/// Identifier and priority of each tag of frames that leave into the access realm, and into the core realm.
const ACCESS: [(u16, u8); 1] = [(100, 5)];
const CORE: [(u16, u8); 2] = [(200, 3), (300, 6)];

/// Frames come with other priorities than they leave with.
fn arriving(tags: &[(u16, u8)]) -> Vec<(u16, u8)> {
    tags.iter().map(|(id, priority)| (*id, 7 - priority)).collect()
}

#[test]
fn a_call_between_a_vlan_and_one_within_another_has_their_tags_priorities_and_dscp() {
    let config = TestbedConfig {
        core_hosts: vec![("gateway", GATEWAY)],
        ..TestbedConfig::with_nats(&[NatKind::PortRestricted])
    };
    in_testbed(config, |testbed| {
        let _links = [Vlan::new(testbed, "access", &arriving(&ACCESS))?, Vlan::new(testbed, "core", &arriving(&CORE))?];
        let realm =
            |tags: &[(u16, u8)], dscp: &str| format!("{}\ndscp = {{ audio = \"{dscp}\" }}\n", Vlan::setting(tags));
        let latch = LatchConfig { realm: [realm(&ACCESS, "EF"), realm(&CORE, "AF41")], ..LatchConfig::default() };
        let scene = Scene::start(testbed, &KamailioConfig::default(), &latch)?;
        let on_access = Capture::start(testbed, "access", testbed.inet(), "latch", "")?;
        let on_core = Capture::start(testbed, "core", testbed.softswitch(), "latch", "")?;

        let call = MediaCall::to_core(&scene)?;
        let (alice, carol) = (&call.alice, &call.bob);
        // The phone behind the NAT begins.
        for (near, far) in [(alice, carol), (carol, alice)] {
            let heard = Sink::start(&far.rtp)?;
            let stream = Stream { packets: PACKETS, ssrc: 1, ..Stream::default() };
            stream.send(&near.rtp, near.relay)?;
            near.send_report()?;
            far.wait_for("rtcp_in", 1)?;
            let heard = heard.stop()?.stream(1)?;
            ensure!((heard.packets, heard.lost()) == (PACKETS.into(), 0), "{heard:?}");
        }
        // An attacker on the wire, but not on the VLAN, may know everything else.
        let before = scene.latch.counters()?;
        let source = SocketAddrV4::new(testbed.nat(1)?.public(), 6_000);
        let untagged = Packet {
            macs: [testbed.latch().mac("access")?, testbed.nat(1)?.namespace().mac("wan")?],
            ..Packet::rtp(source, alice.relay)
        };
        Generator::new(testbed.inet(), "latch", untagged.frame(), &[(source.port(), alice.relay.port())])?
            .run(20, 0)?;
        let after = scene.latch.counters()?;
        ensure!(after.dropped_interface == before.dropped_interface + 20, "{after:?}");
        ensure!(after.forwarded_other == before.forwarded_other, "{after:?}");
        ensure!(after.forwarded_other == 2 * u64::from(PACKETS) + 2, "{after:?}");

        let (sent, received) = alice.totals()?;
        call.end()?;
        let records = scene.finish(1)?;
        let stream = audio(&records, testbed, 1)?;
        for (flow, ends) in [("access_to_core", sent), ("core_to_access", received)] {
            ensure!(
                recorded(&stream[flow]) == ends && dropped(&stream[flow], "source") == 0,
                "{flow}: {ends:?} {stream:#}"
            );
        }

        // Seen from outside: media, and signalling, which the VLAN's device sends.
        let (on_access, on_core) = (on_access.stop()?, on_core.stop()?);
        let once = "vlan.id == 100";
        let twice = "ieee8021ad.id == 200 && vlan.id == 300";
        let media =
            |own: Ipv4Addr, dscp: u8| format!("ip.src == {own} && udp.srcport >= 30000 && ip.dsfield.dscp == {dscp}");
        let all = PACKETS as usize + 1;
        for (recording, filter, expected) in [
            (&on_access, format!("{once} && vlan.priority == 5 && {}", media(address::LATCH_ACCESS, 46)), all),
            (
                &on_core,
                format!(
                    "{twice} && ieee8021ad.priority == 3 && vlan.priority == 6 && {}",
                    media(address::LATCH_CORE, 34)
                ),
                all,
            ),
            (&on_access, format!("!vlan && ip.src == {}", address::LATCH_ACCESS), 0),
            (&on_core, format!("!ieee8021ad && ip.src == {}", address::LATCH_CORE), 0),
        ] {
            let found = recording.count(&filter)?;
            println!("{found} frames: {filter}");
            ensure!(found == expected, "{found} frames are {filter}");
        }
        for (recording, tags, own) in
            [(&on_access, once, address::LATCH_ACCESS), (&on_core, twice, address::LATCH_CORE)]
        {
            for way in ["src", "dst"] {
                let found = recording.count(&format!("{tags} && sip && ip.{way} == {own}"))?;
                ensure!(found >= 3, "{found} SIP messages with tags have {own} as {way}");
            }
            ensure!(recording.malformed(Some("30000-39999"))?.is_empty(), "malformed frames");
            ensure!(recording.bad_checksums()? == 0, "wrong checksums");
        }
        Ok(())
    });
}
