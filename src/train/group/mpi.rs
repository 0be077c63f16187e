//! The row of processes over MPI, whose library is loaded at run time: nothing is linked, and machines without it are none the worse.
//!
//! Handles and their names are those of Open MPI's binary interface (libmpi.so.40: versions 2 to 5), where predefined handles are addresses
//! of symbols.

use super::chain::{Chain, Link};
use super::{Group, Place};
use crate::train::TrainError;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{c_char, c_int, c_void};
use std::io::{self, Read, Write};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

const LIBRARIES: [&str; 2] = ["libmpi.so.40", "libmpi.so"];
const THREAD_MULTIPLE: c_int = 3;
/// Tags of sums that grow, and of totals that come back.
const GROWING: c_int = 1;
const RETURNING: c_int = 2;

/// Questions before the first pause, and how long that is.
const EAGER: u32 = 16;
const PAUSE: Duration = Duration::from_micros(50);

/// An `MPI_Status`, with room for more than any version has.
type Status = [u64; 16];
type Handle = *mut c_void;

/// The functions that are used, as the standard has them.
struct Functions {
    send: unsafe extern "C" fn(*const c_void, c_int, Handle, c_int, c_int, Handle, *mut Handle) -> c_int,
    receive: unsafe extern "C" fn(*mut c_void, c_int, Handle, c_int, c_int, Handle, *mut Handle) -> c_int,
    probe: unsafe extern "C" fn(c_int, c_int, Handle, *mut c_int, *mut Status) -> c_int,
    test: unsafe extern "C" fn(*mut Handle, *mut c_int, *mut Status) -> c_int,
    get_count: unsafe extern "C" fn(*const Status, Handle, *mut c_int) -> c_int,
    abort: unsafe extern "C" fn(Handle, c_int) -> c_int,
    finalize: unsafe extern "C" fn() -> c_int,
}

/// MPI, initialised.
pub(super) struct Mpi {
    functions: Functions,
    world: Handle,
    byte: Handle,
    rank: usize,
    size: usize,
    /// Keeps the functions.
    _library: Library,
}

// SAFETY: MPI was initialised for calls from any thread; the handles are constants.
unsafe impl Send for Mpi {}
// SAFETY: as above.
unsafe impl Sync for Mpi {}

impl Mpi {
    /// Loads the library and initialises it.
    fn start() -> Result<Mpi, String> {
        let open = |name: &&str| {
            // SAFETY: loading it runs its initialisers, which is what it is there for. Its plug-ins look for its symbols globally.
            unsafe { Library::open(Some(*name), RTLD_NOW | RTLD_GLOBAL) }.ok()
        };
        let library = LIBRARIES.iter().find_map(open);
        let library = library.ok_or_else(|| format!("no MPI library ({}) was found", LIBRARIES.join(", ")))?;
        // SAFETY: symbols have these types in every Open MPI; that it is one shows by the names of its handles.
        unsafe {
            let missing = |error: libloading::Error| format!("the MPI library is not Open MPI: {error}");
            macro_rules! symbol {
                ($name:literal) => {
                    *library.get(concat!($name, "\0").as_bytes()).map_err(missing)?
                };
            }
            let handle = |name: &str| library.get::<Handle>(name.as_bytes()).map(|symbol| symbol.into_raw());
            let world = handle("ompi_mpi_comm_world").map_err(missing)?;
            let byte = handle("ompi_mpi_byte").map_err(missing)?;
            let errors_return = handle("ompi_mpi_errors_return").map_err(missing)?;
            let init: unsafe extern "C" fn(*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int) -> c_int =
                symbol!("MPI_Init_thread");
            let rank_of: unsafe extern "C" fn(Handle, *mut c_int) -> c_int = symbol!("MPI_Comm_rank");
            let size_of: unsafe extern "C" fn(Handle, *mut c_int) -> c_int = symbol!("MPI_Comm_size");
            let set_handler: unsafe extern "C" fn(Handle, Handle) -> c_int = symbol!("MPI_Comm_set_errhandler");
            let functions = Functions {
                send: symbol!("MPI_Isend"),
                receive: symbol!("MPI_Irecv"),
                probe: symbol!("MPI_Iprobe"),
                test: symbol!("MPI_Test"),
                get_count: symbol!("MPI_Get_count"),
                abort: symbol!("MPI_Abort"),
                finalize: symbol!("MPI_Finalize"),
            };
            let (mut provided, mut rank, mut size) = (0, 0, 0);
            check(init(null_mut(), null_mut(), THREAD_MULTIPLE, &mut provided), "MPI_Init_thread")?;
            check(rank_of(world, &mut rank), "MPI_Comm_rank")?;
            check(size_of(world, &mut size), "MPI_Comm_size")?;
            check(set_handler(world, errors_return), "MPI_Comm_set_errhandler")?;
            let mpi = Mpi { functions, world, byte, rank: rank as usize, size: size as usize, _library: library };
            if provided < THREAD_MULTIPLE {
                return Err("this MPI library lets only one thread call it; MPI_THREAD_MULTIPLE is needed".into());
            }
            Ok(mpi)
        }
    }

