//! Access to table entries: memory that other threads and the control plane change at any time. So no reference to one
//! is ever made: fields are read and written whole, each once, by atomic accesses of their own size.
//!
//! The relay reaches its tables by a mapping of its own (`tables`), in which a location is always accessed in the same
//! size; the control plane has another mapping of the same memory, as it has of the kernel's.

use std::{
    mem::transmute_copy,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
};

/// One read of a place inside an entry.
#[inline(always)]
pub(crate) fn load<T: Copy>(place: *const T) -> T {
    const { assert!(matches!(size_of::<T>(), 1 | 2 | 4 | 8)) }
    macro_rules! by {
        ($atomic:ty) => {{
            // SAFETY: the callers (all in `relay::entries`) point at an aligned place inside an entry that holds
            // integers only, every bit pattern of which is a value; entries live as long as their tables, which
            // `maps::Here` holds; and `T` is as large as the word (the arm that is taken).
            unsafe {
                let word = <$atomic>::from_ptr(place.cast_mut().cast()).load(Ordering::Acquire);
                transmute_copy(&word)
            }
        }};
    }
    match size_of::<T>() {
        1 => by!(AtomicU8),
        2 => by!(AtomicU16),
        4 => by!(AtomicU32),
        8 => by!(AtomicU64),
        _ => unreachable!(),
    }
}

/// One write of a place inside an entry.
#[inline(always)]
pub(crate) fn store<T: Copy>(place: *mut T, value: T) {
    const { assert!(matches!(size_of::<T>(), 1 | 2 | 4 | 8)) }
    macro_rules! by {
        ($atomic:ty) => {
            // SAFETY: as in `load`.
            unsafe { <$atomic>::from_ptr(place.cast()).store(transmute_copy(&value), Ordering::Release) }
        };
    }
    match size_of::<T>() {
        1 => by!(AtomicU8),
        2 => by!(AtomicU16),
        4 => by!(AtomicU32),
        8 => by!(AtomicU64),
        _ => unreachable!(),
    }
}

/// Atomically adds to a word of an entry.
#[inline(always)]
pub(crate) fn add(word: *mut u64, value: u64) {
    // SAFETY: as in `load`.
    unsafe { AtomicU64::from_ptr(word) }.fetch_add(value, Ordering::Relaxed);
}

/// The same for a word of 32 bits.
#[inline(always)]
pub(crate) fn add_u32(word: *mut u32, value: u32) {
    // SAFETY: as in `load`.
    unsafe { AtomicU32::from_ptr(word) }.fetch_add(value, Ordering::Relaxed);
}

/// Atomically replaces a word of an entry by `new` if it is `old`; returns what it was.
#[inline(always)]
pub(crate) fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> u64 {
    // SAFETY: as in `load`.
    let word = unsafe { AtomicU64::from_ptr(word) };
    match word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(seen) | Err(seen) => seen,
    }
}

/// The same number: there is no verifier to hide it from.
#[inline(always)]
pub(crate) fn opaque<const NUMBER: u64>() -> u64 {
    NUMBER
}
