//! Who is calling, and who may know it: headers in which a network states identities and charging, by the trust of the
//! realms that a message passes between (RFC 3325), and what its author asked to be kept private (RFC 3323).
//!
//! A softswitch believes these headers where Latch is in its trust domain. So what a party of an untrusted realm states
//! in them never reaches a trusted one, unless the realm says `identity_in = "kept"`; and what the trusted network
//! states reaches an untrusted realm only where the RFCs let it.

use crate::{
    config::{Config, Trust},
    media::RealmId,
    signalling::sip::{Editor, Message, Name, NameAddr},
};

/// A header in which a network, or a party on behalf of it, states who somebody is or who pays.
#[derive(Clone, Copy, Debug)]
struct Stated {
    header: &'static str,
    /// From an untrusted realm.
    inward: Inward,
    /// To an untrusted realm.
    outward: Outward,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inward {
    /// It asserts something: only a trusted party may.
    Asserts,
    /// It only states a wish or describes its sender: the receiver decides.
    Wishes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outward {
    /// It is meant for terminals.
    Meant,
    /// It names the caller or the answerer, who may have asked for privacy.
    Names,
    /// It is for the trusted network alone.
    Internal,
}

/// By RFC 3325 §5 and §6, draft-ietf-sip-privacy-04, RFC 7315 §4 and §6, RFC 6050 §4, RFC 5502, RFC 5002, RFC 4457,
/// RFC 7316, RFC 8496, RFC 5503 and RFC 3313.
const STATED: &[Stated] = &[
    stated("P-Asserted-Identity", Inward::Asserts, Outward::Names),
    stated("Remote-Party-ID", Inward::Asserts, Outward::Names),
    stated("P-Preferred-Identity", Inward::Wishes, Outward::Internal),
    stated("P-Charging-Vector", Inward::Asserts, Outward::Internal),
    stated("P-Charging-Function-Addresses", Inward::Asserts, Outward::Internal),
    stated("P-Charge-Info", Inward::Asserts, Outward::Internal),
    stated("P-Visited-Network-ID", Inward::Asserts, Outward::Internal),
    stated("P-Access-Network-Info", Inward::Wishes, Outward::Internal),
    stated("P-Asserted-Service", Inward::Asserts, Outward::Internal),
    stated("P-Preferred-Service", Inward::Wishes, Outward::Internal),
    stated("P-Served-User", Inward::Asserts, Outward::Internal),
    stated("P-Profile-Key", Inward::Asserts, Outward::Internal),
    stated("P-User-Database", Inward::Asserts, Outward::Internal),
    stated("P-Private-Network-Indication", Inward::Asserts, Outward::Internal),
    stated("P-DCS-Trace-Party-ID", Inward::Asserts, Outward::Internal),
    stated("P-DCS-OSPS", Inward::Asserts, Outward::Internal),
    stated("P-DCS-Billing-Info", Inward::Asserts, Outward::Internal),
    stated("P-DCS-LAES", Inward::Asserts, Outward::Internal),
    stated("P-DCS-Redirect", Inward::Asserts, Outward::Internal),
    stated("P-Associated-URI", Inward::Asserts, Outward::Meant),
    stated("P-Called-Party-ID", Inward::Asserts, Outward::Meant),
    stated("P-Media-Authorization", Inward::Asserts, Outward::Meant),
];

const fn stated(header: &'static str, inward: Inward, outward: Outward) -> Stated {
    Stated { header, inward, outward }
}

/// Optional headers that reveal a user besides From (RFC 3323 §5.3).
const OF_THE_USER: &[Name] = &[
    Name::Subject,
    Name::CallInfo,
    Name::Organization,
    Name::UserAgent,
    Name::Server,
    Name::ReplyTo,
    Name::InReplyTo,
    Name::ReferredBy,
];

/// Who a call was for before (RFC 7044 §10.1, RFC 5806 §5).
const OF_ITS_WAY: &[Name] = &[Name::HistoryInfo, Name::Diversion];

/// In place of a From that stays private (RFC 3323 §4.1.1.3).
const ANONYMOUS: &str = "\"Anonymous\" <sip:anonymous@anonymous.invalid>";

/// What the author of a message asked to be kept private: the values of Privacy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Privacy {
    /// Nothing has to be done (RFC 3323 §4.2).
    none: bool,
    /// Who the user is.
    user: bool,
    /// What the user's own agent cannot leave out of headers.
    header: bool,
    /// What the network asserts of the user (RFC 3325 §9.3).
    id: bool,
    /// Which way the call took (RFC 7044 §10.1.1).
    history: bool,
}

impl Privacy {
    fn of(message: &Message) -> Self {
        let mut privacy = Self::default();
        for line in message.lines(Name::Privacy) {
            for value in line.value().split([';', ',']) {
                match value.trim().to_ascii_lowercase().as_str() {
                    "none" => privacy.none = true,
                    "user" => privacy.user = true,
                    "header" => privacy.header = true,
                    "id" => privacy.id = true,
                    "history" => privacy.history = true,
                    _ => {}
                }
            }
        }
        // It must be the only value; a sender that adds others contradicts itself, and is not exposed for that.
        privacy.none &= !(privacy.user || privacy.header || privacy.id || privacy.history);
        privacy
    }
}

/// The values of Privacy that Latch has seen to when a message leaves it; the next service need not do it again
/// (RFC 3323 §5). Addresses are hidden and media are relayed in any case. `critical` asks for what has been done.
const SEEN_TO: [&str; 4] = ["user", "header", "session", "critical"];

/// What passes from one realm to another of what is stated about identities.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    from: Trust,
    to: Trust,
}

