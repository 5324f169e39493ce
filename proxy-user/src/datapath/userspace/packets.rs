//! Packet sockets: frames as they are on the wire, many at a time.

use super::{
    filter,
    program::frame::{Context, HEADROOM},
};
use libc::{c_int, c_void, iovec, mmsghdr, sock_filter, sock_fprog, sockaddr_ll, tpacket_auxdata};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use proxy_common::checksum;
use std::{
    cell::Cell,
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

/// How many frames are taken at a time.
pub(super) const BATCH: usize = 64;
/// What the kernel keeps while the thread is not running, bytes: some 3,000 frames of speech.
const QUEUE: c_int = 8 << 20;
/// Room for what the kernel says about a frame.
const BESIDE: usize = 64;

const ETH_P_ALL: u16 = libc::ETH_P_ALL as u16;
/// From `linux/if_packet.h`.
const PACKET_AUXDATA: c_int = 8;
const PACKET_FANOUT: c_int = 18;
const PACKET_IGNORE_OUTGOING: c_int = 23;
const FANOUT_HASH: c_int = 0;
const FANOUT_UNIQUE_ID: c_int = 0x2000;
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// Sockets that share the frames of an interface; each stream's go to the same one.
pub(super) fn receivers(
    interface: u32,
    addresses: &[std::net::IpAddr],
    mtu: usize,
    count: usize,
) -> io::Result<Vec<Receiver>> {
    let filter = filter::media(addresses);
    let mut receivers: Vec<Receiver> = Vec::new();
    let mut group = FANOUT_UNIQUE_ID << 16 | FANOUT_HASH << 16;
    for _ in 0..count {
        let receiver = Receiver::new(interface, &filter, mtu)?;
        if count > 1 {
            set(&receiver.socket, libc::SOL_PACKET, PACKET_FANOUT, &group)?;
            if receivers.is_empty() {
                group = get(&receiver.socket, libc::SOL_PACKET, PACKET_FANOUT)? & 0xffff | FANOUT_HASH << 16;
            }
        }
        receivers.push(receiver);
    }
    Ok(receivers)
}

/// A socket that receives, and room for what it received.
pub(super) struct Receiver {
    socket: OwnedFd,
    frames: Vec<Context>,
    beside: Vec<[u64; BESIDE / 8]>,
}

impl Receiver {
    fn new(interface: u32, filter: &[sock_filter], mtu: usize) -> io::Result<Self> {
        // With protocol 0 nothing is received before the filter is there.
        let socket = packet_socket()?;
        attach(&socket, filter)?;
        set(&socket, libc::SOL_PACKET, PACKET_AUXDATA, &1)?;
        set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1)?;
        if set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &QUEUE).is_err() {
            set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &QUEUE)?;
        }
        let address = link_address(interface, ETH_P_ALL);
        // SAFETY: the address is a `sockaddr_ll` of this length, and lives through the call.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length_of::<sockaddr_ll>()) })?;
        // Ethernet header and two tags.
        let frames = (0..BATCH).map(|_| Context::new(mtu + 22)).collect();
        Ok(Self { socket, frames, beside: vec![[0; BESIDE / 8]; BATCH] })
    }

    /// Takes the frames that have arrived, at most [`BATCH`]; none where none has.
    pub(super) fn receive(&mut self) -> io::Result<Frames<'_>> {
        let mut rooms: Vec<iovec> = self.frames.iter().map(|frame| vector(frame.room())).collect();
        let mut headers: Vec<mmsghdr> = rooms
            .iter_mut()
            .zip(&mut self.beside)
            .map(|(room, beside)| {
                let mut header = message(room);
                header.msg_hdr.msg_control = beside.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = BESIDE;
                header
            })
            .collect();
        // SAFETY: each header points to one vector and `BESIDE` bytes of control data, each vector to a buffer of its
        // length that is not otherwise used meanwhile; all outlive the call.
        let received = unsafe {
            let count = headers.len() as u32;
            libc::recvmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        let received = match check(received) {
            Ok(received) => usize::try_from(received).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        for (header, frame) in headers.iter().zip(&self.frames).take(received) {
            let whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            frame.written(if whole { header.msg_len as usize } else { 0 });
            if let Some(beside) = beside(header) {
                complete(frame, &beside);
            }
        }
        Ok(Frames(self.frames.get(..received).unwrap_or_default()))
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Frames that were received.
pub(super) struct Frames<'a>(&'a [Context]);

impl<'a> Frames<'a> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &'a Context> {
        self.0.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A socket that sends by any interface.
pub(super) struct Sender {
    socket: OwnedFd,
}

impl Sender {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { socket: packet_socket()? })
    }

    /// Sends frames, each by its interface. Returns how many the kernel refused.
    pub(super) fn send(&self, frames: &[(u32, &Context)]) -> usize {
        let mut bodies: Vec<iovec> = frames.iter().map(|(_, frame)| vector(frame.bytes())).collect();
        let mut addresses: Vec<_> =
            frames.iter().map(|(interface, frame)| link_address(*interface, ether_type(frame))).collect();
        let mut headers: Vec<mmsghdr> = bodies
            .iter_mut()
            .zip(&mut addresses)
            .map(|(body, address)| {
                let mut header = message(body);
                header.msg_hdr.msg_name = (&raw mut *address).cast();
                header.msg_hdr.msg_namelen = length_of::<sockaddr_ll>();
                header
            })
            .collect();
        let (mut done, mut lost) = (0, 0);
        while let Some(rest) = headers.get_mut(done..).filter(|rest| !rest.is_empty()) {
            // SAFETY: each header points to an address and to one vector, that to the bytes of a frame; all outlive the
            // call.
            let sent = unsafe {
                libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT)
            };
            match check(sent) {
                Ok(sent) if sent > 0 => done += usize::try_from(sent).unwrap_or(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The first that was refused: its interface is down, or its queue is full.
                _ => {
                    lost += 1;
                    done += 1;
                }
            }
        }
        lost
    }
}

