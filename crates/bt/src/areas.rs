//! The areas of one processor, one for each address space it keeps tables for. The kernel's tables
//! are the same memory in all of them: what an address space has of them is good in the next, and
//! lies in the host's caches once.

use crate::area::{Area, CodeTables, Tables, VIEWS, View};
use core::mem::offset_of;
use core::ops::{Deref, DerefMut, Range};
use core::ptr::{NonNull, null_mut};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

/// One area. Its memory comes from the host as it is touched.
pub struct OwnedArea {
    at: NonNull<Area>,
    /// What is mapped into all areas of the processor, each part at its place in an area.
    shared: Arc<File>,
}

// SAFETY: the memory belongs to this value, or to it and the other areas of the same processor,
// which are all reached by way of that processor.
unsafe impl Send for OwnedArea {}

impl OwnedArea {
    /// The first area of a processor; see [`Area::begin`].
    pub fn first(pins: [u64; 2], targets: u64, no_stub: [u64; VIEWS]) -> Result<OwnedArea, String> {
        let failed = |e| format!("the processor's tables: {e}");
        let shared = memory_file(size_of::<Area>()).map_err(failed)?;
        let mut area = OwnedArea::map(Arc::new(shared)).map_err(failed)?;
        area.begin(pins, targets, no_stub);
        area.prepare(false);
        Ok(area)
    }

    /// One more of the same processor, whose own tables are still to be prepared
    /// ([`Area::prepare`]).
    pub fn another(&self) -> Result<OwnedArea, String> {
        let failed = |e| format!("the processor's tables: {e}");
        let mut area = OwnedArea::map(self.shared.clone()).map_err(failed)?;
        area.begin([self.pins, self.bell], self.targets, self.no_stub);
        Ok(area)
    }

    /// Gives the branch tables of the window's view back to the host: nobody goes through the window
    /// here for now.
    pub fn release_window(&mut self) {
        if !self.forget_window() {
            return;
        }
        let code = &raw mut self.tables[View::Window as usize].code;
        // SAFETY: whole pages of this area's own, private and anonymous, which become zeroes: empty
        // tables that are still to be prepared.
        unsafe { libc::madvise(code.cast(), size_of::<CodeTables>(), libc::MADV_DONTNEED) };
    }

    fn map(shared: Arc<File>) -> std::io::Result<OwnedArea> {
        let size = size_of::<Area>();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let own = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping wherever the host likes.
        let at = unsafe { libc::mmap(null_mut(), size, access, own, -1, 0) };
        let error = std::io::Error::last_os_error;
        if at == libc::MAP_FAILED {
            return Err(error());
        }
        let at = NonNull::new(at.cast::<Area>()).ok_or_else(error)?;
        // Unmaps it if what follows fails.
        let area = OwnedArea { at, shared };
        for part in shared_parts() {
            // SAFETY: inside the mapping just made, which nobody else knows.
            let mapped = unsafe {
                let place = at.as_ptr().cast::<u8>().add(part.start).cast();
                let how = libc::MAP_SHARED | libc::MAP_FIXED;
                let file = area.shared.as_raw_fd();
                libc::mmap(place, part.len(), access, how, file, part.start as i64)
            };
            if mapped == libc::MAP_FAILED {
                return Err(error());
            }
        }
        Ok(area)
    }
}

/// The parts of an area that all areas of a processor have in common.
fn shared_parts() -> impl Iterator<Item = Range<usize>> {
    const { assert!(align_of::<Area>() == 4096 && size_of::<CodeTables>().is_multiple_of(4096)) };
    View::ALL.into_iter().filter_map(|view| {
        let tables = offset_of!(Area, tables) + view as usize * size_of::<Tables>();
        let code = tables + offset_of!(Tables, code);
        let end = tables + size_of::<Tables>();
        match (view.shares_data(), view.shares_code()) {
            (true, true) => Some(tables..end),
            (false, true) => Some(code..end),
            _ => None,
        }
    })
}

