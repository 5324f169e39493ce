//! Header field names: one table with the full name, the compact form and the shape of the value.
//!
//! Names are compared without regard to case (RFC 3261 §7.3.1). The compact forms are those that the
//! IANA registry "SIP Parameters / Header Fields" lists.

/// How often a header field may occur and whether a comma divides its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// At most one value a message; a comma is part of it.
    Single,
    /// A comma-separated list that may be spread over several lines (RFC 3261 §7.3.1).
    List,
    /// May occur several times, but a comma does not divide it: challenges, credentials and unknown names.
    Repeated,
}

macro_rules! names {
    ($($variant:ident $long:literal $compact:literal $shape:ident)*) => {
        /// A header field name that Latch knows; everything else is [`Name::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Name {
            $(#[doc = concat!("`", $long, "`")] $variant,)*
            /// A name outside the table; its spelling is in the message.
            Other,
        }

        const TABLE: &[Entry] = &[
            $(Entry { name: Name::$variant, long: $long, compact: $compact, shape: Shape::$shape },)*
        ];
    };
}

names! {
    Accept "Accept" "" List
    AcceptContact "Accept-Contact" "a" List
    AcceptEncoding "Accept-Encoding" "" List
    AcceptLanguage "Accept-Language" "" List
    AlertInfo "Alert-Info" "" List
    Allow "Allow" "" List
    AllowEvents "Allow-Events" "u" List
    AuthenticationInfo "Authentication-Info" "" Repeated
    Authorization "Authorization" "" Repeated
    CallId "Call-ID" "i" Single
    CallInfo "Call-Info" "" List
    Contact "Contact" "m" List
    ContentDisposition "Content-Disposition" "" Single
    ContentEncoding "Content-Encoding" "e" List
    ContentLanguage "Content-Language" "" List
    ContentLength "Content-Length" "l" Single
    ContentType "Content-Type" "c" Single
    CSeq "CSeq" "" Single
    Date "Date" "" Single
    Diversion "Diversion" "" List
    ErrorInfo "Error-Info" "" List
    Event "Event" "o" Single
    Expires "Expires" "" Single
    From "From" "f" Single
    HistoryInfo "History-Info" "" List
    Identity "Identity" "y" Repeated
    IdentityInfo "Identity-Info" "n" Single
    InReplyTo "In-Reply-To" "" List
    Join "Join" "" Single
    MaxForwards "Max-Forwards" "" Single
    MimeVersion "MIME-Version" "" Single
    MinExpires "Min-Expires" "" Single
    MinSe "Min-SE" "" Single
    Organization "Organization" "" Single
    PAccessNetworkInfo "P-Access-Network-Info" "" List
    PAssertedIdentity "P-Asserted-Identity" "" List
    PAssociatedUri "P-Associated-URI" "" List
    PCalledPartyId "P-Called-Party-ID" "" Single
    PPreferredIdentity "P-Preferred-Identity" "" List
    Path "Path" "" List
    Priority "Priority" "" Single
    Privacy "Privacy" "" Repeated
    ProxyAuthenticate "Proxy-Authenticate" "" Repeated
    ProxyAuthorization "Proxy-Authorization" "" Repeated
    ProxyRequire "Proxy-Require" "" List
    RAck "RAck" "" Single
    Reason "Reason" "" List
    RecordRoute "Record-Route" "" List
    ReferSub "Refer-Sub" "" Single
    ReferTo "Refer-To" "r" Single
    ReferredBy "Referred-By" "b" Single
    RejectContact "Reject-Contact" "j" List
    RemotePartyId "Remote-Party-ID" "" List
    Replaces "Replaces" "" Single
    ReplyTo "Reply-To" "" Single
    RequestDisposition "Request-Disposition" "d" List
    Require "Require" "" List
    RetryAfter "Retry-After" "" Single
    Route "Route" "" List
    RSeq "RSeq" "" Single
    Server "Server" "" Single
    ServiceRoute "Service-Route" "" List
    SessionExpires "Session-Expires" "x" Single
    SipETag "SIP-ETag" "" Single
    SipIfMatch "SIP-If-Match" "" Single
    Subject "Subject" "s" Single
    SubscriptionState "Subscription-State" "" Single
    Supported "Supported" "k" List
    TargetDialog "Target-Dialog" "" Single
    Timestamp "Timestamp" "" Single
    To "To" "t" Single
    Unsupported "Unsupported" "" List
    UserAgent "User-Agent" "" Single
    Via "Via" "v" List
    Warning "Warning" "" List
    WwwAuthenticate "WWW-Authenticate" "" Repeated
}

