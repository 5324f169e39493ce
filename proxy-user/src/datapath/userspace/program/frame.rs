//! A frame's bytes: a window of `N` bytes whose presence was checked once, then reads and writes at offsets that the
//! compiler checks against `N`. Words are in memory order.

use proxy_common::address::Address;
use std::cell::Cell;

/// How many bytes a frame can grow at its front: more than IPv6 and two tags take.
pub(in crate::datapath::userspace) const HEADROOM: usize = 64;

/// A frame's buffer, with room before it.
pub(in crate::datapath::userspace) struct Context {
    buffer: Box<[Cell<u8>]>,
    start: Cell<usize>,
    end: Cell<usize>,
}

impl Context {
    /// Room for a frame of `length` bytes, with nothing in it.
    pub(in crate::datapath::userspace) fn new(length: usize) -> Self {
        let buffer = vec![Cell::new(0); HEADROOM + length].into_boxed_slice();
        Self { buffer, start: Cell::new(HEADROOM), end: Cell::new(HEADROOM) }
    }

    /// Where to write a frame: an address, and how many bytes may follow it.
    pub(in crate::datapath::userspace) fn room(&self) -> &[Cell<u8>] {
        self.buffer.get(HEADROOM..).unwrap_or_default()
    }

    /// How many bytes have been written there.
    pub(in crate::datapath::userspace) fn written(&self, length: usize) {
        self.start.set(HEADROOM);
        self.end.set((HEADROOM + length).min(self.buffer.len()));
    }

    /// Puts bytes into the frame, before the one at `at`.
    pub(in crate::datapath::userspace) fn insert(&self, at: usize, bytes: &[u8]) {
        let old = self.start.get();
        let Some(new) = old.checked_sub(bytes.len()).filter(|_| at <= self.bytes().len()) else { return };
        let Some(front) = self.buffer.get(new..old + at) else { return };
        for (place, byte) in front.iter().zip(front.iter().skip(bytes.len())) {
            place.set(byte.get());
        }
        for (place, byte) in front.iter().skip(at).zip(bytes) {
            place.set(*byte);
        }
        self.start.set(new);
    }

    /// The frame.
    pub(in crate::datapath::userspace) fn bytes(&self) -> &[Cell<u8>] {
        self.buffer.get(self.start.get()..self.end.get()).unwrap_or_default()
    }
}

/// A frame, Ethernet header first.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a>(&'a [Cell<u8>]);

impl<'a> Frame<'a> {
    #[inline(always)]
    pub(crate) fn of(context: &'a Context) -> Self {
        Self(context.bytes())
    }

    /// The same frame: there is no verifier to convince.
    #[inline(always)]
    pub(crate) fn unproven(self) -> Self {
        self
    }

    /// Whether the frame has at least `length` bytes.
    #[inline(always)]
    pub(crate) fn holds(self, length: usize) -> bool {
        length <= self.0.len()
    }

    /// `N` bytes from `offset` on, if there are as many.
    #[inline(always)]
    pub(crate) fn window<const N: usize>(self, offset: usize) -> Option<Window<'a, N>> {
        self.0.get(offset..)?.first_chunk().map(Window)
    }

    /// The one's complement sum, not folded, of `length` bytes from `offset` on, taken as words in memory order; `None`
    /// where the frame has fewer or where they are more than [`SUMMED`].
    pub(crate) fn sum(self, offset: usize, length: usize) -> Option<u64> {
        if length > SUMMED {
            return None;
        }
        let (pairs, odd) = self.0.get(offset..)?.get(..length)?.as_chunks::<2>();
        let sum: u64 = pairs.iter().map(|[one, other]| u64::from(u16::from_ne_bytes([one.get(), other.get()]))).sum();
        let last = odd.first().map_or(0, |odd| u64::from(u16::from_ne_bytes([odd.get(), 0])));
        Some(sum + last)
    }
}

/// The most bytes that can be summed: those of a full Ethernet frame.
const SUMMED: usize = 1_520;

/// Makes the frame longer by `by` bytes at its front, or shorter where it is negative; false where there is no room.
pub(crate) fn grow(context: &Context, by: i32) -> bool {
    let start = isize::try_from(by).ok().and_then(|by| context.start.get().checked_add_signed(-by));
    match start.filter(|start| *start < context.end.get()) {
        Some(start) => {
            context.start.set(start);
            true
        }
        None => false,
    }
}

/// `N` bytes of a frame.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a, const N: usize>(&'a [Cell<u8>; N]);

impl<const N: usize> Window<'_, N> {
    #[inline(always)]
    fn get<const OFFSET: usize, const LENGTH: usize>(self) -> [u8; LENGTH] {
        const { assert!(OFFSET + LENGTH <= N) }
        std::array::from_fn(|index| self.0[OFFSET + index].get())
    }

    #[inline(always)]
    fn set<const OFFSET: usize, const LENGTH: usize>(self, bytes: [u8; LENGTH]) {
        const { assert!(OFFSET + LENGTH <= N) }
        for (index, byte) in bytes.into_iter().enumerate() {
            self.0[OFFSET + index].set(byte);
        }
    }

    #[inline(always)]
    pub(crate) fn u8<const OFFSET: usize>(self) -> u8 {
        let [byte] = self.get::<OFFSET, 1>();
        byte
    }

    #[inline(always)]
    pub(crate) fn u16<const OFFSET: usize>(self) -> u16 {
        u16::from_ne_bytes(self.get::<OFFSET, 2>())
    }

    #[inline(always)]
    pub(crate) fn u32<const OFFSET: usize>(self) -> u32 {
        u32::from_ne_bytes(self.get::<OFFSET, 4>())
    }

    /// An IPv6 address.
    #[inline(always)]
    pub(crate) fn address<const OFFSET: usize>(self) -> Address {
        Address::from_bytes(self.get::<OFFSET, 16>())
    }

    #[inline(always)]
    pub(crate) fn set_address<const OFFSET: usize>(self, address: Address) {
        self.set::<OFFSET, 16>(address.to_bytes());
    }

    #[inline(always)]
    pub(crate) fn set_u8<const OFFSET: usize>(self, value: u8) {
        self.set::<OFFSET, 1>([value]);
    }

    #[inline(always)]
    pub(crate) fn set_u16<const OFFSET: usize>(self, value: u16) {
        self.set::<OFFSET, 2>(value.to_ne_bytes());
    }

    #[inline(always)]
    pub(crate) fn set_u32<const OFFSET: usize>(self, value: u32) {
        self.set::<OFFSET, 4>(value.to_ne_bytes());
    }
}
