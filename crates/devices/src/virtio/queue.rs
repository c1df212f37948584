//! Split virtqueues (virtio 1.2, "Split Virtqueues"), the device's side.
//!
//! The ring is the guest's memory: every word is read once, checked, and the copy used. A chain
//! is walked to its end and checked (indexes, loops, order, addresses in RAM) before the device
//! sees it. Packed virtqueues are not offered.

use core::sync::atomic::{Ordering, fence};
use mem::{Gpa, GuestMemory, OutOfRam};
use serde::{Deserialize, Serialize};

use crate::LoadError;
use alloc::format;
use alloc::vec::Vec;

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const DESC_INDIRECT: u16 = 4;
const AVAIL_NO_INTERRUPT: u16 = 1;
/// The longest indirect table. A chain should not be longer than its queue, but drivers exist
/// whose indirect tables are.
const MAX_INDIRECT: u32 = 1024;

/// How the driver broke a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingError {
    /// The available index moved by more than the ring holds.
    IndexJump {
        /// Where we were.
        from: u16,
        /// Where the driver says it is.
        to: u16,
        /// The ring's size.
        size: u16,
    },
    /// A descriptor index beyond its table.
    NoDescriptor {
        /// The index.
        index: u16,
        /// Entries of the table.
        size: u32,
    },
    /// A chain with more descriptors than its table: a loop.
    Loop {
        /// Where the chain starts.
        head: u16,
    },
    /// A buffer, or its end, is outside RAM.
    Buffer {
        /// The descriptor.
        index: u16,
        /// Where it points to.
        buffer: OutOfRam,
    },
    /// A device-readable descriptor after a device-writable one.
    Order {
        /// The descriptor.
        index: u16,
    },
    /// An indirect table of a bad length, in an indirect table, or not negotiated.
    Indirect {
        /// The descriptor.
        index: u16,
        /// Its length in bytes.
        len: u32,
    },
    /// A ring is outside RAM or misaligned.
    Ring {
        /// Which: "descriptor table", "available ring", "used ring".
        which: &'static str,
        /// Its address.
        at: Gpa,
    },
    /// The buffers do not have the form of a request.
    Request {
        /// Where the chain starts.
        head: u16,
        /// What is wrong.
        why: &'static str,
    },
}

impl core::fmt::Display for RingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            RingError::IndexJump { from, to, size } => write!(
                f,
                "the available index jumps from {from} to {to} in a ring of {size}"
            ),
            RingError::NoDescriptor { index, size } => {
                write!(f, "descriptor {index} is beyond the table of {size}")
            }
            RingError::Loop { head } => write!(f, "the chain at descriptor {head} is a loop"),
            RingError::Buffer { index, buffer } => write!(
                f,
                "descriptor {index} is outside RAM (gpa {:#x}, len {:#x})",
                buffer.at.0, buffer.len
            ),
            RingError::Order { index } => write!(
                f,
                "descriptor {index} is device-readable after a device-writable one"
            ),
            RingError::Indirect { index, len } => {
                write!(
                    f,
                    "descriptor {index} has a bad indirect table (len {len:#x})"
                )
            }
            RingError::Ring { which, at } => {
                write!(f, "the {which} is misaligned or outside RAM ({at:?})")
            }
            RingError::Request { head, why } => {
                write!(f, "the request at descriptor {head} {why}")
            }
        }
    }
}

/// A buffer of the guest's, in RAM when it was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its start.
    pub at: Gpa,
    /// Its length in bytes.
    pub len: u32,
}

/// A checked copy of a descriptor chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The descriptor it starts with, by which it is given back.
    pub head: u16,
    /// Buffers the device reads.
    pub readable: Vec<Segment>,
    /// Buffers the device writes.
    pub writable: Vec<Segment>,
}

impl Chain {
    /// Bytes the device can read.
    pub fn readable_len(&self) -> u64 {
        self.readable.iter().map(|s| u64::from(s.len)).sum()
    }
    /// Bytes the device can write.
    pub fn writable_len(&self) -> u64 {
        self.writable.iter().map(|s| u64::from(s.len)).sum()
    }

    /// Copies from the readable buffers, from their byte `at` on; how many bytes there were.
    pub fn read(&self, memory: &GuestMemory, at: u64, into: &mut [u8]) -> Result<usize, RingError> {
        gather(memory, &self.readable, at, into).map_err(|e| self.lost(e))
    }

    /// Copies into the writable buffers, from their byte `at` on; how many bytes fitted.
    pub fn write(&self, memory: &GuestMemory, at: u64, from: &[u8]) -> Result<usize, RingError> {
        scatter(memory, &self.writable, at, from).map_err(|e| self.lost(e))
    }

    /// A buffer that was in RAM when the chain was checked is not any more: RAM never moves, so
    /// this does not happen, and if it did it would be the ring that is broken.
    fn lost(&self, buffer: OutOfRam) -> RingError {
        let index = self.head;
        RingError::Buffer { index, buffer }
    }

    /// The error of a request whose buffers do not have the right form.
    pub fn malformed(&self, why: &'static str) -> RingError {
        let head = self.head;
        RingError::Request { head, why }
    }
}

