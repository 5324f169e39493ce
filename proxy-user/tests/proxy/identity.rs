//! Who may state who is calling, and who may know it (RFC 3323, RFC 3325): every header in both directions.

use crate::{calls::from_alice, lab::*, registrations::*};
use proxy_user::{
    config::{Config, Trust},
    signalling::sip::{Message, Name},
};

const BOB: &str = "sip:bob@example.test";

/// What may be in a header, and what becomes of it.
struct Row {
    name: &'static str,
    value: &'static str,
    /// A terminal may send it to the softswitch.
    of_terminals: bool,
    /// A terminal sees the softswitch's: always, unless somebody asked for privacy, or never.
    to_terminals: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Always,
    UnlessPrivate,
    Never,
}

const ROWS: &[Row] = &[
    row("P-Asserted-Identity", "\"Eve\" <sip:eve@example.test>, <tel:+15550100>", false, Seen::UnlessPrivate),
    row("Remote-Party-ID", "<sip:eve@example.test>;party=calling;screen=yes", false, Seen::UnlessPrivate),
    row("P-Preferred-Identity", "<sip:eve@example.test>", true, Seen::Never),
    row("P-Charging-Vector", "icid-value=1234bc9876e;icid-generated-at=home1.net", false, Seen::Never),
    row("P-Charging-Function-Addresses", "ccf=ccf.example.test; ecf=ecf.example.test", false, Seen::Never),
    row("P-Charge-Info", "<sip:+15550100@example.test;user=phone>", false, Seen::Never),
    row("P-Visited-Network-ID", "\"Visited network number 1\"", false, Seen::Never),
    row("P-Access-Network-Info", "IEEE-802.11;i-wlan-node-id=00112233", true, Seen::Never),
    row("P-Asserted-Service", "urn:urn-7:3gpp-service.exampletelephony", false, Seen::Never),
    row("P-Preferred-Service", "urn:urn-7:3gpp-service.exampletelephony", true, Seen::Never),
    row("P-Served-User", "<sip:eve@example.test>; sescase=orig; regstate=reg", false, Seen::Never),
    row("P-Profile-Key", "<sip:chatroom-!.*!@example.test>", false, Seen::Never),
    row("P-User-Database", "<aaa://host.example.test;transport=tcp>", false, Seen::Never),
    row("P-Private-Network-Indication", "example.test", false, Seen::Never),
    row("P-DCS-Trace-Party-ID", "<sip:eve@example.test>", false, Seen::Never),
    row("P-DCS-OSPS", "BLV", false, Seen::Never),
    row("P-DCS-Billing-Info", "1/2@rks.example.test", false, Seen::Never),
    row("P-DCS-LAES", "df.example.test:1234", false, Seen::Never),
    row("P-DCS-Redirect", "<sip:eve@example.test>;count=1", false, Seen::Never),
    row("P-Associated-URI", "<sip:eve@example.test>", false, Seen::Always),
    row("P-Called-Party-ID", "<sip:alice-business@example.test>", false, Seen::Always),
    row("P-Media-Authorization", "0020000000100101706466312e686f6d65312e6e6574", false, Seen::Always),
    // Others stay, from every sender.
    row("Identity", "abc;info=<https://cert.example.test/1>", true, Seen::Always),
    row("P-Early-Media", "supported", true, Seen::Always),
    row("P-Asserted-Identity-Extension", "x", true, Seen::Always),
    row("X-Remote-Party-ID", "x", true, Seen::Always),
];

const fn row(name: &'static str, value: &'static str, of_terminals: bool, to_terminals: Seen) -> Row {
    Row { name, value, of_terminals, to_terminals }
}

/// Stands for the end of a line that goes on in the next (RFC 3261 §7.3.1).
const FOLD: &str = "@fold@";

impl Row {
    fn line(&self) -> String {
        format!("{}: {}", self.name, self.value)
    }

    /// The same header as others write it: in other case, folded, twice.
    fn forms(&self) -> [String; 4] {
        let Self { name, value, .. } = self;
        [
            self.line(),
            format!("{}:{value}", name.to_uppercase()),
            format!("{} : {value}\n{name}: {value}", name.to_lowercase()),
            format!("{name}:{FOLD}{value}"),
        ]
    }
}