/// A filter for a socket.
pub(super) fn attach(socket: &impl AsFd, filter: &[sock_filter]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Sets an option whose value is a `T`.
pub(super) fn set<T>(socket: &impl AsFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let value = (&raw const *value).cast::<c_void>();
    // SAFETY: the value lives through the call and has this length; the kernel copies it.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value, length_of::<T>()) }).map(drop)
}

fn get(socket: &impl AsFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let (mut value, mut length) = (0, length_of::<c_int>());
    let place = (&raw mut value).cast::<c_void>();
    // SAFETY: the value and its length may be written, and live through the call.
    check(unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, place, &raw mut length) })?;
    Ok(value)
}

fn packet_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn length_of<T>() -> u32 {
    size_of::<T>() as u32
}

fn link_address(interface: u32, protocol: u16) -> sockaddr_ll {
    // SAFETY: all zero is a `sockaddr_ll`.
    let mut address: sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(interface).unwrap_or(0);
    address
}

fn vector(bytes: &[Cell<u8>]) -> iovec {
    iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn message(vector: &mut iovec) -> mmsghdr {
    // SAFETY: all zero is an `mmsghdr`: no address, no vectors, no control data.
    let mut header: mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

fn beside(header: &mmsghdr) -> Option<tpacket_auxdata> {
    // SAFETY: the kernel filled the control data in and set its length; CMSG_FIRSTHDR and CMSG_NXTHDR stay within it,
    // and one of this type holds a `tpacket_auxdata`.
    unsafe {
        let mut one = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
        while let Some(control) = one.as_ref() {
            if control.cmsg_level == libc::SOL_PACKET && control.cmsg_type == PACKET_AUXDATA {
                return Some(libc::CMSG_DATA(one).cast::<tpacket_auxdata>().read_unaligned());
            }
            one = libc::CMSG_NXTHDR(&raw const header.msg_hdr, one);
        }
    }
    None
}

/// Restores what the kernel removed from the frame: the outer VLAN tag, and the checksum of a sender on this host.
fn complete(frame: &Context, beside: &tpacket_auxdata) {
    if beside.tp_status & TP_STATUS_CSUMNOTREADY != 0 {
        sum_up(frame.bytes());
    }
    if beside.tp_status & TP_STATUS_VLAN_VALID != 0 {
        let protocol = match beside.tp_status & TP_STATUS_VLAN_TPID_VALID {
            0 => 0x8100,
            _ => beside.tp_vlan_tpid,
        };
        frame.insert(12, [protocol.to_be_bytes(), beside.tp_vlan_tci.to_be_bytes()].as_flattened());
    }
}

fn ether_type(frame: &Context) -> u16 {
    word(frame.bytes(), 12).unwrap_or(0)
}

/// A number of two bytes.
fn word(bytes: &[Cell<u8>], at: usize) -> Option<u16> {
    let [one, other] = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes([one.get(), other.get()]))
}

/// Writes the checksum of the UDP datagram in a frame, of which the kernel has only done the pseudo-header.
fn sum_up(frame: &[Cell<u8>]) -> Option<()> {
    let mut network = 14;
    while matches!(word(frame, network - 2)?, 0x8100 | 0x88a8) {
        network += 4;
    }
    let byte = |at: usize| frame.get(at).map(Cell::get);
    let (transport, addresses, protocol) = match byte(network)? >> 4 {
        4 => (network + usize::from(byte(network)? & 15) * 4, network + 12..network + 20, byte(network + 9)?),
        _ => (network + 40, network + 8..network + 40, byte(network + 6)?),
    };
    let length = word(frame, transport + 4)?;
    let datagram = frame.get(transport..transport + usize::from(length))?;
    let place: &[Cell<u8>; 2] = datagram.get(6..)?.first_chunk()?;
    if protocol != libc::IPPROTO_UDP as u8 {
        return None;
    }
    place.iter().for_each(|byte| byte.set(0));
    let mut covered: Vec<u8> = frame.get(addresses)?.iter().map(Cell::get).collect();
    covered.extend([0, protocol]);
    covered.extend(length.to_be_bytes());
    covered.extend(datagram.iter().map(Cell::get));
    let sum = match checksum::full(&covered) {
        0 => 0xffff,
        sum => sum,
    };
    place.iter().zip(sum.to_be_bytes()).for_each(|(place, byte)| place.set(byte));
    Some(())
}

const _: () = assert!(HEADROOM >= 40 - 20 + 2 * 4 + 4);