/// Calls `each` with the pieces of `segments` from byte `at` on, `len` bytes in all; returns how
/// many there were.
fn pieces(
    segments: &[Segment],
    at: u64,
    len: usize,
    mut each: impl FnMut(Gpa, usize, usize) -> Result<(), OutOfRam>,
) -> Result<usize, OutOfRam> {
    let (mut skip, mut done) = (at, 0);
    for s in segments {
        if done == len {
            break;
        }
        let size = u64::from(s.len);
        if skip >= size {
            skip -= size;
            continue;
        }
        let n = (size - skip).min((len - done) as u64) as usize;
        each(Gpa(s.at.0.wrapping_add(skip)), done, n)?;
        done += n;
        skip = 0;
    }
    Ok(done)
}

/// Copies from `segments`, from their byte `at` on; how many bytes there were.
fn gather(
    memory: &GuestMemory,
    segments: &[Segment],
    at: u64,
    into: &mut [u8],
) -> Result<usize, OutOfRam> {
    pieces(segments, at, into.len(), |gpa, start, n| {
        memory.read(gpa, &mut into[start..start + n])
    })
}

/// Copies into `segments`, from their byte `at` on; how many bytes fitted.
fn scatter(
    memory: &GuestMemory,
    segments: &[Segment],
    at: u64,
    from: &[u8],
) -> Result<usize, OutOfRam> {
    pieces(segments, at, from.len(), |gpa, start, n| {
        memory.write(gpa, &from[start..start + n])
    })
}

struct Descriptor {
    at: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn read(memory: &GuestMemory, table: u64, index: u16) -> Result<Descriptor, RingError> {
        let mut b = [0; 16];
        let at = Gpa(table.saturating_add(16 * u64::from(index)));
        let ring = |e: OutOfRam| RingError::Ring {
            which: "descriptor table",
            at: e.at,
        };
        memory.read(at, &mut b).map_err(ring)?;
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            l0,
            l1,
            l2,
            l3,
            f0,
            f1,
            n0,
            n1,
        ] = b;
        Ok(Descriptor {
            at: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        })
    }
}

/// One split virtqueue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Queue {
    /// What the driver chose: a power of two up to the device's maximum.
    size: u16,
    ready: bool,
    /// Guest-physical addresses of descriptor table, available ring and used ring.
    desc: u64,
    avail: u64,
    used: u64,
    /// The next entry of the available ring to look at.
    next_avail: u16,
    /// The next entry of the used ring to fill.
    next_used: u16,
    /// `next_used` when the driver was last considered for an interrupt.
    signalled_used: u16,
    event_idx: bool,
    indirect: bool,
}

impl Queue {
    /// A queue as after reset, of the largest size.
    pub fn new(max_size: u16) -> Queue {
        Queue {
            size: max_size,
            ready: false,
            desc: 0,
            avail: 0,
            used: 0,
            next_avail: 0,
            next_used: 0,
            signalled_used: 0,
            event_idx: false,
            indirect: false,
        }
    }

    /// The size the driver chose.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// True if the driver has enabled it.
    pub fn ready(&self) -> bool {
        self.ready
    }

    /// Guest-physical addresses of descriptor table, available ring and used ring.
    pub fn addresses(&self) -> [u64; 3] {
        [self.desc, self.avail, self.used]
    }

    /// Sets the size, if it is a power of two up to `max` and the queue is not enabled.
    pub(super) fn set_size(&mut self, size: u16, max: u16) -> bool {
        let good = !self.ready && size.is_power_of_two() && size <= max;
        if good {
            self.size = size;
        }
        good
    }

    /// Sets the bits of `mask` of one of the three addresses, if the queue is not enabled.
    pub(super) fn set_address(&mut self, which: usize, mask: u64, value: u64) {
        if self.ready {
            return;
        }
        let address = match which {
            0 => &mut self.desc,
            1 => &mut self.avail,
            _ => &mut self.used,
        };
        *address = *address & !mask | value & mask;
    }

    /// The driver enables the queue: its rings must be aligned and in RAM.
    pub(super) fn enable(
        &mut self,
        memory: &GuestMemory,
        event_idx: bool,
        indirect: bool,
    ) -> Result<(), RingError> {
        let n = u64::from(self.size);
        let rings = [
            ("descriptor table", self.desc, 16, 16 * n, false),
            ("available ring", self.avail, 2, 6 + 2 * n, false),
            ("used ring", self.used, 4, 6 + 8 * n, true),
        ];
        for (which, at, align, len, write) in rings {
            if at % align != 0 || memory.check(Gpa(at), len, write).is_err() {
                let at = Gpa(at);
                return Err(RingError::Ring { which, at });
            }
        }
        self.ready = true;
        self.event_idx = event_idx;
        self.indirect = indirect;
        Ok(())
    }

    fn avail_word(&self, memory: &GuestMemory, offset: u64) -> Result<u16, RingError> {
        let at = Gpa(self.avail.saturating_add(offset));
        memory.read_word(at).map_err(|e| RingError::Ring {
            which: "available ring",
            at: e.at,
        })
    }

