//! Access to map entries: memory that other CPUs and user space change at any time. So no reference to one is ever
//! made: fields are read and written whole, each once, by volatile accesses of their own size, and what several CPUs
//! change is changed by atomic instructions.
//!
//! `core` has no atomic read-modify-write operations for this target; two lines of assembler replace them.

use core::arch::asm;

/// One volatile read of a location inside a map entry.
#[inline(always)]
pub(crate) fn load<T: Copy>(place: *const T) -> T {
    // SAFETY: the callers (all in `relay::entries`) point at an aligned place inside an entry that holds integers only,
    // and entries live as long as the program that refers to their map.
    unsafe { place.read_volatile() }
}

/// One volatile write of a location inside a map entry.
#[inline(always)]
pub(crate) fn store<T: Copy>(place: *mut T, value: T) {
    // SAFETY: as in `load`.
    unsafe { place.write_volatile(value) }
}

/// Atomically adds to a word of a map entry.
#[inline(always)]
pub(crate) fn add(word: *mut u64, value: u64) {
    // SAFETY: as in `load`; the instruction changes that
    // word and no register.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {value}", word = in(reg) word, value = in(reg) value) }
}

/// The same for a word of 32 bits.
#[inline(always)]
pub(crate) fn add_u32(word: *mut u32, value: u32) {
    // SAFETY: as in `add`.
    unsafe { asm!("lock *(u32 *)({word} + 0) += {value}", word = in(reg) word, value = in(reg) value as u64) }
}

/// Atomically replaces a word of a map entry by `new` if it is `old`; returns what it was.
#[inline(always)]
pub(crate) fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> u64 {
    let seen;
    // SAFETY: as in `add`; the instruction compares with r0 and returns the old value there.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word, new = in(reg) new, inout("r0") old => seen,
        );
    }
    seen
}

/// The same number, but the compiler does not know that.
#[inline(always)]
pub(crate) fn opaque<const NUMBER: u64>() -> u64 {
    let number;
    // SAFETY: the instruction sets one register.
    unsafe { asm!("{number} = {value}", number = out(reg) number, value = const NUMBER, options(pure, nomem, nostack)) }
    number
}
