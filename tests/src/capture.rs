//! Packets recorded at a far end, and what tshark says about them.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::netns::{Namespace, run};
use crate::peer::Peer;
use crate::rtp::HEADER;
use crate::topology::Testbed;

/// A running tcpdump on one interface. An XDP program sends past tcpdump on its own interface: record at the far ends.
#[derive(Debug)]
pub struct Capture {
    peer: Peer,
    file: PathBuf,
}

/// A finished recording.
#[derive(Debug)]
pub struct Recording {
    file: PathBuf,
}

/// One SIP message of a recording.
#[derive(Clone)]
pub struct SipMessage {
    /// Number of the frame (from 1) that completed it.
    pub frame: u64,
    /// Source address of the IP header.
    pub from: Ipv4Addr,
    /// Destination address of the IP header.
    pub to: Ipv4Addr,
    /// The whole UDP payload, IP fragments put together.
    pub bytes: Vec<u8>,
}

impl Capture {
    /// Starts recording `interface` of `namespace` (a pcap filter such as `udp`, or nothing for everything) and waits
    /// until tcpdump listens.
    pub fn start(testbed: &Testbed, name: &str, namespace: &Namespace, interface: &str, filter: &str) -> Result<Self> {
        let file = testbed.directory().join(format!("{name}.pcap"));
        let mut command = namespace.command("tcpdump")?;
        // Root's tcpdump would become another user, who may not write here. Immediate mode: nothing waits in the ring.
        command.args(["-Z", "root", "-n", "-U", "--immediate-mode", "-s", "0", "-B", "16384", "-i", interface, "-w"]);
        command.arg(&file).args(filter.split_whitespace());
        let mut peer = Peer::start(name, command, &testbed.logs())?;
        peer.wait_for_line("listening on", Duration::from_secs(10))?;
        Ok(Self { peer, file })
    }

    /// Stops recording; an error if the kernel dropped packets that should have been recorded.
    pub fn stop(mut self) -> Result<Recording> {
        // tcpdump writes what the kernel has handed over; give the last packet the time to arrive.
        std::thread::sleep(Duration::from_millis(200));
        self.peer.signal(Signal::SIGINT)?;
        self.peer.wait(Duration::from_secs(5))?;
        let output = self.peer.output();
        ensure!(output.contains("\n0 packets dropped by kernel"), "the recording is not complete:\n{output}");
        Ok(Recording { file: self.file })
    }
}

impl Recording {
    /// A recording made elsewhere.
    pub fn open(file: &Path) -> Self {
        Self { file: file.to_owned() }
    }

