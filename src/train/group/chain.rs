//! Processes in a row: sums grow from the first to the last, and totals travel back. Both ways are used at once, message by message, so
//! that every link carries each number once in either direction, as in a ring, but sums have one order.

#[cfg(unix)]
use super::mpi::Mpi;
use crate::train::TrainError;
use std::io::{Read, Write};
use std::ops::Range;
#[cfg(unix)]
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// What a process sends to and receives from a neighbour.
pub struct Link {
    /// From the neighbour.
    pub receive: Box<dyn Read + Send>,
    /// To the neighbour.
    pub send: Box<dyn Write + Send>,
}

/// Values in a message: 1 MiB.
const MESSAGE: usize = 1 << 18;

/// One process of a row.
pub struct Chain {
    rank: usize,
    size: usize,
    /// Pieces that wait until they fill a message, and what they say.
    parts: Vec<Range<usize>>,
    waiting: Vec<f32>,
    /// Ranges of the messages that are under way.
    begun: Vec<Vec<Range<usize>>>,
    work: Option<Sender<Message>>,
    /// What is to come back.
    expected: Option<Sender<Header>>,
    done: Receiver<Result<Values, String>>,
    threads: Vec<JoinHandle<()>>,
    /// What the links go through, to be ended after them, on the thread that began it.
    #[cfg(unix)]
    mpi: Option<Arc<Mpi>>,
}

/// A message's kind, number and length, which all processes must agree about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Header {
    number: u64,
    kind: u64,
    len: u64,
    /// A hash of which parts of the whole these are.
    parts: u64,
}

const SUM_F32: u64 = 1;
const SUM_F64: u64 = 2;
const FIRST_F32: u64 = 3;

enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Values {
    fn of(header: Header) -> Values {
        match header.kind {
            SUM_F64 => Values::F64(vec![0.0; header.len as usize]),
            _ => Values::F32(vec![0.0; header.len as usize]),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Values::F32(values) => bytemuck::cast_slice(values),
            Values::F64(values) => bytemuck::cast_slice(values),
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Values::F32(values) => bytemuck::cast_slice_mut(values),
            Values::F64(values) => bytemuck::cast_slice_mut(values),
        }
    }
}

struct Message {
    header: Header,
    values: Values,
}

impl Chain {
    /// Process `rank` of `size`, with links to the one before it and the one behind it, where there are such.
    ///
    /// # Panics
    /// If a link is missing or too many.
    pub fn new(rank: usize, size: usize, before: Option<Link>, behind: Option<Link>) -> Chain {
        assert_eq!((before.is_some(), behind.is_some()), (rank > 0, rank + 1 < size), "process {rank} of {size}");
        let (work, messages) = channel::<Message>();
        let (results, done) = channel();
        let (from_before, to_before) = before.map_or((None, None), |link| (Some(link.receive), Some(link.send)));
        let mut threads = Vec::new();
        let mut expected = None;
        match behind {
            Some(link) => {
                let (headers, returning) = channel::<Header>();
                expected = Some(headers);
                let (to_behind, from_behind) = (link.send, link.receive);
                let failures = results.clone();
                let growing = move || grow(&messages, from_before, to_behind, &failures);
                threads.push(std::thread::spawn(growing));
                threads.push(std::thread::spawn(move || give_back(&returning, from_behind, to_before, &results)));
            }
            None => threads.push(std::thread::spawn(move || turn(&messages, from_before, to_before, &results))),
        }
        Chain {
            rank,
            size,
            parts: Vec::new(),
            waiting: Vec::new(),
            begun: Vec::new(),
            work: Some(work),
            expected,
            done,
            threads,
            #[cfg(unix)]
            mpi: None,
        }
    }

    /// Takes charge of what the links go through.
    #[cfg(unix)]
    pub(super) fn keep(&mut self, mpi: Arc<Mpi>) {
        self.mpi = Some(mpi);
    }

    /// See [`super::Group::abort`].
    pub fn abort(&self, last: impl FnOnce()) {
        #[cfg(unix)]
        if let Some(mpi) = &self.mpi {
            last();
            mpi.abort();
        }
        #[cfg(not(unix))]
        let _ = last;
    }

    /// This process.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// See [`super::Group::push`].
    pub fn push(&mut self, range: Range<usize>, values: &[f32]) {
        for (piece, at) in values.chunks(MESSAGE).zip((range.start..).step_by(MESSAGE)) {
            if self.waiting.len() + piece.len() > MESSAGE {
                self.flush();
            }
            self.waiting.extend_from_slice(piece);
            self.parts.push(at..at + piece.len());
        }
    }

