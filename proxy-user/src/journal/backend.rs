//! The journal's file as redb sees it: its room is allocated when it grows, and nothing waits for the disk.

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
};
use redb::StorageBackend;
use std::{fmt, fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

/// How the file is changed. Tests put a disk here that fills up.
pub(super) trait Disk: fmt::Debug + Send + Sync {
    /// Changes the file's length; what is new in it is zero.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()>;

    /// Writes all of these bytes.
    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// The file system, through the kernel's page cache.
#[derive(Debug)]
pub(super) struct PageCache;

impl Disk for PageCache {
    /// Allocates the room of a longer file in advance where the file system can: a full disk then refuses this call,
    /// and not a write into the middle of the file.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        let now = file.metadata()?.len();
        if now < len {
            let [from, more] = [now, len - now].map(|bytes| libc::off_t::try_from(bytes).map_err(io::Error::other));
            match fallocate(file, FallocateFlags::empty(), from?, more?) {
                Ok(()) => return Ok(()),
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        file.set_len(len)
    }

    fn write(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }
}

/// A file whose writes reach the kernel's page cache immediately, in order, and the disk later.
#[derive(Debug)]
pub(super) struct Unsynced {
    file: File,
    disk: Arc<dyn Disk>,
}

impl Unsynced {
    pub(super) fn new(file: File, disk: Arc<dyn Disk>) -> Self {
        Self { file, disk }
    }
}

impl StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(&self.file, len)
    }

    /// Returns immediately: what was written survives the process, and after a power cut there are no calls left.
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write(&self.file, offset, data)
    }
}