    /// Number of frames that match a tshark display filter.
    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.tshark(&["-Y", filter, "-T", "fields", "-e", "frame.number"])?.lines().count())
    }

    /// One line for each frame in which a dissector found something malformed. `rtp_ports` (`30000-39999`) are decoded
    /// as RTP, port 5060 as SIP.
    pub fn malformed(&self, rtp_ports: Option<&str>) -> Result<Vec<String>> {
        let decode = rtp_ports.map(|ports| format!("udp.port=={ports},rtp"));
        let mut arguments = vec!["-Y", "_ws.malformed"];
        if let Some(decode) = &decode {
            arguments.extend(["-d", decode]);
        }
        Ok(self.tshark(&arguments)?.lines().map(str::to_owned).collect())
    }

    /// How many frames have a wrong checksum in the IPv4 or UDP header.
    pub fn bad_checksums(&self) -> Result<usize> {
        let check = ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"];
        let wrong = ["-Y", "ip.checksum.status == 0 || udp.checksum.status == 0", "-T", "fields", "-e", "frame.number"];
        Ok(self.tshark(&[&check[..], &wrong].concat())?.lines().count())
    }

    /// Every SIP message over UDP port 5060, keep-alives of CR and LF left out.
    pub fn sip_messages(&self) -> Result<Vec<SipMessage>> {
        let fields = ["-T", "fields", "-E", "separator=;", "-e", "frame.number", "-e", "ip.src", "-e", "ip.dst"];
        // What ICMP quotes of a message is none.
        let mut arguments = vec!["-Y", "udp.port==5060 && !icmp"];
        arguments.extend(fields);
        arguments.extend(["-e", "udp.payload"]);
        let mut messages = Vec::new();
        for line in self.tshark(&arguments)?.lines() {
            let mut columns = line.split(';');
            let mut next = || columns.next().unwrap_or_default();
            let (frame, from, to, payload) = (next(), next(), next(), next());
            // The first fragment of a datagram has no payload of its own.
            let Some(bytes) = from_hex(payload).filter(|bytes| bytes.iter().any(|b| !b.is_ascii_whitespace())) else {
                continue;
            };
            let wrong = || format!("tshark printed {line:?}");
            messages.push(SipMessage {
                frame: frame.parse().with_context(wrong)?,
                from: from.parse().with_context(wrong)?,
                to: to.parse().with_context(wrong)?,
                bytes,
            });
        }
        Ok(messages)
    }

    /// The payloads of the RTP packets to these UDP ports, G.711 only (payload types 0 and 8), in their order; headers
    /// without extension.
    pub fn g711_payloads(&self, ports: RangeInclusive<u16>) -> Result<Vec<Vec<u8>>> {
        let filter = format!("udp.dstport>={} && udp.dstport<={}", ports.start(), ports.end());
        let output = self.tshark(&["-Y", &filter, "-T", "fields", "-e", "udp.payload"])?;
        let packets = output.lines().filter_map(from_hex);
        let g711 = packets.filter(|packet| packet.first() == Some(&0x80) && matches!(packet.get(1), Some(0x00 | 0x08)));
        Ok(g711.filter_map(|packet| packet.get(HEADER..).map(<[u8]>::to_vec)).collect())
    }

    /// One line for each forbidden address or name in a SIP message `of` which it is forbidden. An address counts only
    /// as a whole: `10.9.0.2` is not found in `10.9.0.20`.
    pub fn forbidden(&self, needles: &[&str], of: impl Fn(&SipMessage) -> bool) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for message in self.sip_messages()?.into_iter().filter(of) {
            let text = String::from_utf8_lossy(&message.bytes).to_ascii_lowercase();
            for needle in needles {
                for line in text.lines().filter(|line| contains_word(line, &needle.to_ascii_lowercase())) {
                    found.push(format!(
                        "frame {} {} > {}: {needle} in {line:?}",
                        message.frame, message.from, message.to
                    ));
                }
            }
        }
        Ok(found)
    }

    fn tshark(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new("tshark").args(["-n", "-r"]).arg(&self.file).args(arguments))
    }
}

impl std::fmt::Debug for SipMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "frame {} {} > {}: {} ({} bytes)",
            self.frame,
            self.from,
            self.to,
            self.start_line(),
            self.bytes.len()
        )
    }
}

impl SipMessage {
    /// The first line.
    pub fn start_line(&self) -> String {
        String::from_utf8_lossy(&self.bytes).lines().next().unwrap_or_default().to_owned()
    }
}

/// True if `needle` is in `text` and is not a part of a longer number or name.
fn contains_word(text: &str, needle: &str) -> bool {
    text.match_indices(needle).any(|(at, _)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let mut after = text.get(at + needle.len()..).unwrap_or_default().chars();
        let (next, second) = (after.next(), after.next());
        let longer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        // A full stop continues an address only where a digit follows it.
        let continued = longer(next) || (next == Some('.') && second.is_some_and(|c| c.is_ascii_digit()));
        !continued && !longer(before) && before != Some('.')
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_whole() {
        for (text, found) in [
            ("c=in ip4 10.9.0.2", true),
            ("<sip:a@10.9.0.2:5060>", true),
            ("at 10.9.0.2.", true),
            ("10.9.0.20", false),
            ("110.9.0.2", false),
            ("10.9.0.2.1", false),
        ] {
            assert_eq!(contains_word(text, "10.9.0.2"), found, "{text}");
        }
    }

    #[test]
    fn hex_is_read() {
        assert_eq!(from_hex("0aff"), Some(vec![10, 255]));
        assert_eq!(from_hex("0af"), None);
        assert_eq!(from_hex(""), None);
    }
}