    fn flush(&mut self) {
        if !self.waiting.is_empty() {
            let (values, parts) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.parts));
            self.send(SUM_F32, Values::F32(values), hash(&parts));
            self.begun.push(parts);
        }
    }

    /// A neighbour that went away shows when results are waited for.
    fn send(&mut self, kind: u64, values: Values, parts: u64) {
        let len = match &values {
            Values::F32(values) => values.len(),
            Values::F64(values) => values.len(),
        };
        let header = Header { number: 0, kind, len: len as u64, parts };
        if let Some(expected) = &self.expected {
            let _ = expected.send(header);
        }
        if let Some(work) = &self.work {
            let _ = work.send(Message { header, values });
        }
    }

    fn receive(&self) -> Result<Values, TrainError> {
        let gone = || Err("the threads that talk to the other processes have ended".to_owned());
        let result = self.done.recv().unwrap_or_else(|_| gone());
        result.map_err(|reason| TrainError::Group { rank: self.rank, size: self.size, reason })
    }

    /// See [`super::Group::finish`].
    ///
    /// # Errors
    /// [`TrainError::Group`].
    pub fn finish(&mut self, values: &mut [f32]) -> Result<(), TrainError> {
        self.flush();
        for parts in std::mem::take(&mut self.begun) {
            if let Values::F32(totals) = self.receive()? {
                let mut at = 0;
                for range in parts {
                    let len = range.len();
                    values[range].copy_from_slice(&totals[at..at + len]);
                    at += len;
                }
            }
        }
        Ok(())
    }

    /// See [`super::Group::sum`].
    ///
    /// # Errors
    /// [`TrainError::Group`].
    pub fn sum(&mut self, values: &mut [f64]) -> Result<(), TrainError> {
        self.send(SUM_F64, Values::F64(values.to_vec()), 0);
        if let Values::F64(totals) = self.receive()? {
            values.copy_from_slice(&totals);
        }
        Ok(())
    }

    /// See [`super::Group::broadcast`].
    ///
    /// # Errors
    /// [`TrainError::Group`].
    pub fn broadcast(&mut self, values: &mut [f32]) -> Result<(), TrainError> {
        for piece in values.chunks(MESSAGE) {
            self.send(FIRST_F32, Values::F32(piece.to_vec()), 0);
        }
        for piece in values.chunks_mut(MESSAGE) {
            if let Values::F32(first) = self.receive()? {
                piece.copy_from_slice(&first);
            }
        }
        Ok(())
    }
}

/// FNV-1a of the bounds, the same on every machine: processes that push other ranges, or in another order, are found out.
fn hash(parts: &[Range<usize>]) -> u64 {
    let bounds = parts.iter().flat_map(|part| [part.start as u64, part.end as u64]);
    bounds.fold(0xcbf2_9ce4_8422_2325, |hash, bound| (hash ^ bound).wrapping_mul(0x0100_0000_01b3))
}

impl Drop for Chain {
    fn drop(&mut self) {
        (self.work, self.expected) = (None, None);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

type Reader = Box<dyn Read + Send>;
type Writer = Box<dyn Write + Send>;

/// Adds this process's values to what comes from before.
fn combine(message: Message, number: u64, from_before: &mut Option<Reader>) -> Result<Message, String> {
    let Message { header, values } = message;
    let header = Header { number, ..header };
    let Some(reader) = from_before else { return Ok(Message { header, values }) };
    let mut sums = read(reader, header, "before")?;
    match (&mut sums, &values) {
        (Values::F32(sums), Values::F32(own)) if header.kind == SUM_F32 => {
            sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
        (Values::F64(sums), Values::F64(own)) => sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own),
        _ => {}
    }
    Ok(Message { header, values: sums })
}

fn read(reader: &mut Reader, expected: Header, which: &str) -> Result<Values, String> {
    let gone = |error: std::io::Error| format!("the process {which} it went away ({error})");
    let mut found = expected;
    reader.read_exact(bytemuck::bytes_of_mut(&mut found)).map_err(gone)?;
    if found != expected {
        return Err(format!(
            "the process {which} it is at another place: it sent {found:?}, expected was {expected:?}; all must run the same program with the \
             same options"
        ));
    }
    let mut values = Values::of(found);
    reader.read_exact(values.bytes_mut()).map_err(gone)?;
    Ok(values)
}

fn write(writer: &mut Writer, header: Header, values: &Values, which: &str) -> Result<(), String> {
    let written = writer.write_all(bytemuck::bytes_of(&header)).and_then(|()| writer.write_all(values.bytes()));
    written.and_then(|()| writer.flush()).map_err(|error| format!("the process {which} it went away ({error})"))
}

/// Every process but the last: sums grow.
fn grow(
    messages: &Receiver<Message>,
    mut from_before: Option<Reader>,
    mut to_behind: Writer,
    failures: &Sender<Result<Values, String>>,
) {
    for (message, number) in messages.iter().zip(0..) {
        let step = combine(message, number, &mut from_before)
            .and_then(|Message { header, values }| write(&mut to_behind, header, &values, "behind"));
        if let Err(reason) = step {
            let _ = failures.send(Err(reason));
            return;
        }
    }
}

/// Every process but the last: totals come back.
fn give_back(
    returning: &Receiver<Header>,
    mut from_behind: Reader,
    mut to_before: Option<Writer>,
    results: &Sender<Result<Values, String>>,
) {
    for (header, number) in returning.iter().zip(0..) {
        let header = Header { number, ..header };
        let total = read(&mut from_behind, header, "behind").and_then(|values| {
            to_before.as_mut().map_or(Ok(()), |writer| write(writer, header, &values, "before"))?;
            Ok(values)
        });
        let failed = total.is_err();
        if results.send(total).is_err() || failed {
            return;
        }
    }
}

/// The last process: sums are totals.
fn turn(
    messages: &Receiver<Message>,
    mut from_before: Option<Reader>,
    mut to_before: Option<Writer>,
    results: &Sender<Result<Values, String>>,
) {
    for (message, number) in messages.iter().zip(0..) {
        let total = combine(message, number, &mut from_before).and_then(|Message { header, values }| {
            to_before.as_mut().map_or(Ok(()), |writer| write(writer, header, &values, "before"))?;
            Ok(values)
        });
        let failed = total.is_err();
        if results.send(total).is_err() || failed {
            return;
        }
    }
}
