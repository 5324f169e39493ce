//! SIPp: terminals and load, driven by the scenarios in `tests/scenarios/`.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;

use crate::kamailio::Kamailio;
use crate::netns::Namespace;
use crate::peer::{Peer, wait_until};
use crate::topology::Testbed;

/// What a SIPp does. Callers authenticate where they are asked and a password is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// REGISTER, answering a challenge. `expires_s` 0 removes the binding.
    Register,
    /// INVITE, answering a challenge; hold for `hold`; BYE.
    Call,
    /// The same, holding until [`Sipp::hang_up`].
    CallUntilTold,
    /// INVITE, answering a challenge; waits for the other side's BYE.
    CallUntilHungUp,
    /// Call; re-INVITE `sendonly`; wait; re-INVITE `sendrecv`; wait; BYE. Each wait is `hold`.
    CallWithHold,
    /// Call; a request of the method in `method` inside the dialog, expects 200; BYE.
    CallWithRequest,
    /// INVITE; when it rings, wait for `hold`, then CANCEL; expects 487.
    CallAndCancel,
    /// INVITE; expects 486.
    CallAndBeRejected,
    /// One request of the method in `method` without a dialog; expects 200.
    Request,
    /// Answers one request of the method in `method` with 200.
    AnswerRequest,
    /// Rings and answers any number of calls, re-INVITEs and OPTIONS; ends when the caller hangs up.
    Answer,
    /// Answers a call, and in it one request of the method in `method`; ends when the caller hangs up.
    AnswerWithRequest,
    /// Answers, and hangs up after `hold`; answers OPTIONS.
    AnswerAndHangUp,
    /// Rings, then 486.
    Reject,
    /// Rings until it is cancelled.
    RingUntilCancelled,
}

impl Scenario {
    fn xml(self, method: &str) -> String {
        let xml = match self {
            Self::Register => include_str!("../scenarios/register.xml"),
            // How long it is held, is said below.
            Self::Call | Self::CallUntilTold => include_str!("../scenarios/call.xml"),
            Self::CallUntilHungUp => include_str!("../scenarios/call_until_hung_up.xml"),
            Self::CallWithHold => include_str!("../scenarios/call_with_hold.xml"),
            Self::CallWithRequest => include_str!("../scenarios/call_with_request.xml"),
            Self::CallAndCancel => include_str!("../scenarios/call_and_cancel.xml"),
            Self::CallAndBeRejected => include_str!("../scenarios/call_and_be_rejected.xml"),
            Self::Request => include_str!("../scenarios/request.xml"),
            Self::AnswerRequest => include_str!("../scenarios/answer_request.xml"),
            Self::Answer => include_str!("../scenarios/answer.xml"),
            Self::AnswerWithRequest => include_str!("../scenarios/answer_with_request.xml"),
            Self::AnswerAndHangUp => include_str!("../scenarios/answer_and_hang_up.xml"),
            Self::Reject => include_str!("../scenarios/reject.xml"),
            Self::RingUntilCancelled => include_str!("../scenarios/ring_until_cancelled.xml"),
        };
        let hold = if self == Self::CallUntilTold { "<recv request=\"INFO\"/>" } else { "<pause/>" };
        xml.replace("@METHOD@", method).replace("<pause/>", hold)
    }
}

/// One SIPp.
#[derive(Clone, Debug)]
pub struct SippConfig {
    /// What it does.
    pub scenario: Scenario,
    /// Its own address; also the Contact.
    pub local: SocketAddrV4,
    /// Where it sends everything: Latch, or the softswitch where there is no Latch.
    pub remote: SocketAddrV4,
    /// Its user in `example.test`, and the digest user name.
    pub user: String,
    /// The user that it calls.
    pub peer: String,
    /// Digest password.
    pub password: String,
    /// Callers and callees, in turn: several phones at one address, with one password, instead of `user` and `peer`.
    pub phones: Vec<[String; 2]>,
    /// How many calls (for the answering scenarios: until it ends on its own; 0 = until [`Sipp::finish`]).
    pub calls: u32,
    /// New calls a second.
    pub rate: u32,
    /// How many at the same time at most.
    pub limit: u32,
    /// See the scenarios.
    pub hold: Duration,
    /// For [`Scenario::Register`].
    pub expires_s: u32,
    /// For the scenarios with a request of some method.
    pub method: String,
    /// The RTP port in its SDP. SIPp itself uses it only to echo; else it is free for [`crate::rtp`].
    pub media_port: u16,
    /// Send back all RTP that comes to the media port.
    pub echo: bool,
}

