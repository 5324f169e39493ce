use super::*;
use crate::media::RealmId;
use std::path::Path;

const ACCESS: RealmId = RealmId::new(0);
const CORE: RealmId = RealmId::new(1);

const GOOD: &str = r#"[[realm]]
name = "access"
side = "access"
interface = "eth0"
signalling = "203.0.113.10:5060"
media = "203.0.113.10"
ports = "30000-39999"

[[realm]]
name = "core"
side = "core"
interface = "eth1"
signalling = "10.9.0.10:5060"
media = "10.9.0.10"
ports = "30000-39999"
softswitch = "10.9.0.20:5060"
"#;

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, Path::new("latch.toml"), Overrides::default())
}

/// The problems of `GOOD` with one text replaced.
fn problems(old: &str, new: &str) -> Vec<Problem> {
    assert!(GOOD.contains(old), "{old}");
    parse(&GOOD.replacen(old, new, 1)).unwrap_err().problems
}

#[test]
fn realms_are_enough() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config, Config::new(config.realms.clone()));
    assert_eq!(config.port_pairs(), 10_000);
    let core = config.realms.get(CORE).unwrap();
    assert_eq!((core.side, core.ports), (Side::Core, PortRange { first: 30_000, last: 39_999 }));
    assert_eq!(core.softswitch, Some("10.9.0.20:5060".parse().unwrap()));
}

#[test]
fn the_example_that_is_shipped_is_right() {
    let text = include_str!("../../../deploy/latch.toml");
    let config = parse(text).unwrap();
    let defaults = Config { cdr: config.cdr.clone(), ..Config::new(config.realms.clone()) };
    assert_eq!(config, defaults, "the example shows the defaults");
}

#[test]
fn the_example_with_every_transport_is_right() {
    let config = parse(include_str!("../../../deploy/latch-tls.toml")).unwrap();
    assert_eq!(config.realms.get(ACCESS).unwrap().streams.listening().count(), 4);
    assert_eq!(config.realms.get(CORE).unwrap().softswitch_flow().unwrap().transport, crate::flow::Transport::Tls);
}