impl Name {
    /// The name that `text` spells, in full or compact form, in any case.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let mut slot = FIRST.get(hash(text)).copied().unwrap_or(NONE);
        while let Some(entry) = TABLE.get(usize::from(slot / 2)) {
            let spelling = if slot % 2 == 0 { entry.long } else { entry.compact };
            if spelling.as_bytes().eq_ignore_ascii_case(text) {
                return entry.name;
            }
            slot = NEXT.get(usize::from(slot)).copied().unwrap_or(NONE);
        }
        Self::Other
    }

    /// The full name as the RFCs write it; empty for [`Name::Other`].
    #[must_use]
    pub fn text(self) -> &'static str {
        self.entry().map_or("", |entry| entry.long)
    }

    /// The compact form, where the registry has one.
    #[must_use]
    pub fn compact(self) -> Option<&'static str> {
        self.entry().map(|entry| entry.compact).filter(|form| !form.is_empty())
    }

    /// How often the field may occur and whether a comma divides it.
    #[must_use]
    pub fn shape(self) -> Shape {
        self.entry().map_or(Shape::Repeated, |entry| entry.shape)
    }

    /// Every name of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|entry| entry.name)
    }

    fn entry(self) -> Option<&'static Entry> {
        TABLE.get(self as usize)
    }
}

/// A header field as a caller asks for it: by known name, or by spelling where the table has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// A name of the table, whatever its spelling in the message.
    Known(Name),
    /// A name outside the table, compared without regard to case.
    Text(&'a str),
}

impl Key<'_> {
    /// Whether a field that was parsed as `name` and spelled `raw` is the one meant; [`Name::Other`] means none.
    #[must_use]
    pub fn matches(&self, name: Name, raw: &[u8]) -> bool {
        match self {
            Self::Known(known) => *known == name && name != Name::Other,
            Self::Text(text) => name == Name::Other && text.as_bytes().eq_ignore_ascii_case(raw),
        }
    }

    /// The spelling for a line that Latch adds; empty for [`Name::Other`].
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Known(name) => name.text(),
            Self::Text(text) => text,
        }
    }
}

impl From<Name> for Key<'_> {
    fn from(name: Name) -> Self {
        Self::Known(name)
    }
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(text: &'a str) -> Self {
        match Name::of(text.as_bytes()) {
            Name::Other => Self::Text(text),
            name => Self::Known(name),
        }
    }
}

struct Entry {
    name: Name,
    long: &'static str,
    compact: &'static str,
    shape: Shape,
}

// A chained hash over both spellings, laid out by the compiler. Slot 2n is entry n's full name, 2n+1 its compact form.
const BUCKETS: usize = 256;
const NONE: u8 = u8::MAX;
const CHAINS: ([u8; BUCKETS], [u8; 2 * TABLE.len()]) = chains();
static FIRST: [u8; BUCKETS] = CHAINS.0;
static NEXT: [u8; 2 * TABLE.len()] = CHAINS.1;

const fn hash(text: &[u8]) -> usize {
    let (Some(first), Some(last)) = (text.first(), text.last()) else {
        return 0;
    };
    let first = first.to_ascii_lowercase() as usize;
    let last = last.to_ascii_lowercase() as usize;
    (text.len() * 37 + first * 11 + last * 5) % BUCKETS
}

#[expect(clippy::indexing_slicing, reason = "runs in the compiler only")]
const fn chains() -> ([u8; BUCKETS], [u8; 2 * TABLE.len()]) {
    assert!(2 * TABLE.len() < NONE as usize);
    // `Message::repeated` has a bit for each.
    assert!(TABLE.len() <= 128);
    let mut first = [NONE; BUCKETS];
    let mut next = [NONE; 2 * TABLE.len()];
    let mut slot = 0;
    while slot < 2 * TABLE.len() {
        let entry = &TABLE[slot / 2];
        let spelling = if slot % 2 == 0 { entry.long } else { entry.compact };
        if !spelling.is_empty() {
            let bucket = hash(spelling.as_bytes());
            next[slot] = first[bucket];
            first[bucket] = slot as u8;
        }
        slot += 1;
    }
    (first, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_by_both_spellings_in_any_case() {
        for name in Name::all() {
            assert_eq!(Name::of(name.text().as_bytes()), name);
            assert_eq!(Name::of(name.text().to_ascii_uppercase().as_bytes()), name);
            assert_eq!(Name::of(name.text().to_ascii_lowercase().as_bytes()), name);
            if let Some(compact) = name.compact() {
                assert_eq!(Name::of(compact.as_bytes()), name);
                assert_eq!(Name::of(compact.to_ascii_uppercase().as_bytes()), name);
            }
        }
    }

    #[test]
    fn the_registrys_compact_forms_are_complete_and_unique() {
        let mut forms: Vec<_> = Name::all().filter_map(Name::compact).collect();
        forms.sort_unstable();
        assert_eq!(forms.concat(), "abcdefijklmnorstuvxy");
    }

    #[test]
    fn neighbours_of_a_name_are_other() {
        for text in ["", "vi", "viaa", "C%6Fntact", "Content_Length", "z", "X-Via"] {
            assert_eq!(Name::of(text.as_bytes()), Name::Other, "{text}");
        }
    }
}