impl SippConfig {
    /// One call of `user` at `local` through `remote`.
    pub fn new(scenario: Scenario, user: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Self {
        Self {
            scenario,
            local,
            remote,
            user: user.to_owned(),
            peer: String::new(),
            password: String::new(),
            phones: Vec::new(),
            calls: 1,
            rate: 10,
            limit: 2_000,
            hold: Duration::from_secs(1),
            expires_s: 3600,
            method: "OPTIONS".to_owned(),
            media_port: 6_000,
            echo: false,
        }
    }

    /// The same, calling `peer`.
    pub fn calling(self, peer: &str) -> Self {
        Self { peer: peer.to_owned(), ..self }
    }

    /// The same, knowing its password.
    pub fn password(self, password: &str) -> Self {
        Self { password: password.to_owned(), ..self }
    }
}

/// A running SIPp.
#[derive(Debug)]
pub struct Sipp {
    /// The process.
    pub peer: Peer,
    statistics: PathBuf,
    messages: PathBuf,
}

/// What a SIPp counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SippReport {
    /// Exit status: 0 where every call went as the scenario says.
    pub exit: Option<i32>,
    /// Calls begun.
    pub created: u64,
    /// Calls that went through the whole scenario.
    pub successful: u64,
    /// Calls that did not.
    pub failed: u64,
    /// Messages it sent again.
    pub retransmissions: u64,
    /// Calls going on.
    pub current: u64,
}

impl Sipp {
    /// Starts it in `namespace`. The name must be unique in the testbed; logs and scenario go under it.
    pub fn start(testbed: &Testbed, name: &str, namespace: &Namespace, config: &SippConfig) -> Result<Self> {
        let directory = testbed.directory().join(name);
        std::fs::create_dir_all(&directory)?;
        let (scenario, phones) = (directory.join("scenario.xml"), directory.join("phones.csv"));
        let mut xml = config.scenario.xml(&config.method);
        if !config.phones.is_empty() {
            xml = xml.replace("[user]", "[field0]").replace("[peer]", "[field1]");
            xml = xml.replace("[authentication]", "[field2]");
            let line = |[own, other]: &[String; 2]| {
                format!("{own};{other};[authentication username={own} password={}]\n", config.password)
            };
            let lines: String = config.phones.iter().map(line).collect();
            std::fs::write(&phones, format!("SEQUENTIAL\n{lines}")).context("write the phones")?;
        }
        std::fs::write(&scenario, xml).context("write the scenario")?;
        let statistics = directory.join("statistics.csv");

        // SIPp opens media sockets in any case.
        let own_media_port = if config.echo { config.media_port } else { config.media_port.wrapping_add(1_000) };
        let mut command = namespace.command("sipp")?;
        command.env("TERM", "xterm").current_dir(&directory).arg(config.remote.to_string());
        command.arg("-sf").arg(&scenario);
        if !config.phones.is_empty() {
            command.arg("-inf").arg(&phones);
        }
        command.args(["-i", &config.local.ip().to_string(), "-p", &config.local.port().to_string()]);
        command.args(["-mi", &config.local.ip().to_string(), "-mp", &own_media_port.to_string()]);
        for (key, value) in [
            ("user", config.user.as_str()),
            ("peer", &config.peer),
            ("domain", Kamailio::DOMAIN),
            ("rtp_port", &config.media_port.to_string()),
            ("expires", &config.expires_s.to_string()),
        ] {
            command.args(["-key", key, value]);
        }
        // The Call-ID that SIPp makes on its own contains its address, which is the one thing Latch must leave as it
        // is.
        command.args(["-cid_str", &format!("%u-%p-{name}")]);
        command.args(["-au", &config.user, "-ap", &config.password]);
        command.args(["-d", &config.hold.as_millis().to_string()]);
        command.args(["-r", &config.rate.to_string(), "-l", &config.limit.to_string()]);
        if config.calls > 0 {
            command.args(["-m", &config.calls.to_string()]);
        }
        if config.calls != 1 {
            // Under load requests are repeated, and a SIPp that has answered twice takes the repeated one for a wrong
            // one; every step of the scenario still has to come.
            command.args(["-default_behaviors", "all,-abortunexp"]);
        }
        if config.echo {
            command.arg("-rtp_echo");
        }
        command.args(["-nostdin", "-f", "3600", "-recv_timeout", "120000"]);
        // SIPp makes its socket's buffers smaller than the kernel would; then bursts are lost.
        command.args(["-buff_size", "1000000"]);
        command.arg("-trace_err").arg("-error_file").arg(testbed.logs().join(format!("{name}.errors.log")));
        command.args(["-trace_stat", "-fd", "1", "-stf"]).arg(&statistics);
        let messages = directory.join("messages.log");
        if config.calls == 1 {
            command.arg("-trace_msg").arg("-message_file").arg(&messages);
        }
        let sipp = Self { peer: Peer::start(name, command, &testbed.logs())?, statistics, messages };
        wait_until("SIPp has opened its socket", Duration::from_secs(5), || Ok(sipp.statistics.exists()))?;
        Ok(sipp)
    }

    /// Starts it and waits for its end; an error unless every call succeeded.
    pub fn run(
        testbed: &Testbed,
        name: &str,
        namespace: &Namespace,
        config: &SippConfig,
        timeout: Duration,
    ) -> Result<SippReport> {
        Self::start(testbed, name, namespace, config)?.expect_success(timeout)
    }

