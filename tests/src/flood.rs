//! Floods: frames with whatever addresses, written to an interface as they are, fifty thousand a second or so.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socket};

use crate::netns::Namespace;
use crate::rtp::HEADER;
use crate::xdp::Packet;

/// What every packet of a volley has in bytes 12 to 15 of its UDP payload, which nobody else sends.
pub const MARK: u32 = 0xbad0_bad0;
/// The nftables match for it: the UDP header has 8 bytes.
pub const STRANGE: &str = "@th,160,32 0xbad0bad0";
/// The placeholder for a frame's number in a frame that [`Flood::pour`] sends.
pub const NUMBER: &str = "########";
/// At most so many frames without a look at the clock.
const BURST: u64 = 64;

/// An interface that frames are written to.
#[derive(Debug)]
pub struct Flood {
    socket: OwnedFd,
    mac: [u8; 6],
}

/// What a flood was.
#[derive(Clone, Copy, Debug)]
pub struct Flooded {
    /// Frames sent.
    pub packets: u64,
    /// In this time.
    pub time: Duration,
}

impl std::fmt::Display for Flooded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.packets as f64 / self.time.as_secs_f64();
        write!(f, "{} packets in {:.2} s: {rate:.0} a second", self.packets, self.time.as_secs_f64())
    }
}

impl Flood {
    /// Will write to `interface` of `host`.
    pub fn new(host: &Namespace, interface: &str) -> Result<Self> {
        let index = host.index(interface)?;
        let socket = host.enter(|| {
            // Without a protocol it receives nothing.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
            socket.context("a packet socket")
        })?;
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET)?,
            sll_protocol: 0,
            sll_ifindex: i32::try_from(index)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = u32::try_from(size_of_val(&address))?;
        // SAFETY: the address is a whole `sockaddr_ll` of the length that is given, and outlives the call, which only
        // reads it.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        ensure!(bound == 0, "bind to {interface}: {}", Errno::last());
        Ok(Self { socket, mac: host.mac(interface)? })
    }

    /// Frames of these packets that go to the neighbour with this hardware address, from the flood's own.
    pub fn frames(&self, to: [u8; 6], packets: impl IntoIterator<Item = Packet>) -> Vec<Vec<u8>> {
        packets.into_iter().map(|packet| Packet { macs: [to, self.mac], ..packet }.frame()).collect()
    }

    /// Sends the frames in turn, so many a second until there were `packets`. Where the machine is slower, it takes
    /// longer; there are never more.
    pub fn send(&self, frames: &[Vec<u8>], packets: u64, per_second: u64) -> Result<Flooded> {
        ensure!(!frames.is_empty(), "a flood of nothing");
        let mut next = frames.iter().cycle();
        let begun = Instant::now();
        let mut sent = 0;
        while sent < packets {
            let due = (begun.elapsed().as_secs_f64() * per_second as f64) as u64;
            let now = due.min(packets).saturating_sub(sent).min(BURST);
            if now == 0 {
                std::thread::sleep(Duration::from_micros(500));
                continue;
            }
            for frame in next.by_ref().take(now as usize) {
                match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                    Ok(_) => sent += 1,
                    Err(Errno::ENOBUFS | Errno::EINTR) => {}
                    Err(error) => return Err(error).context("write a frame"),
                }
            }
        }
        Ok(Flooded { packets: sent, time: begun.elapsed() })
    }

    /// Sends the frames in turn for this time, at most so many a second. Each [`NUMBER`] in them becomes that of the
    /// frame, so that no two are the same; they must not have a UDP checksum.
    pub fn pour(&self, frames: &[Vec<u8>], time: Duration, per_second: u64) -> Result<Flooded> {
        ensure!(!frames.is_empty(), "a flood of nothing");
        let places = |frame: &[u8]| -> Vec<usize> {
            let found = frame.windows(NUMBER.len()).enumerate().filter(|(_, bytes)| *bytes == NUMBER.as_bytes());
            found.map(|(at, _)| at).collect()
        };
        let mut frames: Vec<_> = frames.iter().map(|frame| (frame.clone(), places(frame))).collect();
        let begun = Instant::now();
        let mut sent = 0u64;
        while begun.elapsed() < time {
            for (frame, places) in &mut frames {
                while sent as f64 > begun.elapsed().as_secs_f64() * per_second as f64 {
                    std::thread::sleep(Duration::from_micros(500));
                }
                let number = format!("{sent:08}");
                for &at in places.iter() {
                    frame
                        .get_mut(at..at + NUMBER.len())
                        .into_iter()
                        .for_each(|to| to.copy_from_slice(number.as_bytes()));
                }
                match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                    Ok(_) => sent += 1,
                    Err(Errno::ENOBUFS | Errno::EINTR) => {}
                    Err(error) => return Err(error).context("write a frame"),
                }
            }
        }
        Ok(Flooded { packets: sent, time: begun.elapsed() })
    }
}

/// Everything that might get an attacker into a stream with this SSRC, of which the packet with this sequence number
/// was seen: `count` packets, all with [`MARK`], to both ports of a leg. Continuations of the stream are among them.
pub fn volley(from: SocketAddr, relay: SocketAddr, ssrc: u32, sequence: u16, count: u16) -> Vec<Packet> {
    let rtcp = SocketAddr::new(relay.ip(), relay.port() + 1);
    let report = |to: SocketAddr, kind: u8, ssrc: u32| {
        let mut payload = vec![0x81, kind, 0, 6];
        payload.extend(ssrc.to_be_bytes());
        payload.resize(28, 0);
        Packet { payload, ..Packet::rtp(from, to) }
    };
    let rtp = |to: SocketAddr| Packet::rtp(from, to).payload_type(8);
    let one = |number: u16| {
        let sequence = sequence.wrapping_add(number / KINDS);
        let mut packet = match number % KINDS {
            0 => rtp(relay).of_stream(ssrc, sequence.wrapping_add(1)),
            1 => rtp(relay).of_stream(MARK, number),
            2 => report(rtcp, 200, ssrc),
            // BYE: a phone that believed it would be silent.
            3 => report(rtcp, 203, ssrc),
            4 => report(relay, 200, ssrc),
            5 => rtp(rtcp).of_stream(ssrc, sequence),
            6 => rtp(relay).payload_type(77).of_stream(ssrc, sequence),
            // A STUN binding request (RFC 8489).
            _ => {
                let payload = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], [0; 12].as_slice()].concat();
                Packet { payload, ..Packet::rtp(from, relay) }
            }
        };
        packet.payload.get_mut(HEADER..HEADER + 4).into_iter().for_each(|at| at.copy_from_slice(&MARK.to_be_bytes()));
        packet
    };
    (0..count).map(one).collect()
}

/// Kinds of packets in a volley.
const KINDS: u16 = 8;
