//! Access to a frame's bytes: a window of `N` bytes whose presence was checked once, then reads and writes at offsets
//! that the compiler checks against `N`.
//!
//! Header fields are read as whole words, because a header as a struct of byte arrays (`network-types`, which defines
//! the offsets) compiles to one load a byte. Words are in memory order: `from_be`/`to_be` where a number is meant.

use aya_ebpf::helpers::bpf_xdp_adjust_head;
use core::{arch::asm, marker::PhantomData};
use proxy_common::address::Address;

/// What a frame comes in.
pub(crate) use aya_ebpf::programs::XdpContext as Context;

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
pub(crate) struct Frame<'a> {
    start: usize,
    end: usize,
    context: PhantomData<&'a Context>,
}

impl<'a> Frame<'a> {
    #[inline(always)]
    pub(crate) fn of(context: &'a Context) -> Self {
        // Read again each time: what the verifier learned from an earlier frame would make it follow more paths.
        // SAFETY: the context is the one that the kernel gave; both are words of it.
        let (start, end) = unsafe {
            ((&raw const (*context.ctx).data).read_volatile(), (&raw const (*context.ctx).data_end).read_volatile())
        };
        Self { start: start as usize, end: end as usize, context: PhantomData }
    }

    /// The same frame, of which the compiler does not know that it is: else it leaves out a check that it sees is
    /// implied by an earlier one, and the verifier does not.
    #[inline(always)]
    pub(crate) fn unproven(self) -> Self {
        let mut start = self.start;
        // SAFETY: the instruction changes nothing.
        unsafe { asm!("{start} += 0", start = inout(reg) start, options(pure, nomem, nostack)) }
        Self { start, ..self }
    }

    /// Whether the frame has at least `length` bytes.
    #[inline(always)]
    pub(crate) fn holds(self, length: usize) -> bool {
        self.start + length <= self.end
    }

    /// `N` bytes from `offset` on, if there are as many. `offset` is small.
    #[inline(always)]
    pub(crate) fn window<const N: usize>(self, offset: usize) -> Option<Window<'a, N>> {
        let start = self.start + offset;
        (start + N <= self.end).then_some(Window::at(start))
    }

    /// The one's complement sum, not folded, of `length` bytes from `offset` on, taken as words in memory order; `None`
    /// where the frame has fewer or where they are more than [`SUMMED`].
    #[inline(always)]
    pub(crate) fn sum(self, offset: usize, length: usize) -> Option<u64> {
        let mut sum = 0u64;
        let mut place = self.start + offset;
        let mut rest = length;
        if length > SUMMED {
            return None;
        }
        for _ in 0..SUMMED / 4 {
            if rest < 4 {
                break;
            }
            if place + 4 > self.end {
                return None;
            }
            sum += Window::<4>::at(place).u32::<0>() as u64;
            place += 4;
            rest -= 4;
        }
        if rest & 2 != 0 {
            if place + 2 > self.end {
                return None;
            }
            sum += Window::<2>::at(place).u16::<0>() as u64;
            place += 2;
        }
        if rest & 1 != 0 {
            if place + 1 > self.end {
                return None;
            }
            // Padded with zero: the byte that comes first in memory.
            sum += u16::from_ne_bytes([Window::<1>::at(place).u8::<0>(), 0]) as u64;
        }
        Some(sum)
    }
}

/// The most bytes that can be summed: those of a full Ethernet frame.
const SUMMED: usize = 1_520;

/// Makes the frame longer by `by` bytes at its front, or shorter where it is negative; false where there is no room.
/// Everything that was known of where its bytes are is void afterwards.
#[inline(always)]
pub(crate) fn grow(context: &Context, by: i32) -> bool {
    // SAFETY: the context is the one that the kernel gave, and no `Frame` or `Window` is used after the call.
    unsafe { bpf_xdp_adjust_head(context.ctx, -by) == 0 }
}

/// `N` bytes of a frame; made by [`Frame::window`] alone. A frame belongs to the program for its whole run, and only
/// [`grow`] moves it, so a window stays good until then.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a, const N: usize> {
    start: *mut u8,
    context: PhantomData<&'a Context>,
}

impl<const N: usize> Window<'_, N> {
    #[inline(always)]
    fn at(start: usize) -> Self {
        Self { start: start as *mut u8, context: PhantomData }
    }

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

    /// An IPv6 address.
    #[inline(always)]
    pub(crate) fn address<const OFFSET: usize>(self) -> Address {
        const { assert!(OFFSET + 16 <= N) }
        Address([load!("u64", self.start, OFFSET), load!("u64", self.start, OFFSET + 8)])
    }

    #[inline(always)]
    pub(crate) fn set_address<const OFFSET: usize>(self, address: Address) {
        const { assert!(OFFSET + 16 <= N) }
        let Address([high, low]) = address;
        store!("u64", self.start, OFFSET, high);
        store!("u64", self.start, OFFSET + 8, low);
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
