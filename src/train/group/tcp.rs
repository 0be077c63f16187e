//! Finding each other over TCP: rank 0 waits at the master's address, tells everyone who is before them, and a row of connections is made.

use super::chain::{Chain, Link};
use super::{Group, Place};
use crate::train::TrainError;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// What every connection starts with.
const MAGIC: u64 = u64::from_le_bytes(*b"segface1");

/// How a process introduces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Hello {
    magic: u64,
    size: u64,
    rank: u64,
    /// A hash of what the run is: processes of different runs must not meet.
    run: u64,
    /// Where it waits for the one behind it.
    port: u64,
}

/// What rank 0 answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Answer {
    magic: u64,
    /// Proves to neighbours that rank 0 sent them.
    token: u64,
    /// 4 or 6; then the address of the process before, and its port.
    family: u64,
    address: [u8; 16],
    port: u64,
}

/// How long processes wait for each other at the start.
const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(20);

/// Meets the other processes of a run, which is told from others by `run`.
///
/// # Errors
/// [`TrainError::Group`] if they do not come within five minutes, or are not of this run.
pub fn connect(place: &Place, run: u64) -> Result<Group, TrainError> {
    if place.size == 1 {
        return Ok(Group::Alone);
    }
    let failed = |reason: String| TrainError::Group { rank: place.rank, size: place.size, reason };
    let deadline = Instant::now() + PATIENCE;
    let links = if place.rank == 0 { lead(place, run, deadline) } else { follow(place, run, deadline) };
    let [before, behind] = links.map_err(failed)?;
    let link = |stream: Option<TcpStream>| -> Result<Option<Link>, TrainError> {
        let Some(stream) = stream else { return Ok(None) };
        let split = || -> io::Result<Link> {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(None)?;
            Ok(Link { receive: Box::new(stream.try_clone()?), send: Box::new(Closing(stream)) })
        };
        split().map(Some).map_err(|error| failed(error.to_string()))
    };
    Ok(Group::Chain(Chain::new(place.rank, place.size, link(before)?, link(behind)?)))
}

/// Ends both directions when it is dropped, so that a neighbour that waits hears of it.
struct Closing(TcpStream);

impl Write for Closing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

