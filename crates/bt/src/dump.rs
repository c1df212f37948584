//! The listing of translated blocks (`--dump-bt`): guest code, host code, how often each block
//! ran, and what was done with its sensitive instructions.
//!
//! A block is written when it goes (its page was written, the cache was emptied, the processor
//! ends), with the host code as it is then, links and all; those that go together are sorted by
//! their counts. Called by [`crate::vcpu`]. The counters are in the code of the blocks only while
//! somebody wants them.

use crate::translate::{Output, Source};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// What was done with an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Treatment {
    /// It runs as it is, or with its memory operand, its stolen registers or its target replaced.
    Native,
    /// It is sensitive, and code of ours does the usual case.
    Replaced,
    /// It is the interpreter's.
    Interpreted,
}

impl Treatment {
    fn note(self) -> &'static str {
        match self {
            Treatment::Native => "",
            Treatment::Replaced => "    ; sensitive: replaced",
            Treatment::Interpreted => "    ; left to the interpreter",
        }
    }
}

/// Where listings go; shared by the processors of an engine.
pub struct Dump(Mutex<Box<dyn Write + Send>>);

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dump")
    }
}

impl Dump {
    /// Listings to this file.
    pub fn new(file: Box<dyn Write + Send>) -> Dump {
        Dump(Mutex::new(file))
    }

    /// What cannot be written does not stop the guest.
    fn write(&self, text: &str) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(text.as_bytes()).and_then(|()| file.flush());
    }
}

/// What is remembered of a block for its listing.
struct Record {
    /// Its number in the processor's list.
    number: u32,
    /// RIP where it was met first.
    rip: u64,
    bits: u32,
    ring: u8,
    guest: Vec<u8>,
    treatments: Vec<Treatment>,
    /// Checks of memory accesses in it.
    accesses: u32,
}

/// Counters of one allocation: their addresses are in translated code, so they never move.
const CHUNK: usize = 1 << 12;

/// One processor's records and counters.
#[derive(Default)]
pub(crate) struct Recorder {
    /// Branches that looked into a branch table, and those that then searched the table of all
    /// blocks.
    ways: Box<[u64; 2]>,
    chunks: Vec<Box<[u64; CHUNK]>>,
    /// By the number of the block.
    records: Vec<Record>,
    /// Of blocks that are gone: executions, accesses.
    past: [u64; 2],
}

/// What a [`Recorder`] is told of a new block.
pub(crate) struct NewBlock {
    /// RIP where it was met first.
    pub rip: u64,
    /// Size of its code.
    pub bits: u32,
    /// Privilege level.
    pub ring: u8,
    /// The guest's bytes, from the first instruction on.
    pub guest: Vec<u8>,
    /// A treatment for each instruction.
    pub treatments: Vec<Treatment>,
    /// Checks of memory accesses in it.
    pub accesses: u32,
}

impl NewBlock {
    /// What is to be remembered of a translation.
    pub fn of(source: &Source<'_>, output: &Output, rip: u64, ring: u8) -> NewBlock {
        let start = (source.rip & 0xfff) as usize;
        let mut guest = source.page[start..].to_vec();
        guest.extend(source.next.into_iter().flatten());
        let bits = source.view.bits();
        let mut decoder = Decoder::new(bits, &guest, DecoderOptions::NONE);
        for _ in 0..output.count {
            let _ = decoder.decode();
        }
        let length = decoder.position();
        guest.truncate(length);
        NewBlock {
            rip,
            bits,
            ring,
            guest,
            treatments: output.treatments.clone(),
            accesses: output.accesses,
        }
    }
}

impl Recorder {
    /// Host addresses of the counters of branches, for the code that all blocks share.
    pub fn ways(&self) -> [u64; 2] {
        self.ways.each_ref().map(|n| std::ptr::from_ref(n) as u64)
    }

    /// Branches that looked into a branch table, and those that then searched all blocks.
    pub fn branches(&self) -> [u64; 2] {
        self.ways.each_ref().map(read)
    }

    /// Host address of the counter of block `number`.
    pub fn counter(&mut self, number: u32) -> u64 {
        let (chunk, place) = (number as usize / CHUNK, number as usize % CHUNK);
        while self.chunks.len() <= chunk {
            self.chunks.push(Box::new([0; CHUNK]));
        }
        self.chunks[chunk][place] = 0;
        std::ptr::from_ref(&self.chunks[chunk][place]) as u64
    }

