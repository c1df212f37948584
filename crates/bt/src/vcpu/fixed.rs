//! Code that is translated for its linear address: a 64-bit kernel's, in large global pages of the
//! upper half. Such a page ("frame") is mapped once and for long, so what its code says of itself
//! is constant, and jumps from one frame to another are linked as those inside a page are.
//!
//! The mode of such a block has the number of the *distance* from its place in RAM to its linear
//! address, which is one for a whole kernel. A page is fixed only together with the next one, so
//! that an instruction across its end is, too.
//!
//! All this holds while the frames are mapped as they were when code was first found there. After a
//! flush that may have been for one of them they are walked again before translated code goes on
//! ([`BtVcpu::look_at_frames`]); until then the old mapping is what a processor's TLB has. If one
//! differs its code goes: that is rare, and what has changed some times is no longer taken for a
//! frame.

use super::settled::SETTLED;
use super::{BtVcpu, Map};
use crate::area::View;
use crate::block::Site;
use mem::{Gpa, RamOffset};
use x86::Bus;
use x86::exec::Exec;
use x86::mmu::{Access, History};
use x86::state::cr4;

/// Where a mode has the number of its distance, which is 0 if it is not fixed.
const NUMBER_SHIFT: u32 = 48;
/// The bits of that.
pub(super) const NUMBER_BITS: u64 = 0xff << NUMBER_SHIFT;
/// Distances and frames at most: what is beyond is not fixed.
const DISTANCES: usize = 32;
const FRAMES: usize = 64;
/// So often may a frame change, and so many frames, before no more is made of them.
const CHANGES: u8 = 3;
const CHANGED: usize = 256;
/// The smallest large page: changes are counted by these.
const LARGE: u64 = 2 << 20;

/// A large page that fixed code was made from.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Frame {
    linear: u64,
    size: u64,
    distance: u64,
}

impl Frame {
    fn holds(&self, linear: u64) -> bool {
        linear.wrapping_sub(self.linear) < self.size
    }

    /// The frame of a linear address as the page tables are now.
    fn walk(x: &mut Exec<'_>, linear: u64) -> Option<Frame> {
        let found = x.probe(linear, Access::Execute)?;
        let size = found.size;
        // A kernel may flush all by switching CR4.PGE off for a moment.
        let global = found.global || x.s.cr4 & cr4::PGE == 0;
        if !global || size <= 0x1000 {
            return None;
        }
        let first = Gpa(found.gpa.0 & !(size - 1));
        let last = Gpa(first.0 + (size - 0x1000));
        let (first, last) = (x.ram.lookup(first)?.at.0, x.ram.lookup(last)?.at.0);
        let linear = linear & !(size - 1);
        (last.wrapping_sub(first) == size - 0x1000).then_some(Frame {
            linear,
            size,
            distance: linear.wrapping_sub(first),
        })
    }
}

/// The frames of a processor.
#[derive(Default)]
pub(super) struct Frames {
    frames: Vec<Frame>,
    distances: Vec<u64>,
    /// How often large pages were found mapped otherwise.
    changes: Map<u64, u8>,
    /// The guest has flushed what may be one of them.
    pub(super) doubtful: bool,
}

impl Frames {
    /// What the guest has flushed from one point to another may be one of them. `kept`: a change of
    /// the address space keeps global pages.
    pub(super) fn note(&mut self, before: &History, now: &History, kept: bool) {
        let some = match now.pages - before.pages {
            0 => false,
            1 => self.frames.iter().any(|f| f.holds(now.last_page)),
            _ => true,
        };
        let all = now.globals != before.globals || !kept && now.space != before.space;
        self.doubtful |= (some || all) && !self.frames.is_empty();
    }

    /// True if a linear address is in a known frame at this distance.
    pub(super) fn holds(&self, linear: u64, distance: u64) -> bool {
        self.find(linear).is_some_and(|f| f.distance == distance)
    }

    /// The frame of a linear address, if it is known.
    fn find(&self, linear: u64) -> Option<Frame> {
        self.frames.iter().find(|f| f.holds(linear)).copied()
    }

    /// The same, or if it can be one from now on.
    fn find_or_add(&mut self, x: &mut Exec<'_>, linear: u64) -> Option<Frame> {
        self.find(linear).or_else(|| {
            let times = self.changes.get(&(linear & !(LARGE - 1)));
            if self.frames.len() == FRAMES
                || self.changes.len() >= CHANGED
                || times.is_some_and(|n| *n >= CHANGES)
                || x.s.cr4 & cr4::PGE == 0
            {
                return None;
            }
            let frame = Frame::walk(x, linear)?;
            self.frames.push(frame);
            Some(frame)
        })
    }

