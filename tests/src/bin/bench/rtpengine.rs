//! Debian's rtpengine, in user space, with a call a stream.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use testbed::{Namespace, Peer, address, chain};

use crate::ng::{self, Value};

/// Where it takes requests.
const NG: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 2223);

/// The daemon; dropped, it is ended and its folder removed.
pub(crate) struct Rtpengine {
    control: std::net::UdpSocket,
    daemon: Peer,
    folder: std::path::PathBuf,
    calls: Vec<String>,
    generation: u32,
}

impl Rtpengine {
    /// Starts it with as many threads as the machine has cores, its kernel module not used.
    pub(crate) fn start(namespace: &Namespace) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("{}-logs", namespace.name()));
        std::fs::create_dir_all(&folder)?;
        let threads = std::thread::available_parallelism()?.get();
        let mut command = namespace.command("rtpengine")?;
        command
            .args(["--config-file=none", "--table=-1", "--foreground", "--log-stderr", "--log-level=4"])
            .arg(format!("--interface=access/{}", address::LATCH_ACCESS))
            .arg(format!("--interface=core/{}", address::LATCH_CORE))
            .arg(format!("--listen-ng={NG}"))
            .arg(format!("--num-threads={threads}"))
            .args(["--port-min=30000", "--port-max=39999"]);
        let mut daemon = Peer::start("rtpengine", command, &folder)?;
        let control = namespace.udp(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        control.connect(NG)?;
        let ping = [("command", Value::Text("ping"))];
        testbed::wait_until("rtpengine answers", Duration::from_secs(10), || {
            ensure!(daemon.is_running(), "rtpengine ended: {}", daemon.output());
            // Until it listens, the kernel refuses the datagram.
            Ok(ng::request(&control, "ping", &ping, "result").is_ok_and(|result| result == "pong"))
        })?;
        Ok(Self { control, daemon, folder, calls: Vec::new(), generation: 0 })
    }

    /// Ends the calls that there are and makes new ones, from these ports of `caller`'s address in the access network
    /// to `callee` in the core network; source and destination port of each caller's packets.
    ///
    /// rtpengine stops to read a socket for good once its queue has been too long a number of times: after an attempt
    /// at too high a rate, only new calls tell something.
    pub(crate) fn renew(&mut self, ports: &[(u16, u16)], callee: SocketAddrV4) -> Result<Vec<(u16, u16)>> {
        for id in std::mem::take(&mut self.calls) {
            let request =
                [("command", Value::Text("delete")), ("call-id", Value::Text(&id)), ("delete-delay", Value::Text("0"))];
            ng::request(&self.control, &format!("{id}-delete"), &request, "result")?;
        }
        self.generation += 1;
        let mut streams = Vec::new();
        for (number, (source, _)) in ports.iter().enumerate() {
            let id = format!("bench-{}-{number}", self.generation);
            let relay = self.call(&id, SocketAddrV4::new(*chain::SOURCE.ip(), *source), callee)?;
            self.calls.push(id);
            streams.push((*source, relay.port()));
        }
        Ok(streams)
    }

    /// Makes a call between `caller` in the access network and `callee` in the core network; where the caller's packets
    /// go.
    fn call(&self, id: &str, caller: SocketAddrV4, callee: SocketAddrV4) -> Result<SocketAddrV4> {
        let (caller, callee) = (description(caller), description(callee));
        let common =
            [("call-id", Value::Text(id)), ("from-tag", Value::Text("caller")), ("ICE", Value::Text("remove"))];
        let offer = [
            ("command", Value::Text("offer")),
            ("sdp", Value::Text(&caller)),
            ("direction", Value::List(&["access", "core"])),
        ];
        ng::request(&self.control, id, &common.iter().chain(&offer).copied().collect::<Vec<_>>(), "sdp")?;
        let answer =
            [("command", Value::Text("answer")), ("sdp", Value::Text(&callee)), ("to-tag", Value::Text("callee"))];
        let cookie = format!("{id}-answer");
        let told =
            ng::request(&self.control, &cookie, &common.iter().chain(&answer).copied().collect::<Vec<_>>(), "sdp")?;
        media(&told).with_context(|| format!("no port in {told}\n{}", self.daemon.output()))
    }
}

impl Drop for Rtpengine {
    fn drop(&mut self) {
        let _ = self.daemon.stop(Duration::from_secs(5));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn description(media: SocketAddrV4) -> String {
    let (address, port) = (media.ip(), media.port());
    format!(
        "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\nm=audio {port} RTP/AVP 8\r\n\
         a=rtpmap:8 PCMA/8000\r\n"
    )
}

/// Address and port of a description's audio.
fn media(description: &str) -> Result<SocketAddrV4> {
    let value = |prefix: &str| {
        let line = description.lines().find_map(|line| line.strip_prefix(prefix));
        line.and_then(|line| line.split(' ').next()).ok_or_else(|| anyhow!("no {prefix}"))
    };
    Ok(SocketAddrV4::new(value("c=IN IP4 ")?.parse()?, value("m=audio ")?.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_as_it_is_written() {
        let media_address = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 10), 30_024);
        assert_eq!(media(&description(media_address)).unwrap(), media_address);
        assert!(media("v=0\r\n").is_err());
    }
}