    fn count(&self, number: u32) -> u64 {
        let (chunk, place) = (number as usize / CHUNK, number as usize % CHUNK);
        self.chunks.get(chunk).map_or(0, |c| read(&c[place]))
    }

    /// Remembers block `number`, which has been made.
    pub fn add(&mut self, number: u32, block: NewBlock) {
        self.records.push(Record {
            number,
            rip: block.rip,
            bits: block.bits,
            ring: block.ring,
            guest: block.guest,
            treatments: block.treatments,
            accesses: block.accesses,
        });
    }

    /// Executions of all blocks so far, and accesses to memory checked in them.
    pub fn totals(&self) -> [u64; 2] {
        let [mut runs, mut accesses] = self.past;
        for record in &self.records {
            let n = self.count(record.number);
            runs += n;
            accesses += n * u64::from(record.accesses);
        }
        [runs, accesses]
    }

    /// Forgets the blocks with these numbers, after writing them to `dump`; `code` gives the host code of a block and
    /// where in it each guest instruction begins.
    pub fn finish<'c>(
        &mut self,
        dump: Option<&Dump>,
        why: &str,
        which: &core::ops::Range<u32>,
        mut code: impl FnMut(u32) -> Option<(&'c [u8], u64, Vec<(u16, u16)>)>,
    ) {
        let all = std::mem::take(&mut self.records);
        let (mut records, others) = all.into_iter().partition(|r| which.contains(&r.number));
        self.records = std::mem::take(&mut records);
        self.past = self.totals();
        let mut records = std::mem::replace(&mut self.records, others);
        let Some(dump) = dump.filter(|_| !records.is_empty()) else {
            return;
        };
        records.sort_by_key(|r| std::cmp::Reverse(self.count(r.number)));
        let mut text = String::new();
        let _ = writeln!(text, "== {} blocks: {why}", records.len());
        for record in &records {
            let Some((host, at, map)) = code(record.number) else {
                continue;
            };
            list(&mut text, record, self.count(record.number), host, at, &map);
            if text.len() > 1 << 20 {
                dump.write(&text);
                text.clear();
            }
        }
        dump.write(&text);
    }
}

/// A counter.
fn read(counter: &u64) -> u64 {
    // SAFETY: a live integer of ours. Translated code of this processor, which is not running
    // now, writes it behind the compiler's back.
    unsafe { std::ptr::from_ref(counter).read_volatile() }
}

fn instruction(text: &mut String, decoder: &mut Decoder<'_>) {
    let i = decoder.decode();
    let _ = write!(text, "{:x}  ", i.ip());
    let mut formatter = IntelFormatter::new();
    formatter
        .options_mut()
        .set_space_after_operand_separator(true);
    formatter.options_mut().set_rip_relative_addresses(true);
    formatter.format(&i, text);
}

/// One block: each guest instruction, and below it the host's.
fn list(text: &mut String, r: &Record, runs: u64, host: &[u8], at: u64, map: &[(u16, u16)]) {
    let _ = writeln!(
        text,
        "\nblock {:x}, {} bits, ring {}: ran {runs} times, {} guest instructions, {} host bytes at {at:x}",
        r.rip,
        r.bits,
        r.ring,
        r.treatments.len(),
        host.len()
    );
    let mut guest = Decoder::with_ip(r.bits, &r.guest, r.rip, DecoderOptions::NONE);
    let mut host_code = Decoder::with_ip(64, host, at, DecoderOptions::NONE);
    let mut until = |text: &mut String, end: u64| {
        while host_code.can_decode() && host_code.ip() < end {
            text.push_str("        ");
            instruction(text, &mut host_code);
            text.push('\n');
        }
    };
    for (n, &(from, into)) in map.iter().enumerate() {
        until(text, at + u64::from(from));
        text.push_str("    ");
        // Behind the last one come the groups' other copies.
        let known = guest.set_position(into.into()).is_ok();
        debug_assert!(known, "an instruction outside its block");
        guest.set_ip(r.rip + u64::from(into));
        instruction(text, &mut guest);
        text.push_str(r.treatments.get(n).map_or("", |t| t.note()));
        text.push('\n');
    }
    until(text, at + host.len() as u64);
}
