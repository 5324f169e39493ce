//! Classic BPF filters for sockets, which the kernel accepts from every process: which frames a packet socket is given,
//! so that the host's other traffic costs no copy.

use libc::{BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};
use std::net::IpAddr;

/// Lets nothing through.
pub(super) const NOTHING: [sock_filter; 1] = [instruction(BPF_RET | BPF_K, 0)];

/// How many addresses of a family are distinguished; if there are more, all UDP goes through.
const ADDRESSES: usize = 100;
/// The whole frame.
const ALL: u32 = u32::MAX;

/// Lets UDP to these addresses through, and every frame that still has a tag after the kernel has removed the outer
/// one.
pub(super) fn media(addresses: &[IpAddr]) -> Vec<sock_filter> {
    let mut v4: Vec<u32> = Vec::new();
    let mut v6: Vec<[u32; 4]> = Vec::new();
    for address in addresses {
        match address {
            IpAddr::V4(address) => v4.push(address.to_bits()),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                v6.push([96, 64, 32, 0].map(|shift| (bits >> shift) as u32));
            }
        }
    }
    let mut program = vec![load(BPF_H, 12)];
    for tag in [0x8100, 0x88a8] {
        program.extend([unless_equal(tag, 1), give(ALL)]);
    }
    let mut block = vec![load(BPF_B, 23), equal_or_skip(17), give(0), load(BPF_W, 30)];
    if v4.len() > ADDRESSES {
        block.push(give(ALL));
    } else {
        for address in v4 {
            block.extend([unless_equal(address, 1), give(ALL)]);
        }
        block.push(give(0));
    }
    program.push(unless_equal(0x0800, u8::try_from(block.len()).unwrap_or(u8::MAX)));
    program.extend(block);
    program.extend([equal_or_skip(0x86dd), give(0)]);
    if v6.len() > ADDRESSES {
        program.push(give(ALL));
    } else {
        for [a, b, c, d] in v6 {
            // Skips what is left of this address.
            program.extend([load(BPF_W, 38), unless_equal(a, 7), load(BPF_W, 42), unless_equal(b, 5)]);
            program.extend([load(BPF_W, 46), unless_equal(c, 3), load(BPF_W, 50), unless_equal(d, 1), give(ALL)]);
        }
        program.push(give(0));
    }
    program
}

const fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(size: u32, offset: u32) -> sock_filter {
    instruction(BPF_LD | size | BPF_ABS, offset)
}

/// Continues where the value is `k`, else skips this many instructions.
fn unless_equal(k: u32, skip: u8) -> sock_filter {
    sock_filter { jf: skip, ..instruction(BPF_JMP | BPF_JEQ | BPF_K, k) }
}

/// Skips an instruction where the value is `k`.
fn equal_or_skip(k: u32) -> sock_filter {
    sock_filter { jt: 1, ..instruction(BPF_JMP | BPF_JEQ | BPF_K, k) }
}

fn give(bytes: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs these programs as the kernel would.
    fn run(program: &[sock_filter], frame: &[u8]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let one = program[at];
            at += 1;
            let k = one.k as usize;
            let code = u32::from(one.code);
            if code == BPF_RET | BPF_K {
                return one.k;
            } else if code == BPF_JMP | BPF_JEQ | BPF_K {
                at += usize::from(if value == one.k { one.jt } else { one.jf });
            } else {
                let length = match code {
                    _ if code == BPF_LD | BPF_B | BPF_ABS => 1,
                    _ if code == BPF_LD | BPF_H | BPF_ABS => 2,
                    _ => 4,
                };
                let Some(bytes) = frame.get(k..k + length) else { return 0 };
                value = bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
            }
        }
    }

    fn frame(ether_type: u16, protocol: u8, to: IpAddr) -> Vec<u8> {
        let mut frame = vec![0; 80];
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        match to {
            IpAddr::V4(v4) => {
                frame[23] = protocol;
                frame[30..34].copy_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => frame[38..54].copy_from_slice(&v6.octets()),
        }
        frame
    }

    #[test]
    fn udp_to_the_relays_addresses_goes_through_and_nothing_else() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let own = ["203.0.113.10", "10.9.0.10", "2001:db8::10", "2001:db8::11"].map(ip);
        let other = ["203.0.113.11", "2001:db8::12", "2001:db9::10"].map(ip);
        let program = media(&own);
        let of = |address: IpAddr| if address.is_ipv4() { 0x0800 } else { 0x86dd };
        for address in own {
            assert_eq!(run(&program, &frame(of(address), 17, address)), ALL, "{address}");
        }
        for address in other {
            assert_eq!(run(&program, &frame(of(address), 17, address)), 0, "{address}");
        }
        assert_eq!(run(&program, &frame(0x0800, 6, own[0])), 0, "TCP");
        assert_eq!(run(&program, &frame(0x0806, 17, own[0])), 0, "ARP");
        assert_eq!(run(&program, &frame(0x8100, 0, own[0])), ALL, "an inner tag");
        assert_eq!(run(&program, &frame(0x0800, 17, own[0])[..20]), 0, "a short frame");
        assert_eq!(run(&NOTHING, &frame(0x0800, 17, own[0])), 0);
    }

    #[test]
    fn of_too_many_addresses_all_udp_goes_through() {
        let many: Vec<IpAddr> = (0..300u32).map(|n| IpAddr::V4((0x0a00_0000 + n).into())).collect();
        let program = media(&many);
        assert_eq!(run(&program, &frame(0x0800, 17, "192.0.2.1".parse().unwrap())), ALL);
        assert_eq!(run(&program, &frame(0x0800, 6, many[0])), 0);
        let full: Vec<IpAddr> = many[..ADDRESSES].to_vec();
        let program = media(&full);
        assert_eq!(run(&program, &frame(0x0800, 17, full[ADDRESSES - 1])), ALL);
        assert_eq!(run(&program, &frame(0x0800, 17, "192.0.2.1".parse().unwrap())), 0);
    }
}