    /// The number of a distance, as modes have it.
    fn number(&mut self, distance: u64) -> Option<u64> {
        let known = self.distances.iter().position(|d| *d == distance);
        let place = known.or_else(|| {
            (self.distances.len() < DISTANCES).then(|| {
                self.distances.push(distance);
                self.distances.len() - 1
            })
        })?;
        Some((place as u64 + 1) << NUMBER_SHIFT)
    }

    /// How far from its place in RAM code of a mode is, if it is fixed.
    pub(super) fn distance(&self, mode: u64) -> Option<u64> {
        let number = (mode & NUMBER_BITS) >> NUMBER_SHIFT;
        let place = (number as usize).checked_sub(1)?;
        self.distances.get(place).copied()
    }
}

impl BtVcpu {
    /// What makes a mode that of fixed code, if code at a linear address and place can be.
    pub(super) fn fixed_mode(
        &mut self,
        bus: &mut dyn Bus,
        view: View,
        linear: u64,
        at: RamOffset,
    ) -> u64 {
        let kernel = matches!(view, View::Kernel | View::KernelUser);
        if !kernel || linear >> 63 == 0 || !self.switches.fixed {
            return 0;
        }
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let frames = &mut self.frames;
        let next = (linear | 0xfff).wrapping_add(1);
        let distance = linear.wrapping_sub(at.0);
        let mut fits = |linear| {
            let frame = frames.find_or_add(&mut x, linear);
            frame.is_some_and(|frame| frame.distance == distance)
        };
        if fits(linear) && fits(next) {
            self.frames.number(distance).unwrap_or(0)
        } else {
            0
        }
    }

    /// The linear page of a block, if it is fixed.
    pub(super) fn fixed_page(&self, block: u32) -> Option<u64> {
        let block = self.blocks.get(block)?;
        self.linear_of(self.targets.mode_of(block.mode()), block.page())
    }

    /// The linear address of a page in RAM that code of a mode is made for, if it is for one.
    pub(super) fn linear_of(&self, mode: u64, page: RamOffset) -> Option<u64> {
        if mode & SETTLED != 0 {
            return self.settled.linear(page);
        }
        Some(page.0.wrapping_add(self.frames.distance(mode)?))
    }

    /// The linear page of the code that has a site, by its number, which is the one that runs.
    pub(super) fn page_of(&self, number: u32, site: &Site) -> u64 {
        let area = &*self.area;
        // User code is made for its linear address only in the window.
        let any = area.ring == 3 && area.window == 0;
        if any || self.frames.frames.is_empty() && self.settled.is_empty() {
            return area.page;
        }
        let blocks = &self.blocks;
        let block = site.offset().and_then(|offset| blocks.at_host(offset));
        let block = block.or_else(|| blocks.of_site(number));
        let fixed = block.and_then(|block| self.fixed_page(block));
        fixed.unwrap_or(area.page)
    }

    /// After flushes: the code of a frame that is no longer mapped as it was goes.
    pub(super) fn look_at_frames(&mut self, bus: &mut dyn Bus) {
        if !std::mem::take(&mut self.frames.doubtful) {
            return;
        }
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let frames = &mut self.frames;
        let holds = |f: &Frame| Frame::walk(&mut x, f.linear).as_ref() == Some(f);
        let (kept, changed): (Vec<_>, Vec<_>) = frames.frames.drain(..).partition(holds);
        frames.frames = kept;
        if changed.is_empty() {
            return;
        }
        self.stats.remapped += 1;
        for frame in &changed {
            *self.frames.changes.entry(frame.linear).or_default() += 1;
        }
        // The page before the frame had its first page to go on with.
        let gone = |page: u64| {
            let next = page.wrapping_add(0x1000);
            changed.iter().any(|f| f.holds(page) || f.holds(next))
        };
        for number in self.blocks.all() {
            let Some(page) = self.fixed_page(number) else {
                continue;
            };
            // Or one that it depends on.
            let other = self.blocks.looked_at(number).map(|(other, _)| {
                let from = self.blocks[number].page();
                page.wrapping_add(other.0.wrapping_sub(from.0))
            });
            if gone(page) || other.is_some_and(gone) {
                self.drop_block(number);
            }
        }
        self.empty_branch_tables();
    }
}
