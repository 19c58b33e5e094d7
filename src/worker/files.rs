//! Open files beside frames: how a runtime hands artifacts and segments to its workers (`SCM_RIGHTS`, unix(7)). A descriptor needs neither a
//! name in a file system that both see nor `/proc`, which containers may hide.

use super::protocol;
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The most files beside one frame: an artifact and a segment.
const FILES_MAX: usize = 2;

/// Writes one frame, with files beside its first byte.
///
/// # Errors
/// As [`protocol::write`]; too many files are `InvalidInput`.
pub fn write<T: Serialize>(to: &mut UnixStream, value: &T, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let frame = protocol::frame(value)?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && (files.len() > FILES_MAX || !beside.push(SendAncillaryMessage::ScmRights(files))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} files beside one frame", files.len())));
    }
    let sent = loop {
        match sendmsg(&*to, &[IoSlice::new(&frame)], &mut beside, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => break sent?,
        }
    };
    to.write_all(&frame[sent..])
}

/// The reading end of a socket, which keeps the files that came beside what was read.
pub struct Receiver {
    socket: UnixStream,
    files: Vec<OwnedFd>,
}

impl Receiver {
    pub fn new(socket: UnixStream) -> Self {
        Receiver { socket, files: Vec::new() }
    }

    /// The files that came since this was last asked, in the order they were sent.
    pub fn take_files(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.files)
    }
}

impl Read for Receiver {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FILES_MAX))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(&self.socket, &mut [IoSliceMut::new(into)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
        for sent in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = sent {
                self.files.extend(files);
            }
        }
        // The system drops what it may not open here, and says no more than this.
        match message.flags.contains(ReturnFlags::CTRUNC) {
            true => Err(io::Error::other("files were dropped: this process has too many open")),
            false => Ok(message.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn text(file: OwnedFd) -> String {
        let file = File::from(file);
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn files_come_with_the_frame_they_were_sent_with() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut theirs = Receiver::new(theirs);
        let (first, second, third) = (file("first"), file("second"), file("third"));
        write(&mut ours, &1u32, &[first.as_fd(), second.as_fd()]).unwrap();
        write(&mut ours, &2u32, &[]).unwrap();
        write(&mut ours, &3u32, &[third.as_fd()]).unwrap();
        drop((first, second, third));
        let mut next = || {
            let value = protocol::read::<u32>(&mut theirs).unwrap().unwrap();
            (value, theirs.take_files().into_iter().map(text).collect::<Vec<_>>())
        };
        assert_eq!(next(), (1, vec!["first".to_owned(), "second".to_owned()]));
        assert_eq!(next(), (2, vec![]));
        assert_eq!(next(), (3, vec!["third".to_owned()]));
    }

    #[test]
    fn a_frame_beyond_the_socket_comes_whole_with_its_file() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let long = vec![7u8; 8 << 20];
        let sent = long.clone();
        let writing = std::thread::spawn(move || write(&mut ours, &sent, &[file("beside").as_fd()]));
        let mut theirs = Receiver::new(theirs);
        assert_eq!(protocol::read::<Vec<u8>>(&mut theirs).unwrap().unwrap(), long);
        assert_eq!(theirs.take_files().into_iter().map(text).collect::<Vec<_>>(), ["beside"]);
        writing.join().unwrap().unwrap();
    }

    #[test]
    fn more_files_than_there_is_room_for_are_refused() {
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        let one = file("one");
        let error = write(&mut ours, &1u32, &[one.as_fd(); FILES_MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