/// A file in memory, of zeroes.
fn memory_file(size: usize) -> std::io::Result<File> {
    // SAFETY: a plain system call.
    let fd = unsafe { libc::memfd_create(c"moinho-bt-tables".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new file descriptor, nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size as u64)?;
    Ok(file)
}

impl Deref for OwnedArea {
    type Target = Area;
    fn deref(&self) -> &Area {
        // SAFETY: mapped for as long as this value lives; every field is made of integers and truth
        // values, of which zero is one. The parts that other areas share are not borrowed
        // by way of two of them at once: each function of an area looks at its own.
        unsafe { self.at.as_ref() }
    }
}

impl DerefMut for OwnedArea {
    fn deref_mut(&mut self) -> &mut Area {
        // SAFETY: as above.
        unsafe { self.at.as_mut() }
    }
}

impl Drop for OwnedArea {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; no translated code runs with it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), size_of::<Area>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::area::{CODE_PAGE_ENTRIES, TLB_ENTRIES, TlbEntry, other_tlb_slot, tlb_slot};
    use x86::mmu::Access;

    /// In the kernel's half of either code size.
    const PAGE: u64 = 0xffff_8000_8012_3000;

    fn entry(linear: u64) -> TlbEntry {
        TlbEntry {
            negated_page: linear.wrapping_neg(),
            host: 0x1000,
        }
    }

    fn enter(area: &mut Area, view: View, access: Access, linear: u64, global: bool) {
        let tables = &mut area.tables[view as usize];
        tables.data.enter_page(access, entry(linear));
        area.note_data(view, linear, global);
    }

    fn enter_code(area: &mut Area, view: View, linear: u64, global: bool) {
        let code = &mut area.tables[view as usize].code;
        code.enter_page(linear, 0x5000, Some(0x40));
        code.enter_branch(linear + 8, 0x6000);
        area.note_code(view, linear, global);
    }

    fn held(table: &[TlbEntry; TLB_ENTRIES]) -> usize {
        let used = |e: &&TlbEntry| e.host != TlbEntry::NONE.host;
        table.iter().filter(used).count()
    }

    fn branches(area: &Area, view: View) -> usize {
        let code = &area.tables[view as usize].code;
        let places = code.branch.iter().filter(|b| b.host != 0).count();
        let slot = (PAGE >> 12) as usize % CODE_PAGE_ENTRIES;
        let known = code.pages[slot].key == 0x5000 && code.guards[slot].wrapping_add(PAGE) == 0x40;
        assert_eq!(known, code.pages[slot].key != 0, "a guard without its page");
        places + usize::from(known)
    }

    /// Those that have a software TLB.
    fn views() -> impl Iterator<Item = View> {
        View::ALL.into_iter().filter(|view| view.data() == *view)
    }

    fn two() -> [OwnedArea; 2] {
        let mut first = OwnedArea::first([0; 2], 0, [0; VIEWS]).unwrap();
        first.prepare(true);
        let second = first.another().unwrap();
        [first, second]
    }

    fn go_on(from: &mut OwnedArea, to: &mut OwnedArea) {
        from.drop_local();
        to.follow(from);
        to.prepare(false);
        to.prepare(true);
    }

    #[test]
    fn the_next_address_space_has_the_kernels_global_pages_and_nothing_else() {
        let [mut first, mut second] = two();
        for view in views() {
            for access in [Access::Read, Access::Write] {
                enter(&mut first, view, access, PAGE, true);
                // A page of user space and one of the kernel's that this space has for itself.
                enter(&mut first, view, access, 0x40_0000, true);
                enter(&mut first, view, access, PAGE + 0x1000, false);
            }
            enter_code(&mut first, view, PAGE, true);
        }
        go_on(&mut first, &mut second);
        for view in views() {
            let tables = &second.tables[view as usize];
            let data = if view.shares_data() { 1 } else { 0 };
            assert_eq!(held(&tables.data.read), data, "{view:?}");
            assert_eq!(held(&tables.data.write), data, "{view:?}");
            let code = if view.is_user() { 0 } else { 2 };
            assert_eq!(branches(&second, view), code, "{view:?}");
        }
        // And the first, entered again, has its own as it was.
        go_on(&mut second, &mut first);
        let user = &first.tables[View::User as usize];
        assert_eq!(
            (held(&user.data.read), branches(&first, View::User)),
            (3, 2)
        );
    }

    #[test]
    fn more_own_pages_than_are_remembered_take_the_shared_ones_along() {
        let [mut first, mut second] = two();
        for n in 0..100 {
            enter(&mut first, View::Kernel, Access::Read, n << 12, true);
        }
        enter(&mut first, View::Kernel, Access::Read, PAGE, true);
        go_on(&mut first, &mut second);
        assert_eq!(held(&second.tables[View::Kernel as usize].data.read), 0);
    }

    #[test]
    fn branches_to_code_of_one_address_space_do_not_reach_the_next() {
        let [mut first, mut second] = two();
        enter_code(&mut first, View::Kernel, PAGE, true);
        enter_code(&mut first, View::KernelUser, 0x1000, true);
        go_on(&mut first, &mut second);
        for view in [View::Kernel, View::KernelUser] {
            assert_eq!(branches(&second, view), 0);
        }
    }

    #[test]
    fn another_mode_empties_the_branch_tables_of_an_area_that_did_not_see_it() {
        let [mut first, mut second] = two();
        enter_code(&mut second, View::User, PAGE, true);
        first.control = 1;
        enter_code(&mut first, View::Kernel, PAGE, true);
        go_on(&mut first, &mut second);
        assert_eq!(branches(&second, View::User), 0);
        assert_eq!((branches(&second, View::Kernel), second.control), (2, 1));
    }

    #[test]
    fn no_page_has_a_place_that_is_the_first_one_of_the_page_below() {
        let bases = (12..64).map(|bit| 1u64 << bit);
        for base in bases.chain([0, !0xfff]) {
            for page in 0..2 * TLB_ENTRIES as u64 {
                let page = base.wrapping_add(page << 12);
                let below = tlb_slot(page.wrapping_sub(0x1000));
                assert!(![tlb_slot(page), other_tlb_slot(page)].contains(&below));
                assert_ne!(tlb_slot(page), other_tlb_slot(page));
            }
        }
    }

    #[test]
    fn what_is_emptied_holds_nothing_that_has_moved_to_its_other_place() {
        let [mut first, mut second] = two();
        let rival = PAGE ^ (TLB_ENTRIES as u64) << 12;
        assert_eq!(tlb_slot(PAGE), tlb_slot(rival));
        enter(&mut first, View::Kernel, Access::Write, PAGE, true);
        go_on(&mut first, &mut second);
        enter(&mut second, View::Kernel, Access::Write, rival, true);
        let write = &second.tables[View::Kernel as usize].data.write;
        let moved = write[other_tlb_slot(PAGE)];
        assert_eq!(moved.negated_page, entry(PAGE).negated_page);
        assert_eq!(held(write), 2);
        enter_code(&mut second, View::Kernel, PAGE, true);
        second.flush_own();
        assert_eq!(held(&second.tables[View::Kernel as usize].data.write), 2);
        second.flush_shared();
        for area in [&first, &second] {
            assert_eq!(held(&area.tables[View::Kernel as usize].data.write), 0);
            assert_eq!(branches(area, View::Kernel), 0);
        }
    }
}
