//! What is scarce, and how much of it.

use std::ops::{AddAssign, SubAssign};

/// How much of each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Calls that are not answered yet.
    pub calls: u32,
    /// Dialogs of calls, those included that wait for their first answer, and those that have ended and are kept for a
    /// while.
    pub dialogs: u32,
    /// Dialogs that are not of calls.
    pub subscriptions: u32,
    /// Transactions: of a request that is sent on, the one with its sender and the one with its receiver.
    pub transactions: u32,
    /// Pairs of ports, one in each realm counted as one.
    pub port_pairs: u32,
    /// Bytes that are kept: messages, and what dialogs and streams copy of them.
    pub bytes: u32,
}

impl Amounts {
    /// No bound.
    pub const ANY: Self = Self {
        calls: u32::MAX,
        dialogs: u32::MAX,
        subscriptions: u32::MAX,
        transactions: u32::MAX,
        port_pairs: u32::MAX,
        bytes: u32::MAX,
    };

    /// This part of each, in percent, but at least 1 of each.
    pub fn percent(self, percent: u32) -> Self {
        let part = |amount: u32| u32::try_from(u64::from(amount) * u64::from(percent) / 100).unwrap_or(u32::MAX).max(1);
        Self {
            calls: part(self.calls),
            dialogs: part(self.dialogs),
            subscriptions: part(self.subscriptions),
            transactions: part(self.transactions),
            port_pairs: part(self.port_pairs),
            bytes: part(self.bytes),
        }
    }

    /// The first of the resources of which `held` and `wanted` together are more than this.
    pub(super) fn exceeded(&self, held: &Self, wanted: &Self) -> Option<Resource> {
        let pairs = [
            (Resource::Calls, self.calls, held.calls, wanted.calls),
            (Resource::Dialogs, self.dialogs, held.dialogs, wanted.dialogs),
            (Resource::Subscriptions, self.subscriptions, held.subscriptions, wanted.subscriptions),
            (Resource::Transactions, self.transactions, held.transactions, wanted.transactions),
            (Resource::PortPairs, self.port_pairs, held.port_pairs, wanted.port_pairs),
            (Resource::Bytes, self.bytes, held.bytes, wanted.bytes),
        ];
        let over = |&(_, limit, held, wanted): &(Resource, u32, u32, u32)| {
            wanted > 0 && u64::from(held) + u64::from(wanted) > u64::from(limit)
        };
        pairs.into_iter().find(over).map(|(resource, ..)| resource)
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, more: Self) {
        self.calls = self.calls.saturating_add(more.calls);
        self.dialogs = self.dialogs.saturating_add(more.dialogs);
        self.subscriptions = self.subscriptions.saturating_add(more.subscriptions);
        self.transactions = self.transactions.saturating_add(more.transactions);
        self.port_pairs = self.port_pairs.saturating_add(more.port_pairs);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

impl SubAssign for Amounts {
    fn sub_assign(&mut self, less: Self) {
        self.calls = self.calls.saturating_sub(less.calls);
        self.dialogs = self.dialogs.saturating_sub(less.dialogs);
        self.subscriptions = self.subscriptions.saturating_sub(less.subscriptions);
        self.transactions = self.transactions.saturating_sub(less.transactions);
        self.port_pairs = self.port_pairs.saturating_sub(less.port_pairs);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }
}

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// [`Amounts::calls`].
    Calls,
    /// [`Amounts::dialogs`].
    Dialogs,
    /// [`Amounts::subscriptions`].
    Subscriptions,
    /// [`Amounts::transactions`].
    Transactions,
    /// [`Amounts::port_pairs`].
    PortPairs,
    /// [`Amounts::bytes`].
    Bytes,
}

impl Resource {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Dialogs => "dialogs",
            Self::Subscriptions => "subscriptions",
            Self::Transactions => "transactions",
            Self::PortPairs => "pairs of ports",
            Self::Bytes => "bytes of messages",
        }
    }
}
