//! baresip: a real phone, scripted over its TCP control port.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use proxy_user::flow::Transport;
use serde_json::{Value, json};

use crate::interrupt;
use crate::kamailio::Kamailio;
use crate::netns::Namespace;
use crate::peer::Peer;
use crate::topology::Testbed;

const CONTROL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4444);
const DIALOG_TIMEOUT: Duration = Duration::from_secs(10);

/// One phone with one account.
#[derive(Clone, Debug)]
pub struct BaresipConfig {
    /// The user in `example.test`.
    pub user: String,
    /// Digest password, where the softswitch asks.
    pub password: Option<String>,
    /// Where every request is sent: Latch, or the softswitch where there is no Latch.
    pub outbound: SocketAddr,
    /// The phone's own SIP address.
    pub listen: SocketAddr,
    /// Answer calls automatically.
    pub auto_answer: bool,
    /// What it asks for in REGISTER, in seconds; 0 = it does not register.
    pub expires_s: u32,
    /// The tone it plays to the other side, in Hz.
    pub tone_hz: u32,
    /// Offers and takes RTP and RTCP on one port.
    pub rtcp_mux: bool,
    /// How it speaks to `outbound`: UDP, TCP or TLS.
    pub transport: Transport,
    /// For TLS: the authority that must have signed the certificate of `outbound`.
    pub ca: Option<PathBuf>,
}

impl BaresipConfig {
    /// A phone on port 5060 of `local` that registers for an hour and answers by hand.
    pub fn new(user: &str, local: impl Into<IpAddr>, outbound: impl Into<SocketAddr>) -> Self {
        Self {
            user: user.to_owned(),
            password: None,
            outbound: outbound.into(),
            listen: SocketAddr::new(local.into(), 5060),
            auto_answer: false,
            expires_s: 3600,
            tone_hz: 440,
            rtcp_mux: false,
            transport: Transport::Udp,
            ca: None,
        }
    }
}

/// What happened in the phone: the event objects of `ctrl_tcp`.
#[derive(Clone, Debug)]
pub struct Event {
    /// `REGISTER_OK`, `CALL_INCOMING`, `CALL_ESTABLISHED`, `CALL_CLOSED`, ...
    pub kind: String,
    /// What goes with it, e.g. the reason of a `CALL_CLOSED`.
    pub parameter: String,
    /// The whole event.
    pub json: Value,
}

/// A running baresip.
#[derive(Debug)]
pub struct Baresip {
    /// The process.
    pub peer: Peer,
    control: TcpStream,
    received: Vec<u8>,
    events: VecDeque<Event>,
    responses: VecDeque<Value>,
    sent: u64,
}

impl Baresip {
    /// Starts the phone in `namespace` and connects to its control port. It begins to register automatically: see
    /// [`Baresip::wait_registered`].
    pub fn start(testbed: &Testbed, name: &str, namespace: &Namespace, config: &BaresipConfig) -> Result<Self> {
        let directory = testbed.directory().join(name);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("config"), configuration(config))?;
        std::fs::write(directory.join("accounts"), account(config))?;
        std::fs::write(directory.join("contacts"), "")?;

