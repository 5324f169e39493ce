//! Transports that have connections: where to listen, which certificates are used, and what they may cost.

use super::{reader::Section, report::Report};
use crate::flow::Transport;
use std::{path::PathBuf, time::Duration};

/// The transports of a realm besides UDP. All ports are those of its `signalling` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Port for TCP.
    pub tcp: Option<u16>,
    /// Port for TLS.
    pub tls: Option<u16>,
    /// Port for WebSocket.
    pub ws: Option<u16>,
    /// Port for WebSocket over TLS.
    pub wss: Option<u16>,
    /// Latch's certificate, shown to everybody who connects by TLS, and to a softswitch that asks for one.
    pub certificate: Option<Certificate>,
    /// File with the authorities one of which must have signed the certificate of a client that connects by TLS.
    /// Without it nobody is asked for one.
    pub client_ca: Option<PathBuf>,
    /// Core: how requests go to the softswitch.
    pub softswitch: Transport,
    /// Core: file with the authorities one of which must have signed the softswitch's certificate.
    pub server_ca: Option<PathBuf>,
    /// Core: the name in that certificate; its address, if there is none.
    pub server_name: Option<String>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            tcp: None,
            tls: None,
            ws: None,
            wss: None,
            certificate: None,
            client_ca: None,
            softswitch: Transport::Udp,
            server_ca: None,
            server_name: None,
        }
    }
}

impl Streams {
    /// The port of a transport, if it is listened for.
    pub fn port(&self, transport: Transport) -> Option<u16> {
        match transport {
            Transport::Udp => None,
            Transport::Tcp => self.tcp,
            Transport::Tls => self.tls,
            Transport::Ws => self.ws,
            Transport::Wss => self.wss,
        }
    }

    /// What is listened for, and at which port.
    pub fn listening(&self) -> impl Iterator<Item = (Transport, u16)> {
        Transport::ALL.into_iter().filter_map(|transport| Some((transport, self.port(transport)?)))
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate and those between it and an authority.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What connections of all realms together, and each by itself, may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// At once.
    pub max: usize,
    /// At once from one address.
    pub max_per_source: usize,
    /// The longest message, bytes.
    pub max_message_bytes: usize,
    /// How many bytes may wait for a peer that takes them slowly.
    pub send_queue_bytes: usize,
    /// How long a message may take from its first byte to its last; the same holds for what comes before the first one.
    pub message_timeout: Duration,
    /// A connection without traffic in either direction for this long is closed.
    pub idle_timeout: Duration,
    /// How long the softswitch may take to accept a connection.
    pub connect_timeout: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max: 10_000,
            max_per_source: 200,
            max_message_bytes: 65_535,
            send_queue_bytes: 131_072,
            message_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3_600),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

pub(super) fn streams(realm: &mut Section<'_>, report: &mut Report<'_>) -> Streams {
    let mut port = |name| realm.optional(name, 1..=u16::MAX, report);
    let [tcp, tls, ws, wss] = ["tcp_port", "tls_port", "ws_port", "wss_port"].map(&mut port);
    let [chain, key, client_ca, server_ca] =
        ["certificate", "key", "client_ca", "server_ca"].map(|name| path(realm, name, report));
    let certificate = match (chain, key) {
        (Some(chain), Some(key)) => Some(Certificate { chain, key }),
        (None, None) => None,
        (chain, _) => {
            let missing = if chain.is_some() { "key" } else { "certificate" };
            if !report.stands(&realm.path(missing)) {
                let remedy = "certificate and key belong together: write both, as files in PEM";
                report.problem(&realm.path(missing), "is missing", remedy);
            }
            None
        }
    };
    let softswitch = realm.string("transport", report).map_or(Transport::Udp, |text| match text.as_str() {
        "tcp" => Transport::Tcp,
        "tls" => Transport::Tls,
        "udp" => Transport::Udp,
        _ => {
            let message = format!("\"{text}\" is not a transport to a softswitch");
            report.problem(&realm.path("transport"), message, "write \"udp\", \"tcp\" or \"tls\"");
            Transport::Udp
        }
    });
    let server_name = realm.string("server_name", report);
    Streams { tcp, tls, ws, wss, certificate, client_ca, softswitch, server_ca, server_name }
}

fn path(section: &mut Section<'_>, name: &'static str, report: &mut Report<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(section.string(name, report)?);
    if !path.is_absolute() {
        report.problem(
            &section.path(name),
            "is not an absolute path",
            format!("write it like {name} = \"/etc/latch/{name}.pem\""),
        );
    }
    Some(path)
}

pub(super) fn connections(mut section: Section<'_>, report: &mut Report<'_>) -> Connections {
    let default = Connections::default();
    let connections = Connections {
        max: section.number("max", 1..=1_000_000, default.max, report),
        max_per_source: section.number("max_per_source", 1..=1_000_000, default.max_per_source, report),
        max_message_bytes: section.number("max_message_bytes", 1_300..=65_535, default.max_message_bytes, report),
        send_queue_bytes: section.number("send_queue_bytes", 65_536..=16_777_216, default.send_queue_bytes, report),
        message_timeout: section.seconds("message_timeout_s", 1..=3_600, default.message_timeout, report),
        idle_timeout: section.seconds("idle_timeout_s", 10..=604_800, default.idle_timeout, report),
        connect_timeout: section.seconds("connect_timeout_s", 1..=60, default.connect_timeout, report),
    };
    section.finish(report);
    connections
}

#[cfg(test)]
mod tests {
    use crate::config::{Certificate, Config, Connections, Overrides, Problems, Streams};
    use crate::flow::{Flow, Transport};
    use std::{path::Path, time::Duration};