fn with(access: Trust) -> Config {
    let mut config = config();
    config.realms.get_mut(ACCESS).unwrap().trust = access;
    config
}

/// The bytes that leave when a terminal sends a MESSAGE with these lines: request and answer.
fn from_terminal(config: Config, lines: &str) -> String {
    let mut lab = Lab::new(config);
    let text = from_alice("MESSAGE", BOB, "<sip:bob@example.test>", 1, "m1", lines, "").replace(FOLD, "\r\n ");
    only(&lab.access(ALICE, &text), "MESSAGE").text.clone()
}

/// The bytes of a response of the core with these lines, as the terminal gets it.
fn answered_from_core(config: Config, lines: &str) -> String {
    let mut lab = Lab::new(config);
    let text = from_alice("MESSAGE", BOB, "<sip:bob@example.test>", 1, "m1", "", "");
    let request = only(&lab.access(ALICE, &text), "MESSAGE").clone();
    let sent = lab.core(&answer(&request, "200 OK", "b1", &format!("{lines}\n"), ""));
    only(&sent, "200").text.clone()
}

/// The bytes of a MESSAGE of the core, as the terminal gets it, and of the terminal's answer with these other lines, as
/// the core gets it.
fn from_core(config: Config, lines: &str, answered: &str) -> [String; 2] {
    let mut lab = Lab::new(config);
    let contact = registered(&mut lab, "alice", ALICE);
    let request = only(&lab.core(&outside("MESSAGE", &contact, "m1", lines, "")), "MESSAGE").clone();
    let sent = lab.access(ALICE, &answer(&request, "200 OK", "a1", &format!("{answered}\n"), ""));
    [request.text.clone(), only(&sent, "200").text.clone()]
}

/// A header is either passed as it came or leaves no trace: what leaves is the same to the byte as without it.
fn assert_passes(passes: bool, with: &str, without: &str, row: &Row, case: &str) {
    let kept = Message::parse(with.as_bytes()).unwrap().lines(row.name).count() > 0;
    assert_eq!(kept, passes, "{case}: {}\n{with}", row.name);
    if !passes {
        assert_eq!(with, without, "{case}: {}", row.name);
    }
}

#[test]
fn what_an_untrusted_realm_asserts_never_reaches_a_trusted_one() {
    let access = config().realms.get(ACCESS).unwrap().trust;
    let cases = [
        ("an access realm", access, false),
        ("one that is believed", Trust { believes_identity: true, ..access }, true),
        ("one that is trusted", Trust { trusted: true, ..access }, true),
    ];
    for (case, trust, believed) in cases {
        let plain = [from_terminal(with(trust), ""), from_core(with(trust), "", "")[1].clone()];
        for row in ROWS {
            let passes = believed || row.of_terminals;
            for form in row.forms() {
                assert_passes(passes, &from_terminal(with(trust), &form), &plain[0], row, case);
            }
            let answer = &from_core(with(trust), "", &row.line())[1];
            assert_passes(passes, answer, &plain[1], row, &format!("{case}, in a response"));
        }
    }
}

#[test]
fn what_the_trusted_network_asserts_reaches_others_as_far_as_privacy_lets_it() {
    let access = config().realms.get(ACCESS).unwrap().trust;
    let never = Trust { shows_identity: false, ..access };
    let trusted = Trust { trusted: true, ..access };
    for (case, trust, privacy, names) in [
        ("nobody asked", access, "", true),
        ("the user did", access, "Privacy: id", false),
        ("as others write it", access, "privacy :  header ; ID;critical", false),
        ("for all that tells of him", access, "Privacy: user", false),
        ("in a second line", access, "Privacy: history\nPrivacy: id", false),
        ("the user wants to be named", access, "Privacy: none", true),
        ("the user contradicts himself", access, "Privacy: none;id", false),
        ("something else is asked for", access, "Privacy: session", true),
        ("never, unless asked for", never, "", false),
        ("asked for", never, "Privacy: none", true),
        ("to whom is trusted", trusted, "Privacy: id;user", true),
    ] {
        let plain = [from_core(with(trust), privacy, "")[0].clone(), answered_from_core(with(trust), privacy)];
        for row in ROWS {
            let passes = trust.trusted
                || match row.to_terminals {
                    Seen::Always => true,
                    Seen::UnlessPrivate => names,
                    Seen::Never => false,
                };
            let lines = format!("{}\n{privacy}", row.line());
            let lines = lines.trim_end();
            assert_passes(passes, &from_core(with(trust), lines, "")[0], &plain[0], row, case);
            let answer = answered_from_core(with(trust), lines);
            assert_passes(passes, &answer, &plain[1], row, &format!("{case}, in a response"));
        }
    }
}