    /// Waits for what was begun.
    ///
    /// # Safety
    /// The request is one, and what it reads or writes stays there.
    unsafe fn finish(&self, mut request: Handle, what: &str) -> io::Result<()> {
        patiently(|done| {
            let mut status: Status = [0; 16];
            // SAFETY: the caller's promise.
            check(unsafe { (self.functions.test)(&mut request, done, &mut status) }, what)
        })
    }

    /// Ends all processes of the run.
    pub(super) fn abort(&self) {
        // SAFETY: MPI is initialised.
        unsafe { (self.functions.abort)(self.world, 1) };
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // SAFETY: it was initialised, on this thread, and nobody uses it any more.
        unsafe { (self.functions.finalize)() };
    }
}

/// Asks until it is done. MPI's own waiting functions ask all the time, on a processor that the backward pass could use; after the first
/// moments this sleeps in between.
fn patiently(mut ask: impl FnMut(&mut c_int) -> Result<(), String>) -> io::Result<()> {
    for turn in 0.. {
        let mut done = 0;
        ask(&mut done).map_err(io::Error::other)?;
        match turn {
            _ if done != 0 => break,
            0..EAGER => std::thread::yield_now(),
            _ => std::thread::sleep(PAUSE),
        }
    }
    Ok(())
}

fn check(code: c_int, what: &str) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("{what} failed with code {code}")) }
}

/// Messages to or from one process.
struct Endpoint {
    mpi: Arc<Mpi>,
    peer: c_int,
    tag: c_int,
    /// A message that was received and not read to its end.
    left: Vec<u8>,
    at: usize,
}

impl Write for Endpoint {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(1 << 30);
        let Mpi { functions, world, byte, .. } = &*self.mpi;
        let (from, mut request) = (bytes.as_ptr().cast(), null_mut());
        // SAFETY: `len` bytes lie there until it is done.
        unsafe {
            let code = (functions.send)(from, len as c_int, *byte, self.peer, self.tag, *world, &mut request);
            check(code, "MPI_Isend").map_err(io::Error::other)?;
            self.mpi.finish(request, "MPI_Isend")?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Endpoint {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.at == self.left.len() {
            let Mpi { functions, world, byte, .. } = &*self.mpi;
            let (mut status, mut len): (Status, c_int) = ([0; 16], 0);
            patiently(|found| {
                // SAFETY: the status is large enough.
                let code = unsafe { (functions.probe)(self.peer, self.tag, *world, found, &mut status) };
                check(code, "MPI_Iprobe")
            })?;
            // SAFETY: the message has as many bytes as the probe says, since nobody else receives what this process sends under this tag.
            unsafe {
                check((functions.get_count)(&status, *byte, &mut len), "MPI_Get_count").map_err(io::Error::other)?;
                self.left.resize(len.max(0) as usize, 0);
                let (to, mut request) = (self.left.as_mut_ptr().cast(), null_mut());
                let code = (functions.receive)(to, len, *byte, self.peer, self.tag, *world, &mut request);
                check(code, "MPI_Irecv").map_err(io::Error::other)?;
                self.mpi.finish(request, "MPI_Irecv")?;
            }
            self.at = 0;
        }
        let len = bytes.len().min(self.left.len() - self.at);
        bytes[..len].copy_from_slice(&self.left[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// Meets the other processes that `mpirun` started, all of which must bring the same `run`.
///
/// # Errors
/// [`TrainError::Group`] if there is no Open MPI, if it says another place than the environment, or if the runs differ.
pub fn connect_mpi(place: &Place, run: u64) -> Result<Group, TrainError> {
    let failed = |reason: String| TrainError::Group { rank: place.rank, size: place.size, reason };
    let mpi = Arc::new(Mpi::start().map_err(failed)?);
    if (mpi.rank, mpi.size) != (place.rank, place.size) {
        return Err(failed(format!(
            "MPI says that this is process {} of {}; start it with mpirun",
            mpi.rank, mpi.size
        )));
    }
    let end = |peer: usize, tag| Endpoint { mpi: Arc::clone(&mpi), peer: peer as c_int, tag, left: Vec::new(), at: 0 };
    let before = place
        .rank
        .checked_sub(1)
        .map(|peer| Link { receive: Box::new(end(peer, GROWING)), send: Box::new(end(peer, RETURNING)) });
    let behind = (place.rank + 1 < place.size).then(|| Link {
        receive: Box::new(end(place.rank + 1, RETURNING)),
        send: Box::new(end(place.rank + 1, GROWING)),
    });
    let mut chain = Chain::new(place.rank, place.size, before, behind);
    chain.keep(mpi);
    let mut group = Group::Chain(chain);
    let own = [0, 16, 32, 48].map(|shift| (run >> shift & 0xffff) as f32);
    let mut first = own;
    group.broadcast(&mut first)?;
    let mut differ = [f64::from(u8::from(own != first))];
    group.sum(&mut differ)?;
    match differ {
        [0.0] => Ok(group),
        _ => {
            Err(failed("the processes have other options; all must run the same program with the same options".into()))
        }
    }
}
