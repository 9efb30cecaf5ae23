//! Group commit by natural queueing: what arrives while one batch is written is the next batch.
//!
//! One idea: the appender whose record is the first of a batch leads it: it waits until the batch
//! before is durable, takes all records that have gathered, writes them in its own thread, and
//! wakes the others. So a single appender never changes threads, and there is no timer.
//!
//! Waiting is on futexes, one word for the leader and two for the others: members of batch `n` wait
//! at word `n % 2`, so that those of the next batch are not woken for nothing.
//!
//! Invariants: at most one batch is written at a time; records are durable in the order in which
//! they were queued.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use super::Log;

/// A log with one owner that appends whole batches.
pub trait Batches: Send {
    /// Appends records; all of them are durable on return.
    fn append_batch(&mut self, records: &[Bytes]);
}

/// A queue in front of a log.
pub struct Queue<L> {
    gathering: Mutex<Gathering>,
    log: Mutex<L>,
    /// The newest batch whose leader may write.
    leads: AtomicU32,
    /// The newest batches of even and of odd number that are durable.
    durable: [AtomicU32; 2],
}

struct Gathering {
    records: Vec<Bytes>,
    /// The number of the batch that gathers, from 1.
    batch: u32,
    /// Whether an earlier batch is not durable yet.
    is_writing: bool,
}

impl<L: Batches> Queue<L> {
    /// A queue in front of `log`.
    pub fn new(log: L) -> Self {
        let gathering = Gathering { records: Vec::new(), batch: 1, is_writing: false };
        Self {
            gathering: Mutex::new(gathering),
            log: Mutex::new(log),
            leads: AtomicU32::new(0),
            durable: [const { AtomicU32::new(0) }; 2],
        }
    }

    /// The log, once nobody appends any more.
    pub fn into_log(self) -> L {
        self.log.into_inner().expect("no appender panics")
    }

    fn lead(&self, batch: u32) {
        let mut records = Vec::new();
        {
            let mut gathering = self.gathering.lock().expect("no appender panics");
            std::mem::swap(&mut gathering.records, &mut records);
            gathering.batch = batch.wrapping_add(1);
        }
        self.log.lock().expect("no appender panics").append_batch(&records);
        let others = records.len() - 1;
        records.clear();
        let is_next_waiting = {
            let mut gathering = self.gathering.lock().expect("no appender panics");
            gathering.is_writing = !gathering.records.is_empty();
            if gathering.records.capacity() == 0 {
                gathering.records = records;
            }
            gathering.is_writing
        };
        if is_next_waiting {
            self.leads.store(batch.wrapping_add(1), Ordering::Release);
            wake(&self.leads, 1);
        }
        let word = &self.durable[batch as usize % 2];
        word.store(batch, Ordering::Release);
        if others > 0 {
            wake(word, i32::MAX);
        }
    }
}

impl<L: Batches> Log for Queue<L> {
    fn append(&self, _appender: usize, record: &Bytes) {
        let (batch, is_first, is_writing) = {
            let mut gathering = self.gathering.lock().expect("no appender panics");
            gathering.records.push(record.clone());
            let is_first = gathering.records.len() == 1;
            let is_writing = gathering.is_writing;
            gathering.is_writing = true;
            (gathering.batch, is_first, is_writing)
        };
        if !is_first {
            wait_until(&self.durable[batch as usize % 2], batch);
            return;
        }
        if is_writing {
            wait_until(&self.leads, batch);
        }
        self.lead(batch);
    }

    fn append_batch(&self, records: &[Bytes]) {
        self.log.lock().expect("no appender panics").append_batch(records);
    }
}

/// Waits until the word is `number` or was.
fn wait_until(word: &AtomicU32, number: u32) {
    loop {
        let seen = word.load(Ordering::Acquire);
        // Numbers may go around.
        if seen.wrapping_sub(number) as i32 >= 0 {
            return;
        }
        // SAFETY: the word outlives the call; the kernel only compares it. It returns at once when
        // the word is another one by now, and may return for no reason, hence the loop.
        unsafe {
            let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
            let no_timeout = std::ptr::null::<libc::timespec>();
            libc::syscall(libc::SYS_futex, word.as_ptr(), operation, seen, no_timeout);
        }
    }
}

fn wake(word: &AtomicU32, waiters_max: i32) {
    // SAFETY: the kernel looks for waiters of this address and does not touch the word.
    unsafe {
        let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        libc::syscall(libc::SYS_futex, word.as_ptr(), operation, waiters_max);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Keeps what was appended, and how.
    #[derive(Default)]
    struct Kept(Vec<Vec<Bytes>>);

    impl Batches for Kept {
        fn append_batch(&mut self, records: &[Bytes]) {
            assert!(!records.is_empty());
            std::thread::yield_now();
            self.0.push(records.to_vec());
        }
    }

    #[test]
    fn every_record_is_in_one_batch_and_each_appender_waits() {
        let queue = Queue::new(Kept::default());
        std::thread::scope(|scope| {
            for appender in 0..8u64 {
                let queue = &queue;
                scope.spawn(move || {
                    for at in 0..500u64 {
                        let record = [appender.to_le_bytes(), at.to_le_bytes()].concat();
                        queue.append(appender as usize, &Bytes::from(record));
                    }
                });
            }
        });
        let batches = queue.into_log().0;
        for batch in &batches {
            let appenders: BTreeSet<&[u8]> = batch.iter().map(|record| &record[..8]).collect();
            assert_eq!(appenders.len(), batch.len(), "an appender did not wait");
        }
        let mut next = [0u64; 8];
        for record in batches.concat() {
            let number = |at| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
            assert_eq!(number(8), next[number(0) as usize]);
            next[number(0) as usize] += 1;
        }
        assert_eq!(next, [500; 8]);
    }
}
