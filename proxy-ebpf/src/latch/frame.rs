//! Access to a frame's bytes: a window of `N` bytes whose presence was checked once, then reads and writes at offsets
//! that the compiler checks against `N`.
//!
//! Header fields are read as whole words, because a header as a struct of byte arrays (`network-types`, which defines
//! the offsets) compiles to one load a byte. Words are in memory order: `from_be`/`to_be` where a number is meant.

use aya_ebpf::programs::XdpContext;

/// A frame, Ethernet header first.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn of(context: &XdpContext) -> Self {
        Self { start: context.data(), end: context.data_end() }
    }

    /// Whether the frame has at least `length` bytes.
    #[inline(always)]
    pub(crate) fn holds(self, length: usize) -> bool {
        self.start + length <= self.end
    }

    /// The first `N` bytes, if there are as many.
    #[inline(always)]
    pub(crate) fn window<const N: usize>(self) -> Option<Window<N>> {
        self.holds(N).then_some(Window { start: self.start as *mut u8 })
    }
}

/// The first `N` bytes of a frame; made by [`Frame::window`] alone. A frame belongs to the program for its whole run
/// and nothing here moves its start, so a window stays good.
#[derive(Clone, Copy)]
pub(crate) struct Window<const N: usize> {
    start: *mut u8,
}

impl<const N: usize> Window<N> {
    #[inline(always)]
    pub(crate) fn u8<const OFFSET: usize>(self) -> u8 {
        self.load::<u8, OFFSET>()
    }

    #[inline(always)]
    pub(crate) fn u16<const OFFSET: usize>(self) -> u16 {
        self.load::<u16, OFFSET>()
    }

    #[inline(always)]
    pub(crate) fn u32<const OFFSET: usize>(self) -> u32 {
        self.load::<u32, OFFSET>()
    }

    /// Writes `value` in memory order.
    #[inline(always)]
    pub(crate) fn store<T: Word, const OFFSET: usize>(self, value: T) {
        const { assert!(OFFSET + size_of::<T>() <= N) }
        // SAFETY: the frame has `N` bytes (the contract of `Window`), the access ends within them (asserted above), and
        // any alignment will do.
        unsafe { self.start.add(OFFSET).cast::<T>().write_unaligned(value) }
    }

    #[inline(always)]
    fn load<T: Word, const OFFSET: usize>(self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= N) }
        // SAFETY: as in `store`; every bit pattern is a `Word`.
        unsafe { self.start.add(OFFSET).cast::<T>().read_unaligned() }
    }
}

/// Plain integers, and arrays of bytes.
pub(crate) trait Word: Copy {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
