//! Waiting for the datapath's events.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Lets tokio report when `fd` becomes readable. Must be called within a runtime.
pub(super) fn readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let own = fd.try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is open until it is dropped, always gives the same descriptor, and is owned by the `AsyncFd`
    // alone, which hands it out only by shared reference.
    unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, os::fd::AsFd as _, time::Duration};

    #[tokio::test]
    async fn it_wakes_when_there_is_something_to_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        let watched = readable(reader.as_fd()).unwrap();
        let wait = |ms| tokio::time::timeout(Duration::from_millis(ms), watched.readable());
        assert!(wait(20).await.is_err());
        writer.write_all(b"x").unwrap();
        wait(5_000).await.unwrap().unwrap().clear_ready();
    }
}