    /// Has a [`Scenario::CallUntilTold`] send its BYE: by a request of its call, from its own host.
    pub fn hang_up(&self, namespace: &Namespace, at: SocketAddrV4) -> Result<()> {
        let call_id = format!("1-{}-{}", self.peer.pid(), self.peer.name());
        let told = format!(
            "INFO sip:testbed@{at} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bK-testbed\r\nFrom: <sip:testbed@{at}>;tag=testbed\r\n\
             To: <sip:testbed@{at}>\r\nCall-ID: {call_id}\r\nCSeq: 1 INFO\r\nContent-Length: 0\r\n\r\n"
        );
        let socket = namespace.udp(SocketAddrV4::new(*at.ip(), 0))?;
        socket.send_to(told.as_bytes(), at).context("tell SIPp to hang up").map(drop)
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> Result<SippReport> {
        let status = self.peer.wait(timeout)?;
        Ok(SippReport { exit: status.code(), ..self.report()? })
    }

    /// Waits for its end; an error unless every call succeeded and there was at least one.
    pub fn expect_success(mut self, timeout: Duration) -> Result<SippReport> {
        let report = self.wait(timeout)?;
        ensure!(
            report.exit == Some(0) && report.failed == 0 && report.successful > 0,
            "{} did not succeed: {report:?}",
            self.peer.name()
        );
        Ok(report)
    }

    /// Ends an answering SIPp once its calls are over; what it counted.
    pub fn finish(mut self, timeout: Duration) -> Result<SippReport> {
        if self.peer.is_running() {
            // SIPp's own signal for "no new calls, then exit".
            self.peer.signal(Signal::SIGUSR1)?;
        }
        self.wait(timeout)
    }

    /// Every SIP message it received so far; only where `calls` is 1.
    pub fn received(&self) -> Vec<String> {
        let log = String::from_utf8_lossy(&std::fs::read(&self.messages).unwrap_or_default()).into_owned();
        // Each message stands under a rule of hyphens with the time, and a line that says which way it went.
        let entries = log.split("-----------------------------------------------").skip(1);
        let received = entries.filter_map(|entry| {
            let (head, message) = entry.split_once("\n\n")?;
            head.contains("received").then(|| message.to_owned())
        });
        received.collect()
    }

    /// Waits until the other side has stated where it wants RTP: address and port of the last SDP received.
    pub fn wait_for_remote_media(&self, timeout: Duration) -> Result<SocketAddrV4> {
        let mut media = None;
        wait_until("the other side's SDP has come", timeout, || {
            media = self.received().iter().rev().find_map(|message| media_address(message));
            Ok(media.is_some())
        })?;
        media.ok_or_else(|| anyhow!("no SDP"))
    }

    /// What it has counted so far (renewed once a second).
    pub fn report(&self) -> Result<SippReport> {
        let text = std::fs::read_to_string(&self.statistics).context("SIPp's statistics")?;
        parse_statistics(&text)
    }
}

/// The address of the last `c=` and the port of the first `m=audio` of a message.
fn media_address(message: &str) -> Option<SocketAddrV4> {
    let address = message.lines().rev().find_map(|line| line.strip_prefix("c=IN IP4 "))?.trim().parse().ok()?;
    let media = message.lines().find_map(|line| line.strip_prefix("m=audio "))?;
    Some(SocketAddrV4::new(address, media.split(' ').next()?.parse().ok()?))
}

/// Reads the last line of SIPp's statistics, semicolons between the columns.
fn parse_statistics(text: &str) -> Result<SippReport> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let header = lines.next().ok_or_else(|| anyhow!("SIPp wrote no statistics"))?;
    let Some(last) = lines.next_back() else { return Ok(SippReport::default()) };
    let columns: BTreeMap<&str, &str> = header.split(';').zip(last.split(';')).collect();
    let number = |name: &str| -> Result<u64> {
        let text = columns.get(name).ok_or_else(|| anyhow!("SIPp's statistics have no column {name}"))?;
        text.trim().parse().with_context(|| format!("{name} in SIPp's statistics"))
    };
    Ok(SippReport {
        exit: None,
        created: number("TotalCallCreated")?,
        successful: number("SuccessfulCall(C)")?,
        failed: number("FailedCall(C)")?,
        retransmissions: number("Retransmissions(C)")?,
        current: number("CurrentCall")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_address_is_read_from_a_message() {
        let message = "SIP/2.0 200 OK\r\n\r\nv=0\r\nc=IN IP4 203.0.113.10\r\nm=audio 30002 RTP/AVP 8\r\n";
        assert_eq!(media_address(message), Some("203.0.113.10:30002".parse().unwrap()));
        assert_eq!(media_address("SIP/2.0 180 Ringing\r\n\r\n"), None);
    }

    #[test]
    fn the_last_line_of_the_statistics_counts() {
        let text = "TotalCallCreated;CurrentCall;SuccessfulCall(C);FailedCall(C);Retransmissions(C);\n\
                    1;1;0;0;0;\n5;0;4;1;2;\n";
        let expected = SippReport { exit: None, created: 5, successful: 4, failed: 1, retransmissions: 2, current: 0 };
        assert_eq!(parse_statistics(text).unwrap(), expected);
        assert!(parse_statistics("").is_err());
    }
}
