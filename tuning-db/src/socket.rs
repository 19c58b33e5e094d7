//! Way B: the process that writes answers others over a socket.
//!
//! A request is a length (u32, little-endian, at most 64 KiB) and postcard; a reply comes in parts of at most 1 MiB, each with its
//! length, a length of zero at the end. Only the same user is answered, 16 at a time. Reading, and handing in an observation: that
//! is how a second tuner writes without a second lock.

use crate::error::StoreError;
use crate::query::{Of, Query, Rows};
use crate::reader::{ModelRecords, Source};
use crate::store::{Shared, checked};
use crate::tables::Tables;
use crate::writer::Work;
use schema::{NewObservation, ObservationId};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const REQUEST_BYTES_MAX: usize = 64 << 10;
const PART_BYTES: usize = 1 << 20;
/// An answer beyond this is not believed.
const REPLY_BYTES_MAX: usize = 1 << 30;
const CONNECTIONS_MAX: usize = 16;
/// `sun_path` less its end.
const PATH_BYTES_MAX: usize = 107;
/// A reply begins within.
const BEGINS_WITHIN: Duration = Duration::from_millis(200);
/// Between two parts, and for a client to finish its request.
const PART_WITHIN: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
enum Request {
    Query { text: String, of: Of, now_s: u64 },
    ModelRecords,
    Submit(Box<NewObservation>),
}

#[derive(Serialize, Deserialize)]
enum Reply {
    Rows(Rows),
    ModelRecords(ModelRecords),
    Submitted(ObservationId),
    Refused(String),
}

/// Where the socket of a database is; `None` when no path is short enough.
pub fn socket_path(db: &Path) -> Option<PathBuf> {
    let absolute = std::fs::canonicalize(db).ok()?;
    let path = absolute.join("sock");
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return Some(path);
    }
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let name = blake3::hash(absolute.as_os_str().as_encoded_bytes()).to_hex();
    let path = runtime.join(format!("tunewright-{}.sock", &name[..16]));
    (path.as_os_str().len() <= PATH_BYTES_MAX).then_some(path)
}

