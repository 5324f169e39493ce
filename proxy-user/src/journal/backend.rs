//! The journal's file as redb sees it: locked while it is open, and never waited for.

use redb::StorageBackend;
use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::FileExt as _,
};

/// A file whose writes reach the kernel's page cache at once, in order, and the disk when the kernel pleases.
#[derive(Debug)]
pub(super) struct Unsynced(File);

impl Unsynced {
    /// Takes the file; `None` where another process has it open.
    pub(super) fn lock(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// Nothing: what was written survives the process, and after a power cut there is no call left to know of.
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
