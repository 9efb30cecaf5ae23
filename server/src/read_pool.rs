//! A few threads for reads that may take long: whole ranges, and values that may not be resident.
//! A socket thread never waits for the disk and never encodes a hundred megabytes in one go.
//!
//! The threads run at a lower priority than those that commit: when both want the processor, the
//! commit goes first. The queue is bounded by `limits::READ_QUEUE_MAX`; a full queue refuses the
//! read with etcd's "too many requests".

use std::any::Any;

use tokio::sync::oneshot;
use varve_api::{Status, error};

use crate::limits;
use crate::queue::{Sender, bounded};

type Job = Box<dyn FnOnce() + Send>;

/// The pool; cheap to clone.
#[derive(Clone)]
pub struct ReadPool {
    /// To the threads; without any, whoever asks does it itself.
    jobs: Option<Sender<Job>>,
}

impl ReadPool {
    /// Starts the threads; they end when the last handle is dropped.
    ///
    /// # Errors
    /// If a thread cannot be created.
    pub fn start() -> std::io::Result<Self> {
        Self::named("read", limits::READ_THREADS, limits::READ_QUEUE_MAX)
    }

    /// As [`ReadPool::start`], for something else that takes long: so many threads of this name.
    ///
    /// # Errors
    /// If a thread cannot be created.
    pub fn named(name: &str, threads: usize, queue_max: usize) -> std::io::Result<Self> {
        let (jobs, queue) = bounded::<Job>(queue_max);
        for number in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                lower_priority();
                while let Ok(job) = queue.recv() {
                    job();
                }
            })?;
        }
        Ok(Self { jobs: Some(jobs) })
    }

    /// A pool without threads: a read is done at once where it is asked for.
    pub fn inline() -> Self {
        Self { jobs: None }
    }

    /// Runs `read` on the pool.
    ///
    /// # Errors
    /// "too many requests" when the queue is full.
    pub async fn run<T: Send + Any>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let Some(jobs) = &self.jobs else { return Ok(read()) };
        let (sender, receiver) = oneshot::channel();
        let job = Box::new(move || {
            // The client may have gone away meanwhile: then the work is saved.
            if !sender.is_closed() {
                let _ = sender.send(read());
            }
        });
        jobs.try_send(job).map_err(|_| error::TOO_MANY_REQUESTS)?;
        receiver.await.map_err(|_| error::STOPPED.into())
    }
}

/// Makes the calling thread yield to those of the commit path, whatever priority the process has.
pub fn lower_priority() {
    const STEPS: i32 = 5;
    // SAFETY: a plain system call, which on Linux is of the calling thread only. A refusal changes
    // nothing that matters.
    unsafe {
        libc::nice(STEPS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i32 {
        // SAFETY: a plain system call; 0 means the calling thread.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[test]
    fn the_priority_is_lowered_from_what_it_was_and_of_the_calling_thread_only() {
        let before = nice();
        let lowered = std::thread::spawn(|| {
            lower_priority();
            let once = nice();
            lower_priority();
            (once, nice())
        });
        let lowest = 19;
        let expected = ((before + 5).min(lowest), (before + 10).min(lowest));
        assert_eq!(lowered.join().expect("it ends"), expected);
        assert_eq!(nice(), before);
    }
}
