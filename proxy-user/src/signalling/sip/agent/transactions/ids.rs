//! What names transactions.

/// Names a server transaction: a request that somebody sent us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct ServerTxId(pub(super) u64);

/// Names a client transaction: a request that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct ClientTxId(pub(super) u64);
