//! What the machines say: what a response means, and what time asks of a transaction.

/// What a response means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Received {
    /// It tells something: it repeats nothing, or it is a 2xx to INVITE, which is repeated from end to end.
    pub(in super::super) is_new: bool,
    /// It is a refusal of an INVITE, every copy of which is acknowledged here (RFC 3261 §17.1.1.2).
    pub(in super::super) acknowledge: bool,
    /// The CANCEL that waited for it goes out now.
    pub(in super::super) cancel: bool,
}

/// What time asks of a client transaction. `T` is what is left of one that ends.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum ClientDue<T> {
    Nothing,
    /// The request goes once more.
    Retransmit,
    /// No final response to an INVITE came in time: its CANCEL goes out.
    Cancel,
    End(T),
}

/// How a client transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Ending {
    /// With a final response.
    Answered,
    /// Without one, in time.
    TimedOut,
    /// Nobody could be reached.
    Unreachable,
}

/// What time asks of a server transaction. `T` is what is left of one that ends.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum ServerDue<T> {
    Nothing,
    /// The last response goes once more.
    Retransmit,
    End(T),
}

#[cfg(test)]
impl std::fmt::Display for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let done = [(self.is_new, "new"), (self.acknowledge, "acknowledged"), (self.cancel, "CANCEL")];
        let done: Vec<_> = done.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
        f.write_str(if done.is_empty() { "ignored".into() } else { done.join(", ") }.as_str())
    }
}
