//! The processes of a run: who this one is, and how sums over all of them are made.
//!
//! Sums are taken in the order of ranks, ((r₀ + r₁) + r₂) + …, whatever the messages' way and speed, so that a run has the same bits
//! every time, and those of one process that does the same micro-batches one after another.

mod chain;
#[cfg(unix)]
mod mpi;
mod tcp;

pub use chain::{Chain, Link};
#[cfg(unix)]
pub use mpi::connect_mpi;
pub use tcp::connect;

use super::TrainError;
use std::ops::Range;

/// Which process of how many this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 0.
    pub rank: usize,
    /// How many processes there are.
    pub size: usize,
    /// Number of this process on its machine.
    pub local_rank: usize,
    /// Where rank 0 waits for the others.
    pub master: (String, u16),
}

impl Place {
    /// One process alone.
    pub fn alone() -> Place {
        Place { rank: 0, size: 1, local_rank: 0, master: ("127.0.0.1".into(), 29500) }
    }

    /// What `torchrun` says by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, or Open MPI's `mpirun` by its own names;
    /// alone, if neither does. Under torchrun, whose agent listens on MASTER_PORT itself, the port above it is taken.
    ///
    /// # Errors
    /// [`TrainError::Options`] if a variable is no number, or the rank is not below the size.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Place, TrainError> {
        let number = |names: [&str; 2], default: Option<usize>| {
            let found = names.iter().find_map(|name| Some((*name, get(name)?)));
            match found {
                Some((name, text)) => {
                    let number = text.trim().parse();
                    number.map_err(|_| TrainError::Options(format!("{name} is `{text}`, which is no number")))
                }
                None => default.ok_or_else(|| {
                    let [name, _] = names;
                    TrainError::Options(format!(
                        "WORLD_SIZE says that there are several processes, but {name} is not set"
                    ))
                }),
            }
        };
        let size = number(["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"], Some(1))?;
        if size <= 1 {
            return Ok(Place::alone());
        }
        let rank = number(["RANK", "OMPI_COMM_WORLD_RANK"], None)?;
        let local_rank = number(["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"], Some(rank))?;
        if rank >= size {
            return Err(TrainError::Options(format!(
                "RANK is {rank}, but WORLD_SIZE is {size}: ranks go from 0 to {}",
                size - 1
            )));
        }
        let agent = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let port = number(["MASTER_PORT", "MASTER_PORT"], Some(29500))? + usize::from(agent);
        let port = u16::try_from(port).map_err(|_| TrainError::Options(format!("MASTER_PORT {port} is no port")))?;
        let address = get("MASTER_ADDR").unwrap_or_else(|| "127.0.0.1".into());
        Ok(Place { rank, size, local_rank, master: (address, port) })
    }
}

/// The processes of a run.
pub enum Group {
    /// There is only this one.
    Alone,
    /// There are others.
    Chain(Chain),
}

impl Group {
    /// This process.
    pub fn rank(&self) -> usize {
        match self {
            Group::Alone => 0,
            Group::Chain(chain) => chain.rank(),
        }
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        match self {
            Group::Alone => 1,
            Group::Chain(chain) => chain.size(),
        }
    }

    /// Ends all processes at once where nothing else would tell them that this one fails (MPI), after `last`; over TCP, they notice.
    pub fn abort(&self, last: impl FnOnce()) {
        if let Group::Chain(chain) = self {
            chain.abort(last);
        }
    }

    /// Starts summing `values`, which belong to `range` of what [`Group::finish`] will be given. All processes must push the same ranges in
    /// the same order.
    pub fn push(&mut self, range: Range<usize>, values: &[f32]) {
        if let Group::Chain(chain) = self {
            chain.push(range, values);
        }
    }

    /// Waits for all sums that were begun and puts them in their places.
    ///
    /// # Errors
    /// [`TrainError::Group`] if another process went away or does something else.
    pub fn finish(&mut self, values: &mut [f32]) -> Result<(), TrainError> {
        match self {
            Group::Alone => Ok(()),
            Group::Chain(chain) => chain.finish(values),
        }
    }

    /// Sums a few numbers over all processes.
    ///
    /// # Errors
    /// As [`Group::finish`].
    pub fn sum(&mut self, values: &mut [f64]) -> Result<(), TrainError> {
        match self {
            Group::Alone => Ok(()),
            Group::Chain(chain) => chain.sum(values),
        }
    }

    /// Gives every process what rank 0 has.
    ///
    /// # Errors
    /// As [`Group::finish`].
    pub fn broadcast(&mut self, values: &mut [f32]) -> Result<(), TrainError> {
        match self {
            Group::Alone => Ok(()),
            Group::Chain(chain) => chain.broadcast(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Place, String> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Place::from_environment(get).map_err(|error| error.to_string())
    }

    #[test]
    fn the_variables_of_torchrun_and_mpirun_say_which_process_this_is() {
        assert_eq!(place(&[]), Ok(Place::alone()));
        assert_eq!(place(&[("WORLD_SIZE", "1")]), Ok(Place::alone()));
        let torchrun = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "1234"),
        ];
        let mut expected = Place { rank: 3, size: 4, local_rank: 1, master: ("node0".into(), 1234) };
        assert_eq!(place(&torchrun), Ok(expected.clone()));
        expected.master.1 = 1235;
        assert_eq!(place(&[&torchrun[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat()), Ok(expected));
        let mpirun =
            [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
        let expected = Place { rank: 1, size: 2, local_rank: 1, master: ("127.0.0.1".into(), 29500) };
        assert_eq!(place(&mpirun), Ok(expected));
        for (variables, part) in [
            (&[("WORLD_SIZE", "2")][..], "RANK is not set"),
            (&[("WORLD_SIZE", "two")], "no number"),
            (&[("WORLD_SIZE", "2"), ("RANK", "2")], "from 0 to 1"),
            (&[("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_PORT", "99999")], "no port"),
        ] {
            assert!(place(variables).is_err_and(|message| message.contains(part)), "{variables:?}");
        }
    }
}
