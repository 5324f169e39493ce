//! Access to a frame's bytes: a window of `N` bytes whose presence was checked once, then reads and writes at offsets
//! that the compiler checks against `N`.
//!
//! Header fields are read as whole words, because a header as a struct of byte arrays (`network-types`, which defines
//! the offsets) compiles to one load a byte. Words are in memory order: `from_be`/`to_be` where a number is meant.

use aya_ebpf::programs::XdpContext;
use core::arch::asm;

/// One load of `$size` at `$start + $offset`, zero-extended.
macro_rules! load {
    ($size:literal, $start:expr, $offset:expr) => {{
        let value: u64;
        // SAFETY: the caller has a window and has asserted that the access ends within it; BPF has no alignment that
        // packets must keep. The instruction changes one register.
        unsafe {
            asm!(
                concat!("{value} = *(", $size, " *)({start} + {offset})"),
                value = lateout(reg) value, start = in(reg) $start, offset = const $offset,
                options(pure, readonly, nostack),
            );
        }
        value
    }};
}

/// One store of the low bits of `$value`.
macro_rules! store {
    ($size:literal, $start:expr, $offset:expr, $value:expr) => {{
        // SAFETY: as in `load`; the instruction changes these bytes of the frame.
        unsafe {
            asm!(
                concat!("*(", $size, " *)({start} + {offset}) = {value}"),
                value = in(reg) $value as u64, start = in(reg) $start, offset = const $offset,
                options(nostack),
            );
        }
    }};
}

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
        const { assert!(OFFSET < N) }
        load!("u8", self.start, OFFSET) as u8
    }

    #[inline(always)]
    pub(crate) fn u16<const OFFSET: usize>(self) -> u16 {
        const { assert!(OFFSET + 2 <= N) }
        load!("u16", self.start, OFFSET) as u16
    }

    #[inline(always)]
    pub(crate) fn u32<const OFFSET: usize>(self) -> u32 {
        const { assert!(OFFSET + 4 <= N) }
        load!("u32", self.start, OFFSET) as u32
    }

    #[inline(always)]
    pub(crate) fn set_u8<const OFFSET: usize>(self, value: u8) {
        const { assert!(OFFSET < N) }
        store!("u8", self.start, OFFSET, value)
    }

    #[inline(always)]
    pub(crate) fn set_u16<const OFFSET: usize>(self, value: u16) {
        const { assert!(OFFSET + 2 <= N) }
        store!("u16", self.start, OFFSET, value)
    }

    #[inline(always)]
    pub(crate) fn set_u32<const OFFSET: usize>(self, value: u32) {
        const { assert!(OFFSET + 4 <= N) }
        store!("u32", self.start, OFFSET, value)
    }
}