#[test]
fn a_caller_who_asks_for_privacy_is_anonymous_to_the_terminal_and_himself_to_the_core() {
    let mut lab = Lab::default();
    let contact = registered(&mut lab, "alice", ALICE);
    let more = "Privacy: user;id;critical\nP-Asserted-Identity: <sip:carol@example.test>\nSubject: about carol\n\
                Organization: Carol Ltd\nUser-Agent: carol's phone\nReply-To: <sip:carol@example.test>\n\
                Call-Info: <http://carol.example.test/>\nHistory-Info: <sip:carol@example.test>;index=1\n\
                Referred-By: <sip:carol@example.test>\nIn-Reply-To: carol-1\nX-Other: stays";
    let original = "\"Carol\" <sip:carol@10.9.0.20>;tag=c1";
    let anonymous = "\"Anonymous\" <sip:anonymous@anonymous.invalid>;tag=c1";
    let sent = lab.core(&outside("INVITE", &contact, "i1", more, &sdp("10.9.0.30", 6000)));
    let invite = only(&sent, "INVITE").clone();
    assert_eq!(invite.header(Name::From), anonymous);
    assert_eq!(invite.header(Name::Privacy), "id", "the rest has been seen to");
    assert!(!invite.text.to_lowercase().contains("carol"), "{}", invite.text);
    assert!(invite.text.contains("X-Other: stays\r\n"));

    let alices = format!("Contact: <sip:alice@{PRIVATE}:5060>\n");
    let sent = lab.access(ALICE, &answer(&invite, "200 OK", "a1", &alices, &sdp(PRIVATE, 4000)));
    let ok = only(&sent, "200").clone();
    assert_eq!(ok.header(Name::From), original);
    let request = |method: &str, cseq: u32, uri: &str| {
        outside(method, uri, &format!("{method}{cseq}"), "", "")
            .replace("To: <sip:alice@example.test>", "To: <sip:alice@example.test>;tag=a1")
            .replace(&format!("CSeq: 7 {method}"), &format!("CSeq: {cseq} {method}"))
    };
    let ack = lab.core(&request("ACK", 7, &ok.contact()));
    assert_eq!(only(&ack, "ACK").header(Name::From), anonymous);
    let info = lab.core(&request("INFO", 8, &ok.contact()));
    assert_eq!(only(&info, "INFO").header(Name::From), anonymous, "the dialog remembers");
    let sent = lab.access(ALICE, &answer(only(&info, "INFO"), "200 OK", "", "", ""));
    assert_eq!(only(&sent, "200").header(Name::From), original);

    let bye = sip(&format!(
        "BYE {} SIP/2.0
        Via: SIP/2.0/UDP {PRIVATE}:5060;branch=z9hG4bKbye;rport
        Max-Forwards: 70
        From: <sip:alice@example.test>;tag=a1
        To: {anonymous}
        Call-ID: out-1
        CSeq: 1 BYE",
        invite.contact()
    ));
    let sent = lab.access(ALICE, &bye);
    let bye = only(&sent, "BYE").clone();
    assert_eq!(bye.header(Name::To), original);
    let sent = lab.core(&answer(&bye, "200 OK", "", "", ""));
    assert_eq!(only(&sent, "200").header(Name::To), anonymous);
    lab.assert_empty();
}

#[test]
fn what_a_terminal_asks_for_its_softswitch_sees_to() {
    let lines = "Privacy: user;id\nSubject: hello\nUser-Agent: a phone";
    let text = from_terminal(config(), lines);
    for line in lines.lines().chain(["From: <sip:alice@example.test>;tag=a1"]) {
        assert!(text.contains(&format!("{line}\r\n")), "{line} in {text}");
    }
}