    fn parse(access: &str, core: &str, rest: &str) -> Result<Config, Problems> {
        let realm = |side: &str, address: &str, more: &str| {
            format!(
                "[[realm]]\nname = \"{side}\"\nside = \"{side}\"\ninterface = \"eth0\"\nports = \"30000-39999\"\n\
                 signalling = \"{address}:5060\"\nmedia = \"{address}\"\n{more}\n"
            )
        };
        let core = format!("softswitch = \"10.9.0.20:5061\"\n{core}");
        let text = realm("access", "203.0.113.10", access) + &realm("core", "10.9.0.10", &core) + rest;
        Config::parse(&text, Path::new("latch.toml"), Overrides::default())
    }

    const CERTIFICATE: &str = "certificate = \"/a/c.pem\"\nkey = \"/a/k.pem\"\n";

    #[test]
    fn every_setting_is_read() {
        let access = format!(
            "tcp_port = 5060\ntls_port = 5061\nws_port = 80\nwss_port = 443\n{CERTIFICATE}client_ca = \"/a/ca.pem\""
        );
        let core = format!(
            "tls_port = 5061\ntransport = \"tls\"\nserver_ca = \"/a/s.pem\"\nserver_name = \"s.example.test\"\n{CERTIFICATE}"
        );
        let rest = "[connections]\nmax = 7\nmax_per_source = 3\nmax_message_bytes = 4000\nsend_queue_bytes = 70000\n\
                    message_timeout_s = 2\nidle_timeout_s = 60\nconnect_timeout_s = 4\n";
        let config = parse(&access, &core, rest).unwrap();
        let certificate = Some(Certificate { chain: "/a/c.pem".into(), key: "/a/k.pem".into() });
        let [access, core] = config.realms.iter().collect::<Vec<_>>()[..] else { panic!() };
        let expected = Streams {
            tcp: Some(5060),
            tls: Some(5061),
            ws: Some(80),
            wss: Some(443),
            certificate: certificate.clone(),
            client_ca: Some("/a/ca.pem".into()),
            ..Streams::default()
        };
        assert_eq!(access.streams, expected);
        assert_eq!(access.own(Transport::Wss), Some("203.0.113.10:443".parse().unwrap()));
        let expected = Streams {
            tls: Some(5061),
            certificate,
            softswitch: Transport::Tls,
            server_ca: Some("/a/s.pem".into()),
            server_name: Some("s.example.test".into()),
            ..Streams::default()
        };
        assert_eq!(core.streams, expected);
        assert_eq!(core.softswitch_flow(), Some(Flow::to(Transport::Tls, "10.9.0.20:5061".parse().unwrap())));
        assert_eq!(core.own(Transport::Tcp), None);
        let expected = Connections {
            max: 7,
            max_per_source: 3,
            max_message_bytes: 4_000,
            send_queue_bytes: 70_000,
            message_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(4),
        };
        assert_eq!(config.connections, expected);
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        for (access, core, problem) in [
            ("tls_port = 5061", "", "realm[0].certificate: is missing"),
            ("wss_port = 443\ncertificate = \"/a/c.pem\"", "", "realm[0].key: is missing"),
            ("certificate = \"c.pem\"\nkey = \"/a/k.pem\"", "", "realm[0].certificate: is not an absolute path"),
            ("client_ca = \"/a/ca.pem\"", "", "realm[0].client_ca: means nothing without TLS"),
            ("tcp_port = 80\nws_port = 80", "", "realm[0].ws_port: 80 is tcp_port too"),
            ("tcp_port = 0", "", "realm[0].tcp_port: is out of range"),
            ("tcp_port = 65536", "", "realm[0].tcp_port: is out of range"),
            ("transport = \"tcp\"", "", "realm[0].transport: does not belong in an access realm"),
            ("", "ws_port = 80", "realm[1].ws_port: does not belong in a core realm"),
            ("", "transport = \"ws\"", "realm[1].transport: \"ws\" is not a transport to a softswitch"),
            ("", "transport = \"tcp\"", "realm[1].tcp_port: is missing, and transport is \"tcp\""),
            ("", "transport = \"tls\"", "realm[1].tls_port: is missing, and transport is \"tls\""),
            ("", "transport = \"tls\"", "realm[1].server_ca: is missing, and transport is \"tls\""),
            ("", "server_ca = \"/a/s.pem\"", "realm[1].server_ca: means nothing without TLS"),
            ("", "server_name = \"a b\"", "realm[1].server_name: \"a b\" is not a host name"),
        ] {
            let error = parse(access, core, "").unwrap_err().to_string();
            assert!(error.contains(problem), "{problem} was expected:\n{error}");
        }
    }
}