    fn used_write(&self, memory: &GuestMemory, offset: u64, from: &[u8]) -> Result<(), RingError> {
        let at = Gpa(self.used.saturating_add(offset));
        memory.write(at, from).map_err(|e| RingError::Ring {
            which: "used ring",
            at: e.at,
        })
    }

    /// How many chains wait.
    pub fn waiting(&self, memory: &GuestMemory) -> Result<u16, RingError> {
        if !self.ready {
            return Ok(0);
        }
        let to = self.avail_word(memory, 2)?;
        let n = to.wrapping_sub(self.next_avail);
        if n > self.size {
            let (from, size) = (self.next_avail, self.size);
            return Err(RingError::IndexJump { from, to, size });
        }
        Ok(n)
    }

    /// The next chain, checked. `None` if there is none; the driver will then notify us of the
    /// next one.
    pub fn pop(&mut self, memory: &GuestMemory) -> Result<Option<Chain>, RingError> {
        if self.waiting(memory)? == 0 {
            if !self.ready || !self.event_idx {
                return Ok(None);
            }
            // "Available Buffer Notification Suppression": ask for the next, then look again,
            // since the driver may have added a chain before it saw the question.
            let offset = 4 + 8 * u64::from(self.size);
            self.used_write(memory, offset, &self.next_avail.to_le_bytes())?;
            fence(Ordering::SeqCst);
            if self.waiting(memory)? == 0 {
                return Ok(None);
            }
        }
        fence(Ordering::Acquire);
        let slot = u64::from(self.next_avail % self.size.max(1));
        let head = self.avail_word(memory, 4 + 2 * slot)?;
        let chain = self.walk(memory, head)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Puts the chain that was popped last back, to be popped again.
    pub fn put_back(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
    }

    fn walk(&self, memory: &GuestMemory, head: u16) -> Result<Chain, RingError> {
        let mut chain = Chain {
            head,
            readable: Vec::new(),
            writable: Vec::new(),
        };
        let (mut table, mut size) = (self.desc, u32::from(self.size));
        let (mut index, mut seen, mut inside) = (head, 0, false);
        loop {
            if u32::from(index) >= size {
                return Err(RingError::NoDescriptor { index, size });
            }
            if seen == size {
                return Err(RingError::Loop { head });
            }
            seen += 1;
            let d = Descriptor::read(memory, table, index)?;
            if d.flags & DESC_INDIRECT != 0 {
                let entries = d.len / 16;
                let bad = !self.indirect
                    || inside
                    || d.flags & DESC_NEXT != 0
                    || d.len % 16 != 0
                    || !(1..=MAX_INDIRECT).contains(&entries);
                if bad {
                    return Err(RingError::Indirect { index, len: d.len });
                }
                memory
                    .check(Gpa(d.at), d.len.into(), false)
                    .map_err(|buffer| RingError::Buffer { index, buffer })?;
                (table, size, index, seen, inside) = (d.at, entries, 0, 0, true);
                continue;
            }
            let write = d.flags & DESC_WRITE != 0;
            let (at, len) = (Gpa(d.at), d.len);
            memory
                .check(at, len.into(), write)
                .map_err(|buffer| RingError::Buffer { index, buffer })?;
            if write {
                chain.writable.push(Segment { at, len });
            } else if !chain.writable.is_empty() {
                return Err(RingError::Order { index });
            } else {
                chain.readable.push(Segment { at, len });
            }
            if d.flags & DESC_NEXT == 0 {
                return Ok(chain);
            }
            index = d.next;
        }
    }

    /// Gives a chain back, `len` bytes of its writable buffers having been written.
    pub fn push_used(
        &mut self,
        memory: &GuestMemory,
        head: u16,
        len: u32,
    ) -> Result<(), RingError> {
        let slot = u64::from(self.next_used % self.size.max(1));
        let entry = u64::from(head) | u64::from(len) << 32;
        self.used_write(memory, 4 + 8 * slot, &entry.to_le_bytes())?;
        self.next_used = self.next_used.wrapping_add(1);
        fence(Ordering::Release);
        let at = Gpa(self.used.saturating_add(2));
        memory
            .write_word(at, self.next_used)
            .map_err(|e| RingError::Ring {
                which: "used ring",
                at: e.at,
            })
    }

    /// True if chains were given back since the last call and the driver wants to be
    /// interrupted for them ("Used Buffer Notification Suppression").
    pub(super) fn take_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, RingError> {
        let (old, new) = (self.signalled_used, self.next_used);
        if old == new || !self.ready {
            return Ok(false);
        }
        self.signalled_used = new;
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return Ok(self.avail_word(memory, 0)? & AVAIL_NO_INTERRUPT == 0);
        }
        let event = self.avail_word(memory, 4 + 2 * u64::from(self.size))?;
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    /// Checks a loaded state; the rings are checked again whenever they are used.
    pub(super) fn check(&self, max: u16) -> Result<(), LoadError> {
        if !self.size.is_power_of_two() || self.size > max {
            return Err(LoadError::Invalid {
                field: "queue size",
                why: format!("{} (at most {max})", self.size),
            });
        }
        Ok(())
    }
}