/// Answers until dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens; `None` where no socket can be: readers then take the snapshot.
    pub fn start(shared: &Arc<Shared>) -> Option<Self> {
        let path = socket_path(&shared.path)?;
        // The lock is ours, so the one there is left over.
        let _ = std::fs::remove_file(&path);
        let listener = match UnixListener::bind(&path) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%error, "readers are not answered over a socket");
                return None;
            }
        };
        let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600));
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, shared) = (stop.clone(), shared.clone());
        let thread =
            std::thread::Builder::new().name("tuning-db socket".into()).spawn(move || serve(&listener, &flag, &shared)).ok()?;
        Some(Server { stop, path, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the listener out of accept.
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve(listener: &UnixListener, stop: &AtomicBool, shared: &Arc<Shared>) {
    let busy = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        if busy.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX || !is_same_user(&stream) {
            busy.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (shared, done) = (shared.clone(), busy.clone());
        let spawned = std::thread::Builder::new().name("tuning-db reader".into()).spawn(move || {
            // A client that went away is its own affair.
            let _ = answer(stream, &shared);
            done.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            busy.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn is_same_user(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn answer(mut stream: UnixStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PART_WITHIN))?;
    stream.set_write_timeout(Some(PART_WITHIN))?;
    let request = read_part(&mut stream, REQUEST_BYTES_MAX)?;
    let reply = match postcard::from_bytes(&request) {
        Ok(request) => reply(request, shared).unwrap_or_else(|error| Reply::Refused(error.to_string())),
        Err(error) => Reply::Refused(format!("no request: {error}")),
    };
    let bytes = postcard::to_stdvec(&reply).map_err(|error| invalid(error.to_string()))?;
    for part in bytes.chunks(PART_BYTES) {
        stream.write_all(&(part.len() as u32).to_le_bytes())?;
        stream.write_all(part)?;
    }
    stream.write_all(&0u32.to_le_bytes())
}

fn reply(request: Request, shared: &Shared) -> Result<Reply, StoreError> {
    Ok(match request {
        Request::Query { text, of, now_s } => {
            let query = Query::parse(&text).map_err(|error| StoreError::Input { what: error.to_string() })?.of(of).at(now_s);
            Reply::Rows(shared.ask(|index| crate::query::eval::rows(index, &query))?)
        }
        Request::ModelRecords => Reply::ModelRecords(shared.ask(|index| {
            let tables = Tables(index);
            Ok(ModelRecords {
                rows: tables.models(None)?,
                generation: tables.generation()?,
                watermark: tables.watermark()?.unwrap_or_default().seq,
                source: Source::B,
                stale_by_ms: 0,
            })
        })?),
        Request::Submit(observation) => Reply::Submitted(shared.hand_in(Work::New(Box::new(checked(*observation)?)))?.wait()?),
    })
}

fn read_part(stream: &mut UnixStream, limit: usize) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > limit {
        return Err(invalid(format!("a part of {len} bytes, at most {limit} are allowed")));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn ask(db: &Path, request: &Request, begins_within: Duration) -> Result<Reply, StoreError> {
    let path = socket_path(db).ok_or_else(|| StoreError::Input { what: "no path is short enough for a socket".into() })?;
    exchange(&path, request, begins_within).map_err(|error| {
        let what = match error.kind() {
            // No socket, or one that a killed process left.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "nobody who holds it answers".to_owned(),
            _ => format!("the holder does not answer: {error}"),
        };
        StoreError::Input { what }
    })
}

fn exchange(path: &Path, request: &Request, begins_within: Duration) -> io::Result<Reply> {
    // Connecting to a local socket never waits unless its queue is full, and then it fails at once or with the send.
    let mut stream = UnixStream::connect(path)?;
    if !is_same_user(&stream) {
        return Err(invalid("it belongs to another user"));
    }
    stream.set_write_timeout(Some(begins_within))?;
    stream.set_read_timeout(Some(begins_within))?;
    let bytes = postcard::to_stdvec(request).map_err(|error| invalid(error.to_string()))?;
    if bytes.len() > REQUEST_BYTES_MAX {
        return Err(invalid("the request is too long"));
    }
    stream.write_all(&(bytes.len() as u32).to_le_bytes())?;
    stream.write_all(&bytes)?;
    let mut reply = read_part(&mut stream, PART_BYTES)?;
    stream.set_read_timeout(Some(PART_WITHIN))?;
    while reply.len() < REPLY_BYTES_MAX {
        let part = read_part(&mut stream, PART_BYTES)?;
        if part.is_empty() {
            return postcard::from_bytes(&reply).map_err(|error| invalid(error.to_string()));
        }
        reply.extend(part);
    }
    Err(invalid("the answer is too long"))
}

fn refused(what: String) -> StoreError {
    StoreError::Input { what: format!("the holder refused: {what}") }
}

/// Asks the holder.
pub(crate) fn query(db: &Path, query: &Query) -> Result<Rows, StoreError> {
    let request = Request::Query { text: query.text.clone(), of: query.of, now_s: query.now_s };
    match ask(db, &request, BEGINS_WITHIN)? {
        Reply::Rows(rows) => Ok(rows),
        Reply::Refused(what) => Err(refused(what)),
        Reply::ModelRecords(_) | Reply::Submitted(_) => Err(refused("another answer than was asked for".into())),
    }
}

/// Asks the holder.
pub(crate) fn model_records(db: &Path) -> Result<ModelRecords, StoreError> {
    match ask(db, &Request::ModelRecords, BEGINS_WITHIN)? {
        Reply::ModelRecords(records) => Ok(records),
        Reply::Refused(what) => Err(refused(what)),
        Reply::Rows(_) | Reply::Submitted(_) => Err(refused("another answer than was asked for".into())),
    }
}

/// Hands an observation to the process that holds the database; durable when it returns.
///
/// # Errors
/// [`StoreError::Input`] when nobody holds it or the holder refuses.
pub fn submit(db: &Path, observation: NewObservation) -> Result<ObservationId, StoreError> {
    match ask(db, &Request::Submit(Box::new(observation)), PART_WITHIN)? {
        Reply::Submitted(id) => Ok(id),
        Reply::Refused(what) => Err(refused(what)),
        Reply::Rows(_) | Reply::ModelRecords(_) => Err(refused("another answer than was asked for".into())),
    }
}