/// Rank 0: waits for all, answers all; the one behind keeps its connection.
fn lead(place: &Place, run: u64, deadline: Instant) -> Result<[Option<TcpStream>; 2], String> {
    let (host, port) = &place.master;
    let listener = TcpListener::bind((&host[..], *port)).or_else(|error| match error.kind() {
        // The master's name may be an address of a router in front of it.
        io::ErrorKind::AddrNotAvailable => TcpListener::bind(("0.0.0.0", *port)),
        _ => Err(error),
    });
    let listener = listener.map_err(|error| format!("cannot listen at {host}:{port}: {error}"))?;
    let mut others: Vec<Option<(TcpStream, Hello)>> = (1..place.size).map(|_| None).collect();
    while others.iter().any(Option::is_none) {
        let missing = || {
            let missing: Vec<String> =
                (1..place.size).filter(|rank| others[rank - 1].is_none()).map(|rank| rank.to_string()).collect();
            format!("waited {} s at {host}:{port}; still missing: rank {}", PATIENCE.as_secs(), missing.join(", "))
        };
        let mut stream = accept(&listener, deadline)?.ok_or_else(missing)?;
        let Ok(hello) = receive::<Hello>(&mut stream) else { continue };
        if hello.magic != MAGIC {
            // Whoever else knocks at this port.
            continue;
        }
        let rank = hello.rank as usize;
        if hello.size != place.size as u64 || hello.run != run {
            return Err(format!(
                "rank {rank} came with other options (WORLD_SIZE {}); all must run the same program with the same options",
                hello.size
            ));
        }
        match others.get_mut(rank.wrapping_sub(1)) {
            Some(place @ None) => *place = Some((stream, hello)),
            _ => return Err(format!("a second process of rank {rank} came")),
        }
    }
    let token = std::hash::RandomState::new().build_hasher().finish();
    let mut others: Vec<(TcpStream, Hello)> = others.into_iter().flatten().collect();
    for index in 0..others.len() {
        let mut answer = Answer { magic: MAGIC, token, family: 0, address: [0; 16], port: 0 };
        if let Some(before) = index.checked_sub(1) {
            let (stream, hello) = &others[before];
            let peer = stream.peer_addr().map_err(|error| error.to_string())?;
            (answer.family, answer.port) = (4, hello.port);
            match peer.ip() {
                IpAddr::V4(ip) => answer.address[..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => {
                    answer.family = 6;
                    answer.address = ip.octets();
                }
            }
        }
        let sent = others[index].0.write_all(bytemuck::bytes_of(&answer));
        sent.map_err(|error| format!("rank {} went away: {error}", index + 1))?;
    }
    Ok([None, Some(others.swap_remove(0).0)])
}

/// Every other rank: comes to rank 0, then to the one before it, and waits for the one behind it.
fn follow(place: &Place, run: u64, deadline: Instant) -> Result<[Option<TcpStream>; 2], String> {
    let (host, port) = &place.master;
    let own = TcpListener::bind(("0.0.0.0", 0)).map_err(|error| format!("cannot listen: {error}"))?;
    let own_port = own.local_addr().map_err(|error| error.to_string())?.port();
    let hello =
        Hello { magic: MAGIC, size: place.size as u64, rank: place.rank as u64, run, port: u64::from(own_port) };
    let mut master =
        reach(&(&host[..], *port), deadline).map_err(|error| format!("rank 0 is not at {host}:{port}: {error}"))?;
    master.write_all(bytemuck::bytes_of(&hello)).map_err(|error| format!("rank 0 went away: {error}"))?;
    let answer: Answer = receive(&mut master).map_err(|error| format!("rank 0 sent no answer: {error}"))?;
    if answer.magic != MAGIC {
        return Err(format!("what listens at {host}:{port} is no segface train"));
    }
    let introduced = Hello { port: answer.token, ..hello };
    let before = if place.rank == 1 {
        master
    } else {
        let address: IpAddr = match answer.family {
            6 => answer.address.into(),
            _ => [answer.address[0], answer.address[1], answer.address[2], answer.address[3]].into(),
        };
        let at = (address, answer.port as u16);
        let gone = |error: io::Error| format!("rank {} is not at {address}:{}: {error}", place.rank - 1, at.1);
        let mut stream = reach(&at, deadline).map_err(gone)?;
        stream.write_all(bytemuck::bytes_of(&introduced)).map_err(gone)?;
        stream
    };
    if place.rank + 1 == place.size {
        return Ok([Some(before), None]);
    }
    let expected = Hello { rank: introduced.rank + 1, ..introduced };
    loop {
        let stream = accept(&own, deadline)?;
        let mut stream = stream.ok_or_else(|| format!("rank {} did not come", place.rank + 1))?;
        if receive::<Hello>(&mut stream).is_ok_and(|hello| hello == expected) {
            return Ok([Some(before), Some(stream)]);
        }
    }
}

/// The next connection, or none before the deadline.
fn accept(listener: &TcpListener, deadline: Instant) -> Result<Option<TcpStream>, String> {
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    while Instant::now() < deadline {
        match listener.accept() {
            Ok((stream, _)) => {
                let ready = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
                return ready.map(|()| Some(stream)).map_err(|error| error.to_string());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(error) => return Err(format!("cannot accept connections: {error}")),
        }
    }
    Ok(None)
}

/// A connection to what may still be starting.
fn reach(address: &impl std::net::ToSocketAddrs, deadline: Instant) -> io::Result<TcpStream> {
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn receive<T: bytemuck::Pod>(stream: &mut TcpStream) -> io::Result<T> {
    let mut value = T::zeroed();
    stream.read_exact(bytemuck::bytes_of_mut(&mut value))?;
    Ok(value)
}