#[test]
fn what_outlives_the_process_can_be_elsewhere() {
    let state = "[state]\ndirectory = \"/srv/latch\"\npins = \"/sys/fs/bpf/a\"\non_stop = \"keep\"\n";
    let config = parse(&format!("{GOOD}\n{state}")).unwrap();
    let expected = State { directory: "/srv/latch".into(), pins: "/sys/fs/bpf/a".into(), keep: true };
    assert_eq!(config.state, expected);
    let wrong = state.replace("\"/srv/latch\"", "\"srv\"").replace("keep", "stay");
    let error = parse(&format!("{GOOD}\n{wrong}")).unwrap_err().to_string();
    for words in ["state.directory: is not an absolute path", "state.on_stop: \"stay\" is not known"] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_realm_says_how_its_media_is_tagged_marked_learned_and_limited() {
    let text = GOOD.replacen(
        "side = \"access\"",
        "side = \"access\"
vlan = [{ id = 100, priority = 5 }, { id = 7 }]
dscp = { audio = 46, other = 0 }
latch = \"any\"
rebind = \"never\"
latch_prefix_v4 = 24
latch_prefix_v6 = 64
carry = [\"stun\", \"zrtp\"]
stream_kbps = 128
rate_margin_percent = 10
rate_min_kbps = 40
max_calls = 100
max_kbps = 20000
max_calls_per_user = 2
max_kbps_per_user = 512
refuse_with = 486",
        1,
    );
    let config = parse(&text).unwrap();
    let realm = config.realms.get(ACCESS).unwrap();
    assert_eq!(realm.vlan, [VlanTag { id: 100, priority: 5 }, VlanTag { id: 7, priority: 0 }]);
    let expected = RealmPolicy {
        dscp: [Some(46), None, Some(0)],
        latch_any: true,
        rebind: false,
        latch_prefix: [24, 64],
        carry: Carry { stun: true, zrtp: true, ..Carry::default() },
        stream_kbps: Some(128),
        negotiated_rate: true,
        rate_margin_percent: 10,
        rate_min_kbps: 40,
        admission: AdmissionLimits {
            max_calls: Some(100),
            max_kbps: Some(20_000),
            max_calls_per_user: Some(2),
            max_kbps_per_user: Some(512),
            refuse_with: 486,
        },
    };
    assert_eq!(realm.policy, expected);
    assert_eq!(config.realms.get(CORE).unwrap().policy, RealmPolicy::default());
    let marks = ["audio", "video", "image"].map(|kind| realm.policy.of_leg(kind, None).dscp);
    assert_eq!(marks, [Some(46), None, Some(0)]);
}

#[test]
fn a_core_realm_is_trusted_and_an_access_realm_is_not_unless_they_say_otherwise() {
    let trust = |access: &str, core: &str| {
        let text = GOOD.replacen("side = \"access\"", &format!("side = \"access\"\n{access}"), 1).replacen(
            "side = \"core\"",
            &format!("side = \"core\"\n{core}"),
            1,
        );
        let config = parse(&text).unwrap();
        [ACCESS, CORE].map(|realm| {
            (config.realms.get(realm).unwrap().trust.trusted, config.realms.get(realm).unwrap().trust.media_counts())
        })
    };
    assert_eq!(trust("", ""), [(false, false), (true, true)]);
    assert_eq!(trust("trusted = true", "trusted = false"), [(true, true), (false, false)]);
    assert_eq!(
        trust("stated = \"believed\"", "trusted = false\nstated = \"checked\""),
        [(false, true), (false, false)]
    );
}

#[test]
fn a_realm_says_which_identities_pass() {
    let text = "side = \"access\"\nidentity_in = \"kept\"\nidentity_out = \"never\"";
    let trust = parse(&GOOD.replacen("side = \"access\"", text, 1)).unwrap().realms.get(ACCESS).unwrap().trust;
    assert!(trust.may_assert() && !trust.shows_identity && !trust.trusted);
    let text = "side = \"access\"\nidentity_in = \"removed\"\nidentity_out = \"unless-private\"";
    assert_eq!(
        parse(&GOOD.replacen("side = \"access\"", text, 1)).unwrap().realms.get(ACCESS).unwrap().trust,
        Trust::of(Side::Access)
    );
}

#[test]
fn a_stream_may_bring_in_what_was_negotiated_and_a_margin() {
    let default = RealmPolicy::default();
    let off = RealmPolicy { negotiated_rate: false, ..default.clone() };
    let most = |kbps, policy: &RealmPolicy| RealmPolicy { stream_kbps: Some(kbps), ..policy.clone() };
    let exact = RealmPolicy { rate_margin_percent: 0, rate_min_kbps: 0, ..default.clone() };
    for (case, policy, nominal, expected) in [
        ("G.711", &default, Some(10_000), Some((15_000, 16_384))),
        ("G.729: the least", &default, Some(3_000), Some((8_000, 16_384))),
        ("video", &default, Some(200_000), Some((300_000, 300_000))),
        ("not known", &default, None, None),
        ("no margin", &exact, Some(3_000), Some((3_000, 16_384))),
        ("a bound", &most(80, &default), Some(10_000), Some((10_000, 16_384))),
        ("a bound above", &most(800, &default), Some(10_000), Some((15_000, 16_384))),
        ("only a bound", &most(128, &off), Some(10_000), Some((16_000, 16_384))),
        ("a bound of what is not known", &most(128, &default), None, Some((16_000, 16_384))),
        ("off", &off, Some(10_000), None),
        ("beyond all numbers", &default, Some(u64::MAX), Some((u32::MAX, u32::MAX))),
    ] {
        let rate = policy.of_leg("audio", nominal).rate.map(|rate| (rate.bytes_per_s, rate.burst_bytes));
        assert_eq!(rate, expected, "{case}");
    }
}

#[test]
fn marks_have_names() {
    for (mark, expected) in [
        ("\"EF\"", Some(46)),
        ("\"VA\"", Some(44)),
        ("\"LE\"", Some(1)),
        ("\"AF41\"", Some(34)),
        ("\"AF13\"", Some(14)),
        ("\"CS0\"", Some(0)),
        ("\"CS5\"", Some(40)),
        ("\"keep\"", None),
        ("0", Some(0)),
    ] {
        let text = GOOD.replacen("side = \"access\"", &format!("side = \"access\"\ndscp = {{ audio = {mark} }}"), 1);
        assert_eq!(parse(&text).unwrap().realms.get(ACCESS).unwrap().policy.dscp[0], expected, "{mark}");
    }
}

#[test]
fn limits_of_users_are_those_of_terminals() {
    for field in ["max_calls_per_user", "max_kbps_per_user"] {
        let found = problems("side = \"core\"", &format!("side = \"core\"\n{field} = 10"));
        let [problem] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (problem.field.as_str(), problem.place),
            (format!("realm[1].{field}").as_str(), Some((12, field.len() + 4)))
        );
        assert!(problem.remedy.contains("access realm"), "{problem:?}");
    }
}

#[test]
fn a_realms_policy_is_checked() {
    for (line, field, message, remedy) in [
        ("vlan = 100", "realm[0].vlan", "not a list", "[[realm[0].vlan]]"),
        ("vlan = [{ priority = 1 }]", "realm[0].vlan[0].id", "missing", "id = 100"),
        ("vlan = [{ id = 4095 }]", "realm[0].vlan[0].id", "out of range", "1 to 4094"),
        ("vlan = [{ id = 1, prio = 1 }]", "realm[0].vlan[0].prio", "not a known", "priority"),
        ("vlan = [{ id = 1 }, { id = 2 }, { id = 3 }]", "realm[0].vlan", "more than two", "outermost first"),
        ("dscp = { audio = 64 }", "realm[0].dscp.audio", "out of range", "0 to 63"),
        ("dscp = { voice = 46 }", "realm[0].dscp.voice", "not a known", "audio"),
        ("dscp = { audio = \"AF44\" }", "realm[0].dscp.audio", "not a DSCP", "\"EF\""),
        ("dscp = { audio = \"ef\" }", "realm[0].dscp.audio", "not a DSCP", "\"EF\""),
        ("dscp = { audio = true }", "realm[0].dscp.audio", "not a whole number", "0 to 63"),
        ("carry = \"stun\"", "realm[0].carry", "not a list of strings", "carry = ["),
        ("carry = [\"stun\", \"ice\"]", "realm[0].carry[1]", "not known", "\"dtls\""),
        ("carry = [1]", "realm[0].carry[0]", "a whole number, not a string", "carry = ["),
        ("rate = \"on\"", "realm[0].rate", "not known", "\"off\" or \"negotiated\""),
        ("rate_margin_percent = -1", "realm[0].rate_margin_percent", "out of range", "0 to 1000"),
        ("rate_min_kbps = 64.5", "realm[0].rate_min_kbps", "not a whole number", "64"),
        ("max_calls = 0", "realm[0].max_calls", "out of range", "leave it out"),
        ("max_kbps = 1", "realm[0].max_kbps", "out of range", "8 to"),
        ("max_calls_per_user = 0", "realm[0].max_calls_per_user", "out of range", "leave it out"),
        ("max_kbps_per_user = \"1M\"", "realm[0].max_kbps_per_user", "is a string", "leave it out"),
        ("refuse_with = 404", "realm[0].refuse_with", "refuses a call", "503"),
        ("latch = \"all\"", "realm[0].latch", "not known", "\"signalled\" or \"any\""),
        ("trusted = \"yes\"", "realm[0].trusted", "is a string, not true or false", "trusted = true"),
        ("stated = \"true\"", "realm[0].stated", "not known", "\"checked\""),
        (
            "identity_in = \"yes\"",
            "realm[0].identity_in",
            "not known",
            "\"removed\" (before a trusted realm sees them)",
        ),
        ("identity_out = \"always\"", "realm[0].identity_out", "not known", "\"never\" (but with Privacy: none)"),
        ("trusted = true\nidentity_out = \"never\"", "realm[0].identity_out", "in a trusted realm", "leave it out"),
        ("trusted = true\nstated = \"believed\"", "realm[0].stated", "in a trusted realm", "leave it out"),
        ("rebind = \"yes\"", "realm[0].rebind", "not known", "same-address"),
        ("latch_prefix_v4 = 7", "realm[0].latch_prefix_v4", "out of range", "8 to 32"),
        ("stream_kbps = 0", "realm[0].stream_kbps", "out of range", "leave it out"),
        ("stream_kbps = \"128\"", "realm[0].stream_kbps", "is a string", "leave it out"),
    ] {
        let text = GOOD.replacen("side = \"access\"", &format!("side = \"access\"\n{line}"), 1);
        let problems = parse(&text).unwrap_err().problems;
        let [problem] = problems.as_slice() else { panic!("{line}: {problems:?}") };
        assert_eq!(problem.field, field, "{line}");
        assert!(problem.message.contains(message) && problem.remedy.contains(remedy), "{line}: {problem:?}");
    }
}

#[test]
fn realms_may_be_of_different_ip_versions() {
    let text =
        GOOD.replace("203.0.113.10:5060", "[2001:db8:1::10]:5060").replace("\"203.0.113.10\"", "\"2001:db8:1::10\"");
    let config = parse(&text).unwrap();
    assert!(config.realms.get(ACCESS).unwrap().media.is_ipv6() && config.realms.get(CORE).unwrap().media.is_ipv4());
}

#[test]
fn everything_can_be_set() {
    let text = format!(
        "{GOOD}
[keepalive]
method = \"notify\"
period_s = 20
failures = 5
[media]
learning_window_s = 6
silence_timeout_s = 30
hold_time_s = 0
relay = \"user\"
[sip]
t1_ms = 100
t2_ms = 1_000
invite_timeout_s = 60
source_header = \"X-Source\"
[cdr]
file = \"/tmp/cdr.jsonl\"
[maps]
max_legs = 0x8000
max_next_hops = 16
events_bytes = 65536
max_sources = 2048
[limits]
max_calls = 1
max_registrations = 2
max_transactions = 3
[strangers]
percent = 40
network_percent = 20
source_percent = 10
messages_per_s = 500
"
    );
    let config = parse(&text).unwrap();
    let keepalive = KeepAlive { method: "NOTIFY".into(), period: Some(Duration::from_secs(20)), failures: 5 };
    assert_eq!(config.keepalive, keepalive);
    assert_eq!(config.media.hold_time, Duration::ZERO);
    assert_eq!(config.media.relay, Relay::UserSpace);
    assert_eq!(config.sip.t2, Duration::from_secs(1));
    assert_eq!(config.sip.source_header.as_deref(), Some("X-Source"));
    assert_eq!(config.cdr.file.as_deref(), Some(Path::new("/tmp/cdr.jsonl")));
    assert_eq!(config.maps, Maps { max_legs: 32_768, max_next_hops: 16, events_bytes: 65_536, max_sources: 2_048 });
    let strangers = Strangers { percent: 40, network_percent: 20, source_percent: 10, messages_per_s: 500 };
    assert_eq!(config.strangers, strangers);
    assert_eq!(config.limits, Limits { max_calls: 1, max_registrations: 2, max_transactions: 3 });
}

#[test]
fn keep_alive_can_be_off() {
    assert_eq!(parse(&format!("{GOOD}[keepalive]\nmethod = \"off\"\n")).unwrap().keepalive.period, None);
}

#[test]
fn the_command_line_wins() {
    let overrides = Overrides { max_legs: Some(10_000), relay: Some(Relay::Generic), ..Overrides::default() };
    let text = format!("{GOOD}[maps]\nmax_legs = 20000\n");
    assert_eq!(Config::parse(&text, Path::new("f"), overrides).unwrap().maps.max_legs, 10_000);
    for (overrides, field) in [
        (Overrides { max_legs: Some(u32::MAX), ..Overrides::default() }, "maps.max_legs"),
        (Overrides { events_bytes: Some(1 << 31), ..Overrides::default() }, "maps.events_bytes"),
        (Overrides { max_sources: Some(1_023), ..Overrides::default() }, "maps.max_sources"),
        (Overrides { max_next_hops: Some(1), ..Overrides::default() }, "maps.max_next_hops"),
    ] {
        let problems = Config::parse(&text, Path::new("f"), overrides).unwrap_err().problems;
        assert_eq!(problems.iter().map(|problem| problem.field.as_str()).collect::<Vec<_>>(), [field]);
    }
}

#[test]
fn a_problem_names_file_place_field_and_remedy() {
    let error = parse(&GOOD.replace("ports = \"30000-39999\"\nsoft", "ports = \"30001-39999\"\nsoft")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "latch.toml:15:9: realm[1].ports: \"30001-39999\" begins with an odd port: RTP has the even one of each pair \
         (RFC 3550 §11)\n    write an even first and an odd last port, such as ports = \"30000-39999\""
    );
}

#[test]
fn each_mistake_is_named_where_it_stands() {
    for (old, new, place, field, message, remedy) in [
        ("side = \"access\"", "side = \"inside\"", Some((3, 8)), "realm[0].side", "not a side", "access"),
        ("side = \"access\"\n", "", Some((1, 1)), "realm[0].side", "missing", "add side"),
        (
            "interface = \"eth0\"",
            "interfaec = \"eth0\"",
            Some((4, 1)),
            "realm[0].interfaec",
            "not a known",
            "mean interface?",
        ),
        ("interface = \"eth0\"", "interface = \"eth0/1\"", Some((4, 13)), "realm[0].interface", "cannot be", "ip link"),
        (
            "203.0.113.10:5060",
            "203.0.113.10",
            Some((5, 14)),
            "realm[0].signalling",
            "not an IP address and port",
            "5060",
        ),
        ("203.0.113.10:5060", "203.0.113.10:0", Some((5, 14)), "realm[0].signalling", "port 0", "5060"),
        (
            "203.0.113.10:5060",
            "[2001:db8::1]:5060",
            Some((6, 9)),
            "realm[0].media",
            "another IP version",
            "of one version",
        ),
        ("203.0.113.10:5060", "[fe80::1]:5060", Some((5, 14)), "realm[0].signalling", "link-local", "global"),
        ("203.0.113.10:5060", "0.0.0.0:5060", Some((5, 14)), "realm[0].signalling", "one host", "itself"),
        ("203.0.113.10:5060", "203.0.113.10:30500", Some((7, 9)), "realm[0].ports", "own signalling port", "move"),
        ("\"30000-39999\"", "\"39999\"", Some((7, 9)), "realm[0].ports", "not a range", "30000-39999"),
        ("\"30000-39999\"", "\"30000-39998\"", Some((7, 9)), "realm[0].ports", "even port", "odd last"),
        ("\"30000-39999\"", "\"30000-69999\"", Some((7, 9)), "realm[0].ports", "not a port", "odd last"),
        ("\"30000-39999\"", "\"40000-39999\"", Some((7, 9)), "realm[0].ports", "before it begins", "odd last"),
        ("\"30000-39999\"", "30000", Some((7, 9)), "realm[0].ports", "whole number", "quotes"),
        ("softswitch = \"10.9.0.20:5060\"\n", "", Some((9, 1)), "realm[1].softswitch", "missing", "add"),
        ("10.9.0.20:5060", "10.9.0.10:5060", Some((16, 14)), "realm[1].softswitch", "own", "circle"),
        ("10.9.0.20:5060", "kamailio", Some((16, 14)), "realm[1].softswitch", "not an IP", "10.9.0.20"),
        ("media = \"10.9.0.10\"", "media = \"203.0.113.10\"", Some((14, 9)), "realm[1].media", "too", "own"),
        ("name = \"core\"", "name = \"access\"", Some((10, 8)), "realm[1].name", "too", "own"),
        ("side = \"core\"", "side = \"access\"", Some((11, 8)), "realm[1].side", "second access", "one pair"),
    ] {
        let found = problems(old, new);
        let matching = found.iter().find(|problem| problem.field == field);
        let problem = matching.unwrap_or_else(|| panic!("{new}: no problem of {field} in {found:?}"));
        assert_eq!(problem.place, place, "{new}: {problem:?}");
        assert!(problem.message.contains(message), "{new}: {problem:?}");
        assert!(problem.remedy.contains(remedy), "{new}: {problem:?}");
    }
}

#[test]
fn other_sections_are_checked_too() {
    for (added, line_and_column, field) in [
        ("[media]\nlearning_window_s = 0", (18, 21), "media.learning_window_s"),
        ("[media]\nlearning_window_s = 5.5", (18, 21), "media.learning_window_s"),
        ("[media]\nrelay = \"xdp\"", (18, 9), "media.relay"),
        ("[media]\nlearning_window = 5", (18, 1), "media.learning_window"),
        ("[keepalive]\nmethod = \"BYE\"", (18, 10), "keepalive.method"),
        ("[keepalive]\nmethod = \"OPT IONS\"", (18, 10), "keepalive.method"),
        ("[cdr]\nfile = \"cdr.jsonl\"", (18, 8), "cdr.file"),
        ("[maps]\nmax_legs = 9999", (18, 12), "maps.max_legs"),
        ("[maps]\nevents_bytes = 5000", (18, 16), "maps.events_bytes"),
        ("[maps]\nmax_next_hops = 65537", (18, 17), "maps.max_next_hops"),
        ("[sip]\nt2_ms = 400", (18, 9), "sip.t2_ms"),
        ("[sip]\nsource_header = \"Via\"", (18, 17), "sip.source_header"),
        ("[sip]\nsource_header = \"X Y\"", (18, 17), "sip.source_header"),
        ("[strangers]\npercent = 0", (18, 11), "strangers.percent"),
        ("[strangers]\nsource_percent = 60", (18, 18), "strangers.source_percent"),
        ("[medai]\nx = 1", (17, 2), "medai"),
        ("keepalive = 3", (17, 1), "realm[1].keepalive"),
    ] {
        let found = parse(&format!("{GOOD}{added}\n")).unwrap_err().problems;
        assert_eq!(found.len(), 1, "{added}: {found:?}");
        assert_eq!((found[0].place, found[0].field.as_str()), (Some(line_and_column), field), "{added}");
    }
}

#[test]
fn a_softswitch_that_is_not_understood_is_named_once() {
    for wrong in ["\"kamailio\"", "5060"] {
        let found = problems("\"10.9.0.20:5060\"", wrong);
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
    }
}

#[test]
fn what_the_host_lacks_is_named_with_its_line() {
    let example = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/latch.toml"));
    let lacks = |field: &str| Problem { place: None, field: field.into(), message: "a".into(), remedy: "b".into() };
    let text = include_str!("../../../deploy/latch.toml");
    for (field, line_begins) in [("realm[1].media", "media = \"10"), ("cdr.file", "file = ")] {
        let found = Problems::located(example, vec![lacks(field)]).problems;
        let [problem] = &found[..] else { panic!("{found:?}") };
        let (line, _) = problem.place.unwrap();
        assert!(text.lines().nth(line - 1).unwrap().starts_with(line_begins), "{problem:?}");
    }
}

#[test]
fn several_mistakes_are_told_at_once_in_order() {
    let text = GOOD.replace("eth0", "").replace("\"10.9.0.20:5060\"", "5060") + "[sip]\nt1_ms = true\n";
    let lines: Vec<_> = parse(&text).unwrap_err().problems.iter().map(|p| p.place.map(|(line, _)| line)).collect();
    assert!(lines.is_sorted() && lines.len() >= 3, "{lines:?}");
}

#[test]
fn what_is_not_toml_is_named_with_its_line() {
    let found = parse("[[realm]]\nname = access\"\n").unwrap_err().problems;
    assert_eq!(found[0].place.map(|(line, _)| line), Some(2), "{found:?}");
}

#[test]
fn realms_with_one_bracket_are_explained() {
    let found = parse(&GOOD.replace("[[realm]]", "[realm]")).unwrap_err().problems;
    assert!(found[0].remedy.contains("[[realm]]"), "{found:?}");
}

#[test]
fn an_empty_file_lacks_both_sides() {
    let found = parse("").unwrap_err();
    assert_eq!(found.problems.len(), 2, "{found}");
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let error = Config::load(Path::new("/nonexistent/latch.toml"), Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("cannot be read"), "{error}");
}