        let mut command = namespace.command("baresip")?;
        command.arg("-f").arg(&directory).env("HOME", &directory);
        let mut peer = Peer::start(name, command, &testbed.logs())?;
        let deadline = Instant::now() + DIALOG_TIMEOUT;
        let control = loop {
            match namespace.enter(|| Ok(TcpStream::connect(CONTROL)?)) {
                Ok(control) => break control,
                Err(error) => {
                    ensure!(peer.is_running() && Instant::now() < deadline, "{name}: no control connection: {error:#}")
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        control.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (events, responses) = (VecDeque::new(), VecDeque::new());
        Ok(Self { peer, control, received: Vec::new(), events, responses, sent: 0 })
    }

    /// Waits until the registrar has accepted the phone.
    pub fn wait_registered(&mut self, timeout: Duration) -> Result<()> {
        // The answer may have come before the control connection: the log has it in any case.
        self.peer.wait_for_line("} 200 OK (", timeout).map(drop)
    }

    /// Calls `user` of the testbed's domain.
    pub fn dial(&mut self, user: &str) -> Result<()> {
        self.command("dial", &format!("sip:{user}@{}", Kamailio::DOMAIN)).map(drop)
    }

    /// Answers the incoming call.
    pub fn accept(&mut self) -> Result<()> {
        self.command("accept", "").map(drop)
    }

    /// Puts the call on hold.
    pub fn hold(&mut self) -> Result<()> {
        self.command("hold", "").map(drop)
    }

    /// Takes the call off hold.
    pub fn resume(&mut self) -> Result<()> {
        self.command("resume", "").map(drop)
    }

    /// Ends the call; before it is answered this cancels or rejects it.
    pub fn hang_up(&mut self) -> Result<()> {
        self.command("hangup", "").map(drop)
    }

    /// Any long command of baresip; what it said.
    pub fn command(&mut self, command: &str, parameters: &str) -> Result<String> {
        self.sent += 1;
        let token = format!("testbed-{}", self.sent);
        let request = json!({ "command": command, "params": parameters, "token": token }).to_string();
        write!(self.control, "{}:{request},", request.len()).context("write to baresip's control port")?;
        let deadline = Instant::now() + DIALOG_TIMEOUT;
        loop {
            self.read()?;
            while let Some(response) = self.responses.pop_front() {
                if response["token"].as_str() != Some(&token) {
                    continue;
                }
                let data = response["data"].as_str().unwrap_or_default().to_owned();
                ensure!(
                    response["ok"].as_bool() == Some(true),
                    "{}: `{command} {parameters}`: {data}",
                    self.peer.name()
                );
                return Ok(data);
            }
            ensure!(Instant::now() < deadline, "{}: no answer to `{command}`", self.peer.name());
        }
    }

    /// Waits for the next event of this kind; events before it are thrown away.
    pub fn wait_for(&mut self, kind: &str, timeout: Duration) -> Result<Event> {
        let deadline = Instant::now() + timeout;
        let mut passed = Vec::new();
        loop {
            while let Some(event) = self.events.pop_front() {
                if event.kind == kind {
                    return Ok(event);
                }
                passed.push(event.kind);
            }
            if Instant::now() >= deadline {
                bail!("{}: no {kind} within {timeout:?}; there were {passed:?}", self.peer.name());
            }
            self.read()?;
        }
    }

    /// Takes in what the control port has; waits up to 50 ms for it.
    fn read(&mut self) -> Result<()> {
        interrupt::check()?;
        let mut buffer = [0; 4096];
        match self.control.read(&mut buffer) {
            Ok(0) => bail!("{} closed its control port", self.peer.name()),
            Ok(length) => self.received.extend(buffer.iter().take(length)),
            // A pause of the machine interrupts a read that has a time limit.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("read baresip's control port"),
        }
        while let Some(message) = take_netstring(&mut self.received)? {
            let json: Value = serde_json::from_slice(&message).context("JSON from baresip")?;
            if json["event"].as_bool() == Some(true) {
                let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
                self.events.push_back(Event { kind: text("type"), parameter: text("param"), json });
            } else {
                self.responses.push_back(json);
            }
        }
        Ok(())
    }
}

/// Takes one whole netstring (`LENGTH:BYTES,`) off the front of `received`.
fn take_netstring(received: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    let Some(colon) = received.iter().position(|&byte| byte == b':') else { return Ok(None) };
    let length: usize = received
        .get(..colon)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| anyhow!("baresip's control port sent something else than netstrings"))?;
    let end = colon + 1 + length;
    let Some(message) = received.get(colon + 1..end).map(<[u8]>::to_vec) else { return Ok(None) };
    if received.len() <= end {
        return Ok(None);
    }
    received.drain(..=end);
    Ok(Some(message))
}

fn configuration(config: &BaresipConfig) -> String {
    // ausine of baresip 1.0 works at 48 kHz stereo only; aubridge as a player takes sound without a sound card.
    format!(
        "sip_listen {listen}\n\
         call_local_timeout 120\ncall_max_calls 4\n\
         audio_source ausine,{tone}\naudio_player aubridge,sink\naudio_alert aubridge,alert\n\
         ausrc_srate 48000\nausrc_channels 2\nauplay_srate 48000\nauplay_channels 2\n\
         audio_level no\nrtcp_mux {mux}\njitter_buffer_delay 1-5\nrtp_stats yes\nrtp_ports 16384-16484\n\
         module_path /usr/lib/baresip/modules\n\
         module g711.so\nmodule ausine.so\nmodule aubridge.so\n\
         module_tmp uuid.so\nmodule_tmp account.so\n\
         module_app menu.so\nmodule_app ctrl_tcp.so\n\
         ctrl_tcp_listen {CONTROL}\nringback_disabled yes\nmenu_bell no\n{tls}",
        tls = match &config.ca {
            Some(ca) => format!("sip_verify_server yes\nsip_cafile {}\n", ca.display()),
            None => String::new(),
        },
        listen = config.listen,
        tone = config.tone_hz,
        mux = if config.rtcp_mux { "yes" } else { "no" },
    )
}

fn account(config: &BaresipConfig) -> String {
    let password = config.password.as_ref().map(|p| format!(";auth_pass={p}")).unwrap_or_default();
    let answer = if config.auto_answer { "auto" } else { "manual" };
    let transport = config.transport.in_uri().map(|name| format!(";transport={name}")).unwrap_or_default();
    format!(
        "<sip:{}@{}{transport}>;outbound=\"sip:{}{transport}\";regint={};answermode={answer};audio_codecs=PCMA/8000/1,PCMU/8000/1{password}\n",
        config.user,
        Kamailio::DOMAIN,
        config.outbound,
        config.expires_s,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netstrings_are_taken_whole() {
        let mut received = b"5:hello,2:ok,3:in".to_vec();
        assert_eq!(take_netstring(&mut received).unwrap().unwrap(), b"hello");
        assert_eq!(take_netstring(&mut received).unwrap().unwrap(), b"ok");
        assert_eq!(take_netstring(&mut received).unwrap(), None);
        assert_eq!(received, b"3:in");
        assert!(take_netstring(&mut b"x:1,".to_vec()).is_err());
    }
}