impl Identity {
    pub(super) fn new(config: &Config, from: RealmId, to: RealmId) -> Option<Self> {
        Some(Self { from: config.realms.get(from)?.trust, to: config.realms.get(to)?.trust })
    }

    /// Takes out of a message what may not pass.
    pub(super) fn filter(&self, message: &Message, editor: &mut Editor<'_>) {
        let privacy = Privacy::of(message);
        let names = if self.to.shows_identity { !(privacy.id || privacy.user) } else { privacy.none };
        for Stated { header, inward, outward } in STATED {
            let asserted = *inward == Inward::Asserts && !self.from.may_assert();
            let kept = self.to.trusted
                || match outward {
                    Outward::Meant => true,
                    Outward::Names => names,
                    Outward::Internal => false,
                };
            if asserted || !kept {
                editor.remove(*header);
            }
        }
        if !self.serves_privacy() {
            return;
        }
        if privacy.user {
            OF_THE_USER.iter().for_each(|name| _ = editor.remove(*name));
        }
        if privacy.user || privacy.header || privacy.history {
            OF_ITS_WAY.iter().for_each(|name| _ = editor.remove(*name));
        }
        if privacy.user || privacy.header {
            let left: Vec<_> = message
                .lines(Name::Privacy)
                .flat_map(|line| {
                    line.value().split([';', ',']).map(|value| value.trim().to_owned()).collect::<Vec<_>>()
                })
                .filter(|value| !SEEN_TO.iter().any(|done| value.eq_ignore_ascii_case(done)) && !value.is_empty())
                .collect();
            match left.as_slice() {
                [] => editor.remove(Name::Privacy),
                left => editor.set(Name::Privacy, &left.join(";")),
            };
        }
    }

    /// The From of a request outside of dialogs as the other side may see it, where its author asked that his name is
    /// kept private. Its parameters stay: the tag is one of them.
    pub(super) fn anonymous_from(&self, request: &Message) -> Option<String> {
        if !self.serves_privacy() || request.to_tag().is_some() || !Privacy::of(request).user {
            return None;
        }
        let from = request.value(Name::From)?;
        let tag = NameAddr::parse(&from).ok()?.params().get("tag").map(|tag| tag.to_string());
        Some(tag.map_or(ANONYMOUS.to_owned(), |tag| format!("{ANONYMOUS};tag={tag}")))
    }

    /// Whether Latch is where a message leaves the trusted network, so that it has to see to what its author asked for.
    /// What a terminal asks for, its softswitch sees to.
    fn serves_privacy(&self) -> bool {
        !self.to.trusted
    }
}
