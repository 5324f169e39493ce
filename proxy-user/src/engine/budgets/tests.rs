use super::*;
use proptest::{collection::vec, prelude::*};
use std::collections::HashMap;

const ANY_RATE: u32 = 1_000_000;

fn amounts(each: u32) -> Amounts {
    Amounts {
        calls: each,
        dialogs: each,
        subscriptions: each,
        transactions: each,
        port_pairs: each,
        bytes: each * 1_000,
    }
}

fn limits() -> Limits {
    let share = |each| Share { amounts: amounts(each), messages_per_s: ANY_RATE };
    Limits { everybody: amounts(100), strangers: share(40), network: share(20), source: share(8), prefixes: 64 }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const DIALOG: Amounts = Amounts { calls: 0, dialogs: 1, subscriptions: 0, transactions: 0, port_pairs: 0, bytes: 0 };

/// Takes dialogs until one is refused.
fn fill(budgets: &mut Budgets, source: impl Fn(u32) -> IpAddr, known: bool, now: Instant) -> (Vec<Held>, Refusal) {
    let mut held = Vec::new();
    loop {
        match budgets.take(source(held.len() as u32), DIALOG, known, now) {
            Ok(one) => held.push(one),
            Err(refusal) => return (held, refusal),
        }
    }
}

#[test]
fn each_level_has_its_bound_and_the_known_have_what_is_above() {
    let now = Instant::now();
    let v4 = |a: u32, b: u32| IpAddr::from([203, 0, a as u8, b as u8]);
    let v6 = |network: u32, host: u32| IpAddr::from([0x2001, 0xdb8, network as u16, host as u16, 0, 0, 0, 7]);
    for (case, source, most, scope) in [
        ("one address", Box::new(move |_| v4(1, 1)) as Box<dyn Fn(u32) -> IpAddr>, 8, Scope::Source),
        ("one /24", Box::new(move |n| v4(1, n % 10)), 20, Scope::Network),
        ("many /24s", Box::new(move |n| v4(n % 10, 1)), 40, Scope::Strangers),
        ("one /64", Box::new(move |n| IpAddr::from([0x2001, 0xdb8, 1, 1, 0, 0, 0, n as u16])), 8, Scope::Source),
        ("one /48", Box::new(move |n| v6(1, n % 10)), 20, Scope::Network),
        ("many /48s", Box::new(move |n| v6(n % 10, 1)), 40, Scope::Strangers),
        ("IPv4 in IPv6 is IPv4", Box::new(|n| address(&format!("::ffff:203.0.113.{}", n % 10))), 20, Scope::Network),
    ] {
        let mut budgets = Budgets::new(&limits(), now);
        let (held, refusal) = fill(&mut budgets, &source, false, now);
        assert_eq!((held.len(), refusal.scope), (most, scope), "{case}");
        assert_eq!(refusal.resource, Some(Resource::Dialogs), "{case}");
        // The known have the rest, whatever strangers do.
        let (of_the_known, refusal) = fill(&mut budgets, |_| v4(1, 1), true, now);
        assert_eq!((of_the_known.len(), refusal.scope), (100 - most, Scope::Everybody), "{case}");
        drop((held, of_the_known));
        assert_eq!(budgets.usage(), Usage { sources: budgets.usage().sources, ..Usage::default() }, "{case}");
        assert_eq!(fill(&mut budgets, &source, false, now).0.len(), most, "{case}: what was given back is there again");
    }
}

#[test]
fn the_known_cannot_be_kept_out_by_strangers_but_may_keep_them_out() {
    let now = Instant::now();
    let mut budgets = Budgets::new(&limits(), now);
    let (_known, _) = fill(&mut budgets, |_| address("203.0.113.1"), true, now);
    let refused = budgets.take(address("203.0.113.2"), DIALOG, false, now).unwrap_err();
    assert_eq!(refused.scope, Scope::Everybody);
}

#[test]
fn every_resource_is_bounded_for_itself() {
    let now = Instant::now();
    for (resource, one) in [
        (Resource::Calls, Amounts { calls: 9, ..Amounts::default() }),
        (Resource::Dialogs, Amounts { dialogs: 9, ..Amounts::default() }),
        (Resource::Subscriptions, Amounts { subscriptions: 9, ..Amounts::default() }),
        (Resource::Transactions, Amounts { transactions: 9, ..Amounts::default() }),
        (Resource::PortPairs, Amounts { port_pairs: 9, ..Amounts::default() }),
        (Resource::Bytes, Amounts { bytes: 8_001, ..Amounts::default() }),
    ] {
        let mut budgets = Budgets::new(&limits(), now);
        let refused = budgets.take(address("203.0.113.1"), one, false, now).unwrap_err();
        assert_eq!(refused, Refusal { scope: Scope::Source, resource: Some(resource) });
        assert_eq!(budgets.usage().everybody, Amounts::default(), "what is refused takes nothing");
        let _held = budgets.take(address("203.0.113.1"), one, true, now).unwrap();
    }
}

#[test]
fn what_is_held_may_grow_within_the_bounds_and_is_given_back_whole() {
    let now = Instant::now();
    let mut budgets = Budgets::new(&limits(), now);
    let bytes = |bytes| Amounts { bytes, ..Amounts::default() };
    let mut held = budgets.take(address("203.0.113.1"), bytes(5_000), false, now).unwrap();
    budgets.take_more(&mut held, bytes(3_000)).unwrap();
    let refused = budgets.take_more(&mut held, bytes(1)).unwrap_err();
    assert_eq!(refused, Refusal { scope: Scope::Source, resource: Some(Resource::Bytes) });
    assert_eq!((held.amounts(), budgets.usage().strangers), (bytes(8_000), bytes(8_000)));
    drop(held);
    assert_eq!(budgets.usage().everybody, Amounts::default());
}

#[test]
fn who_becomes_known_burdens_strangers_no_more() {
    let now = Instant::now();
    let mut budgets = Budgets::new(&limits(), now);
    let source = address("203.0.113.1");
    let (mut held, _) = fill(&mut budgets, |_| source, false, now);
    held.iter_mut().for_each(|held| budgets.adopt(held));
    assert!(held.iter().all(|held| !held.is_strangers()));
    let usage = budgets.usage();
    assert_eq!((usage.everybody.dialogs, usage.strangers.dialogs), (8, 0));
    assert_eq!(fill(&mut budgets, |_| source, false, now).0.len(), 8);
    drop(held);
    assert_eq!(budgets.usage().everybody.dialogs, 0);
}

#[test]
fn messages_are_limited_by_source_network_and_together() {
    let start = Instant::now();
    let share = |messages_per_s| Share { amounts: Amounts::ANY, messages_per_s };
    let limits =
        Limits { everybody: Amounts::ANY, strangers: share(100), network: share(50), source: share(10), prefixes: 64 };
    for (case, source, per_s, scope) in [
        ("a source", Box::new(|_| IpAddr::from([203, 0, 113, 1])) as Box<dyn Fn(u32) -> IpAddr>, 10, Scope::Source),
        ("a network", Box::new(|n| IpAddr::from([203, 0, 113, (n % 19) as u8])), 50, Scope::Network),
        ("all", Box::new(|n| IpAddr::from([203, 0, (n % 19) as u8, (n / 19 % 17) as u8])), 100, Scope::Strangers),
    ] {
        let mut budgets = Budgets::new(&limits, start);
        let mut accepted = |from: u32, to: u32| {
            let mut accepted = 0;
            for ms in from..to {
                match budgets.received(source(ms), 100, start + Duration::from_millis(ms.into())) {
                    Verdict::Accept => accepted += 1,
                    Verdict::Drop(reached) => assert_eq!(reached, scope, "{case}"),
                }
            }
            accepted
        };
        // A second's worth at once, and as much in the second itself.
        let burst = accepted(0, 1_000);
        assert!((2 * per_s - 1..=2 * per_s).contains(&burst), "{case}: {burst}");
        let later = accepted(1_000, 6_000);
        assert!((5 * per_s - 1..=5 * per_s + 1).contains(&later), "{case}: {later}");
    }
    let none = Limits { source: share(0), ..limits };
    let verdict = Budgets::new(&none, start).received(address("203.0.113.1"), 1, start);
    assert_eq!(verdict, Verdict::Drop(Scope::Source));
}

#[test]
fn who_has_not_proved_its_address_gets_three_times_what_it_sent() {
    let now = Instant::now();
    let mut budgets = Budgets::new(&limits(), now);
    let (victim, other) = (address("198.51.100.7"), address("198.51.100.8"));
    assert!(!budgets.may_send(victim, 1, 0, now), "nothing came from there");
    assert_eq!(budgets.received(victim, 100, now), Verdict::Accept);
    assert!(!budgets.may_send(victim, 301, 0, now));
    assert!(!budgets.may_send(victim, 201, 100, now), "something is to be left");
    assert!(budgets.may_send(victim, 200, 100, now) && budgets.may_send(victim, 100, 0, now));
    assert!(!budgets.may_send(victim, 1, 0, now) && !budgets.may_send(other, 1, 0, now));
    budgets.proved(victim, now);
    let last = now + PROOF - Duration::from_nanos(1);
    assert!(budgets.may_send(victim, 1 << 30, 0, last), "it receives what is sent");
    assert!(!budgets.may_send(victim, 1, 0, now + PROOF), "somebody else may have the address by now");
}

#[test]
fn a_flood_of_forged_sources_stays_in_its_place() {
    let start = Instant::now();
    let mut budgets = Budgets::new(&limits(), start);
    let memory = |budgets: &Budgets| budgets.sources.memory() + budgets.networks.memory();
    let before = memory(&budgets);
    let (in_use, proved, forgotten) = (address("203.0.113.1"), address("203.0.113.2"), address("203.0.113.3"));
    for source in [in_use, proved, forgotten] {
        assert_eq!(budgets.received(source, 100, start), Verdict::Accept);
    }
    let held = budgets.take(in_use, DIALOG, false, start).unwrap();
    budgets.proved(proved, start);
    for number in 0..100_000u32 {
        let [a, b, c, d] = number.to_be_bytes();
        let forged = if number % 2 == 0 {
            IpAddr::from([10 + a, b, c, d])
        } else {
            [0x2001, a.into(), b.into(), number as u16, 0, 0, 0, 1].into()
        };
        budgets.received(forged, 400, start + Duration::from_micros(number.into()));
    }
    let now = start + Duration::from_millis(100);
    assert_eq!(budgets.usage().sources, 64);
    assert!(memory(&budgets) <= before, "the tables have grown");
    assert!(before <= Budgets::memory_bound(64), "{before} bytes");
    assert!(budgets.may_send(in_use, 300, 0, now), "its credit is there");
    assert!(budgets.may_send(proved, 100_000, 0, now), "its proof is there");
    assert!(!budgets.may_send(forgotten, 1, 0, now), "who held nothing has lost its credit");
    drop(held);
    assert_eq!(budgets.usage().strangers, Amounts::default());
}

#[test]
fn where_every_place_is_in_use_a_newcomer_gets_none() {
    let now = Instant::now();
    let many = Share { amounts: Amounts::ANY, messages_per_s: ANY_RATE };
    let limits = Limits { everybody: Amounts::ANY, strangers: many, network: many, source: many, prefixes: 3 };
    let mut budgets = Budgets::new(&limits, now);
    let source = |host: u8| IpAddr::from([203, 0, host, 1]);
    let held: Vec<_> = (0..3).map(|host| budgets.take(source(host), DIALOG, false, now).unwrap()).collect();
    assert_eq!(budgets.received(source(9), 100, now), Verdict::Drop(Scope::Prefixes));
    let refused = budgets.take(source(9), DIALOG, false, now).unwrap_err();
    assert_eq!(refused, Refusal { scope: Scope::Prefixes, resource: None });
    assert_eq!(budgets.received(source(1), 100, now), Verdict::Accept, "who has a place goes on");
    drop(held);
    assert_eq!(budgets.received(source(9), 100, now), Verdict::Accept);
}

#[test]
fn the_memory_bound_is_kept_for_every_size() {
    for prefixes in [1, 2, 7, 64, 1_000, 16_384, 50_000] {
        let budgets = Budgets::new(&Limits { prefixes, ..limits() }, Instant::now());
        let memory = budgets.sources.memory() + budgets.networks.memory();
        assert!(memory <= Budgets::memory_bound(prefixes), "{prefixes}: {memory}");
    }
    // What the documentation says.
    assert!(Budgets::memory_bound(65_536) <= 32 << 20, "{}", Budgets::memory_bound(65_536));
}

#[derive(Clone, Debug)]
enum Step {
    Received(u8, u16),
    Send(u8, u16),
    Prove(u8),
    Take(u8, u32, bool),
    Give(u8),
    Adopt(u8),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), any::<u16>()).prop_map(|(source, bytes)| Step::Received(source, bytes)),
        4 => (any::<u8>(), any::<u16>()).prop_map(|(source, bytes)| Step::Send(source, bytes)),
        1 => any::<u8>().prop_map(Step::Prove),
        4 => (any::<u8>(), 0..5u32, any::<bool>()).prop_map(|(source, each, known)| Step::Take(source, each, known)),
        3 => any::<u8>().prop_map(Step::Give),
        1 => any::<u8>().prop_map(Step::Adopt),
        2 => any::<u16>().prop_map(Step::Wait),
    ]
}

