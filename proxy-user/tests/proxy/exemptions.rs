//! What the token of a party gets while strangers have used up their share: what a dialog needs.

use crate::{calls::*, lab::*, strangers::scarce};
use std::time::Duration;

/// Requests outside of dialogs from many sources, of which each takes two transactions of the share of strangers.
fn fill(lab: &mut Lab, requests: usize) -> Vec<Sent> {
    let fill = |n: usize| {
        let text = from_alice("MESSAGE", "sip:bob@example.test", "<sip:bob@example.test>", 1, &format!("f{n}"), "", "");
        lab.access(&format!("198.18.{}.7:5060", n % 200), &text.replace("call-1", &format!("fill-{n}")))
    };
    (0..requests).flat_map(fill).collect()
}

fn count(sent: &[Sent], kind: &str) -> usize {
    kinds(sent).iter().filter(|other| *other == kind).count()
}

/// A request of Alice to Bob's token, from one of many addresses.
fn from_anywhere(lab: &mut Lab, method: &str, bob: &str, n: usize) -> Vec<Sent> {
    let text = from_alice(method, bob, BOBS_TAG, 100 + n as u32, &format!("x{method}{n}"), "", "");
    lab.access(&format!("203.0.{}.{}:5060", 1 + n / 200, 1 + n % 200), &text)
}

#[test]
fn a_party_has_few_transactions_beyond_the_share_of_strangers() {
    let mut lab = Lab::new(scarce());
    let call = answered(&mut lab);
    lab.wait(Duration::from_secs(40));
    lab.take();
    // 200 are for strangers.
    assert_eq!(count(&fill(&mut lab, 101), "access 503"), 1);
    let sent: Vec<_> = (0..100).flat_map(|n| from_anywhere(&mut lab, "INFO", &call.bob, n)).collect();
    assert_eq!((count(&sent, "core INFO"), count(&sent, "access 503")), (16, 84));
    assert_eq!(lab.load().transactions, 200 + 2 * 16);
    // The call can end nevertheless, ...
    let bye = from_alice("BYE", &call.bob, BOBS_TAG, 300, "bye", "", "");
    let sent = lab.access(ALICE, &bye);
    assert_eq!(kinds(&sent), ["core BYE"]);
    assert_eq!(kinds(&lab.core(&answer(&sent[0], "200 OK", "", "", ""))), ["access 200"]);
    assert_eq!(kinds(&lab.access(ALICE, &bye)), ["access 200"], "sent again");
    // ... and has nothing beyond the share of strangers afterwards.
    lab.wait(Duration::from_secs(1));
    lab.take();
    let sent: Vec<_> = ["INFO", "BYE", "INVITE"]
        .into_iter()
        .flat_map(|method| (200..220).map(move |n| (method, n)))
        .flat_map(|(method, n)| from_anywhere(&mut lab, method, &call.bob, n))
        .collect();
    assert_eq!(count(&sent, "access 503"), sent.len());
    assert_eq!(lab.load().transactions, 200 + 2 * 16 + 2);
    lab.wait(Duration::from_secs(70));
    lab.take();
    lab.assert_empty();
}

#[test]
fn a_party_whose_call_the_other_one_ended_may_still_say_that_it_hangs_up() {
    let mut lab = Lab::new(scarce());
    let call = answered(&mut lab);
    lab.wait(Duration::from_secs(40));
    lab.take();
    fill(&mut lab, 100);
    let sent = lab.core(&from_core("BYE", &call.alice, 7, "y7", "", ""));
    assert_eq!(kinds(&sent), ["access BYE"]);
    let sent = lab.access(ALICE, &from_alice("BYE", &call.bob, BOBS_TAG, 2, "y2", "", ""));
    assert_eq!(kinds(&sent), ["core BYE"], "they crossed");
}

#[test]
fn a_party_sends_few_messages_a_second_beyond_the_share_of_strangers() {
    let mut config = scarce();
    config.strangers.messages_per_s = 20;
    let mut lab = Lab::new(config);
    let call = answered(&mut lab);
    lab.wait(Duration::from_secs(40));
    lab.take();
    // From a place where nobody knows her.
    let repeat = |lab: &mut Lab, method: &str, source: &str| {
        fill(lab, 40);
        let text = from_alice(method, &call.bob, BOBS_TAG, 2, "m2", "", "");
        let before = lab.proxy.statistics();
        let sent: Vec<_> = (0..50).flat_map(|_| lab.access(source, &text)).collect();
        let after = lab.proxy.statistics();
        let read = usize::from(count(&sent, &format!("core {method}")) == 1);
        let repeated = (after.retransmissions_received - before.retransmissions_received) as usize;
        assert_eq!(after.strangers_dropped - before.strangers_dropped, 50 - (read + repeated) as u64);
        (sent, read + repeated)
    };
    let (_, messages) = repeat(&mut lab, "INFO", "198.51.100.9:4000");
    assert_eq!(messages, 16);
    lab.wait(Duration::from_secs(1));
    lab.take();
    let (sent, messages) = repeat(&mut lab, "BYE", "198.51.100.9:4000");
    assert_eq!(messages, 16);
    lab.core(&answer(only(&sent, "BYE"), "200 OK", "", "", ""));
    lab.wait(Duration::from_secs(2));
    lab.take();
    let (sent, messages) = repeat(&mut lab, "BYE", "198.51.100.9:4000");
    assert_eq!((messages, count(&sent, "access 200")), (2, 2), "it has ended: what is sent again is answered");
}