/// A few sources in a few networks of both families.
fn source_of(number: u8) -> IpAddr {
    match number % 2 {
        0 => IpAddr::from([203, 0, number / 2 % 8, number / 16]),
        _ => {
            IpAddr::from([0x2001, 0xdb8, u16::from(number / 2 % 8), u16::from(number / 16), 0, 0, 0, u16::from(number)])
        }
    }
}

proptest! {
    /// Whatever happens in whatever order: no bound is passed, nothing is lost or given back twice, and a source that
    /// has not proved its address gets at most three times what it sent.
    #[test]
    fn no_order_of_events_passes_a_bound(steps in vec(step(), 1..400)) {
        let mut now = Instant::now();
        let limits = limits();
        let mut budgets = Budgets::new(&Limits { prefixes: 16, ..limits }, now);
        let mut held: Vec<(IpAddr, Held)> = Vec::new();
        let mut balance: HashMap<u128, i64> = HashMap::new();
        let mut proved_until: HashMap<u128, Instant> = HashMap::new();
        for step in steps {
            match step {
                Step::Received(source, bytes) => {
                    let source = source_of(source);
                    if budgets.received(source, bytes.into(), now) == Verdict::Accept {
                        *balance.entry(table::source(source)).or_default() += i64::from(bytes) * i64::from(AMPLIFICATION);
                    }
                }
                Step::Send(source, bytes) => {
                    let source = source_of(source);
                    let prefix = table::source(source);
                    let proved = proved_until.get(&prefix).is_some_and(|until| now < *until);
                    if budgets.may_send(source, bytes.into(), 0, now) && !proved {
                        *balance.entry(prefix).or_default() -= i64::from(bytes);
                    }
                }
                Step::Prove(source) => {
                    budgets.proved(source_of(source), now);
                    proved_until.insert(table::source(source_of(source)), now + PROOF);
                }
                Step::Take(source, each, known) => {
                    if let Ok(one) = budgets.take(source_of(source), amounts(each), known, now) {
                        held.push((source_of(source), one));
                    }
                }
                Step::Give(number) if !held.is_empty() => drop(held.swap_remove(usize::from(number) % held.len())),
                Step::Adopt(number) if !held.is_empty() => {
                    let number = usize::from(number) % held.len();
                    budgets.adopt(&mut held[number].1);
                }
                Step::Give(_) | Step::Adopt(_) => {}
                Step::Wait(ms) => now += Duration::from_millis(ms.into()),
            }
            let mut expected = Usage { sources: budgets.usage().sources, ..Usage::default() };
            let mut of_source: HashMap<u128, Amounts> = HashMap::new();
            let mut of_network: HashMap<u128, Amounts> = HashMap::new();
            for (source, one) in &held {
                expected.everybody += one.amounts();
                if one.is_strangers() {
                    expected.strangers += one.amounts();
                    *of_source.entry(table::source(*source)).or_default() += one.amounts();
                    *of_network.entry(table::network(*source)).or_default() += one.amounts();
                }
            }
            prop_assert_eq!(budgets.usage(), expected);
            prop_assert!(expected.sources <= 16);
            let none = Amounts::default();
            let more = Amounts { dialogs: 1, transactions: 1, port_pairs: 1, bytes: 1, ..Amounts::default() };
            let within = |limit: Amounts, held: &Amounts| limit.exceeded(&none, held).is_none();
            prop_assert!(within(limits.everybody, &expected.everybody));
            prop_assert!(within(limits.strangers.amounts, &expected.strangers));
            prop_assert!(of_source.values().all(|held| within(limits.source.amounts, held)));
            prop_assert!(of_network.values().all(|held| within(limits.network.amounts, held)));
            prop_assert!(limits.everybody.exceeded(&limits.everybody, &more).is_some());
            // What is held keeps its place, whatever sources came since.
            for (prefix, amounts) in &of_source {
                let place = budgets.sources.find(*prefix);
                let counted = place.and_then(|place| budgets.sources.get(place)).map(|entry| entry.held);
                if amounts.is_zero() { continue; }
                prop_assert_eq!(counted, Some(*amounts));
            }
            prop_assert!(balance.values().all(|left| *left >= 0), "{:?}", balance);
        }
        drop(held);
        prop_assert_eq!(budgets.usage().everybody, Amounts::default());
        prop_assert_eq!(budgets.usage().strangers, Amounts::default());
    }
}
