//! Every ioctl, the page that the kernel shares with each processor, and the signal that brings a
//! processor out of the guest. Linux `Documentation/virt/kvm/api.rst`. Called by `vcpu` and the
//! crate's head; all that is unsafe in this crate is here.

use crate::convert::{KVM_MSRS, SPECULATION_MSRS};
use kvm_bindings::*;
use kvm_ioctls::{
    Cap, Kvm, MsrExitReason, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd,
    VmFd,
};
use mem::{GuestMemory, HostRegion, PAGE_SIZE, RamOffset};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use x86::cpuid::{CpuModel, View};

type Errno = kvm_ioctls::Error;

/// Why KVM cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// There is no `/dev/kvm`.
    Absent,
    /// We may not open it.
    Forbidden,
    /// The kernel's KVM lacks something; its name.
    Lacks(&'static str),
    /// Another error; its text.
    Refused(String),
}

impl OpenError {
    /// What the user can do.
    pub fn way_out(&self) -> &'static str {
        match self {
            OpenError::Absent => {
                "load the module kvm_amd or kvm_intel; in a virtual machine its host must switch nested virtualization on; in a container pass the device in"
            }
            OpenError::Forbidden => "join the group kvm, or let root permit /dev/kvm",
            OpenError::Lacks(_) => "use Linux 5.10 or newer",
            OpenError::Refused(_) => "see the kernel's log",
        }
    }
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenError::Absent => f.write_str("there is no /dev/kvm"),
            OpenError::Forbidden => f.write_str("no permission to open /dev/kvm"),
            OpenError::Lacks(what) => write!(f, "this kernel's KVM has no {what}"),
            OpenError::Refused(why) => write!(f, "/dev/kvm: {why}"),
        }
    }
}

impl std::error::Error for OpenError {}

fn refused(what: &str) -> impl Fn(Errno) -> String + '_ {
    move |e| format!("{what}: {e}")
}

/// A virtual machine of the kernel: memory slots and processors.
pub(crate) struct Vm {
    fd: VmFd,
    /// What KVM can give a guest on this host.
    supported: CpuId,
    /// IA32_ARCH_CAPABILITIES as KVM can give it to a guest on this host.
    pub(crate) capabilities: u64,
    /// The memory in the slots. It must outlive the machine: the slots name host addresses.
    memory: Mutex<Option<Placed>>,
    /// How the kernel logs dirty pages.
    dirty_log: DirtyLog,
    /// Of every processor there is.
    rings: Mutex<Vec<Weak<Ring>>>,
    /// KVM_CLEAR_DIRTY_LOG makes logged pages clean again; else KVM_GET_DIRTY_LOG does.
    clears: bool,
    /// The TSC offset of every processor, so that all TSCs of the machine are one.
    tsc_offset: Mutex<Option<u64>>,
    readonly_slots: bool,
    sregs2: bool,
}

/// Memory in slots: of each, its number is its place here.
struct Placed {
    memory: Arc<GuestMemory>,
    slots: Vec<HostRegion>,
}

/// Ways of the kernel to log dirty pages. Linux `Documentation/virt/kvm/api.rst`,
/// "KVM_GET_DIRTY_LOG", "KVM_CAP_DIRTY_LOG_RING".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyLog {
    /// A ring of page numbers for each processor: to take the log costs what is in it.
    Ring,
    /// A bitmap for each memory slot: to take the log costs a look at every page.
    Bitmap,
}

/// Entries of a processor's ring, 16 bytes each. When it is full the guest is left.
const RING_ENTRIES: usize = 4096;
const RING_BYTES: usize = RING_ENTRIES * size_of::<kvm_dirty_gfn>();
/// The kernel has filled the entry in; we have taken it.
const RING_DIRTY: u32 = 1;
const RING_TAKEN: u32 = 2;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where KVM may put three pages of its own (Intel without unrestricted guests): below the
/// firmware, where no board has RAM.
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TSS: usize = 0xfeff_d000;

impl Vm {
    /// `wanted`: how dirty pages are to be logged; the bitmap is always there.
    pub(crate) fn open(wanted: DirtyLog) -> Result<Vm, OpenError> {
        let kvm = Kvm::new().map_err(|e| match e.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => OpenError::Absent,
            libc::EACCES | libc::EPERM => OpenError::Forbidden,
            _ => OpenError::Refused(e.to_string()),
        })?;
        if kvm.get_api_version() != KVM_API_VERSION as i32 {
            return Err(OpenError::Lacks("API version 12"));
        }
        for (cap, name) in [
            (KVM_CAP_USER_MEMORY, "memory slots"),
            (KVM_CAP_IMMEDIATE_EXIT, "immediate exit"),
            (KVM_CAP_VCPU_EVENTS, "processor events"),
            (KVM_CAP_DEBUGREGS, "debug registers"),
            (KVM_CAP_XSAVE, "extended state"),
            (KVM_CAP_X86_USER_SPACE_MSR, "MSR exits"),
            (KVM_CAP_X86_MSR_FILTER, "MSR filter"),
        ] {
            if kvm.check_extension_raw(cap.into()) <= 0 {
                return Err(OpenError::Lacks(name));
            }
        }
        let text = |what: &'static str| move |e| OpenError::Refused(refused(what)(e));
        let fd = kvm.create_vm().map_err(text("KVM_CREATE_VM"))?;
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(text("KVM_GET_SUPPORTED_CPUID"))?;
        let speculation = host_cpuid(&supported, 7, 0)[3] >> 26 & 1 != 0;
        filter_msrs(&fd, speculation).map_err(text("KVM_X86_SET_MSR_FILTER"))?;
        // Behaviour that no processor has: MWAIT without a fault, patched hypercalls, and the like.
        let quirks = kvm.check_extension_raw(KVM_CAP_DISABLE_QUIRKS2.into());
        if quirks > 0 {
            let mut cap = kvm_enable_cap {
                cap: KVM_CAP_DISABLE_QUIRKS2,
                ..Default::default()
            };
            cap.args[0] = quirks as u64;
            let _ = fd.enable_cap(&cap);
        }
        // Where this fails KVM_GET_DIRTY_LOG clears what it gives.
        let clears = kvm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into()) > 0 && {
            let mut cap = kvm_enable_cap {
                cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                ..Default::default()
            };
            cap.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE.into();
            fd.enable_cap(&cap).is_ok()
        };
        // Before there is a processor; without logged slots it costs nothing but its memory.
        let has_ring = wanted == DirtyLog::Ring
            && [KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING]
                .into_iter()
                .any(|ring| {
                    let mut cap = kvm_enable_cap {
                        cap: ring,
                        ..Default::default()
                    };
                    cap.args[0] = RING_BYTES as u64;
                    kvm.check_extension_raw(ring.into()) >= RING_BYTES as i32
                        && fd.enable_cap(&cap).is_ok()
                });
        // AMD needs neither and says nothing against it.
        let _ = fd.set_identity_map_address(IDENTITY_MAP);
        let _ = fd.set_tss_address(TSS);
        Ok(Vm {
            supported,
            capabilities: host_capabilities(&kvm),
            memory: Mutex::new(None),
            dirty_log: if has_ring {
                DirtyLog::Ring
            } else {
                DirtyLog::Bitmap
            },
            clears,
            rings: Mutex::default(),
            tsc_offset: Mutex::new(None),
            readonly_slots: fd.check_extension(Cap::ReadonlyMem),
            sregs2: kvm.check_extension_raw(KVM_CAP_SREGS2.into()) > 0,
            fd,
        })
    }

    /// CPUID as KVM can give it to a guest here: EAX, EBX, ECX, EDX.
    pub(crate) fn host_cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        host_cpuid(&self.supported, leaf, subleaf)
    }

    /// Puts `memory` into the slots; the same memory again is no error.
    pub(crate) fn place(&self, memory: &Arc<GuestMemory>) -> Result<(), String> {
        let mut placed = locked(&self.memory);
        if let Some(before) = &*placed {
            return if Arc::ptr_eq(&before.memory, memory) {
                Ok(())
            } else {
                Err("this KVM machine has another memory already".into())
            };
        }
        let slots: Vec<HostRegion> = memory.host_regions().collect();
        for (number, region) in slots.iter().enumerate() {
            if !region.writable && !self.readonly_slots {
                return Err("this kernel's KVM has no read-only memory".into());
            }
            self.set_slot(number, region, false)?;
        }
        let memory = memory.clone();
        *placed = Some(Placed { memory, slots });
        Ok(())
    }

    /// Makes a slot, or switches its log of dirty pages.
    fn set_slot(&self, number: usize, region: &HostRegion, logged: bool) -> Result<(), String> {
        let flags = match (region.writable, logged) {
            (false, _) => KVM_MEM_READONLY,
            (true, true) => KVM_MEM_LOG_DIRTY_PAGES,
            (true, false) => 0,
        };
        let slot = kvm_userspace_memory_region {
            slot: number as u32,
            flags,
            guest_phys_addr: region.gpa.0,
            memory_size: region.len,
            userspace_addr: region.host,
        };
        // SAFETY: the range is the region's for as long as the memory lives, which `self.memory`
        // and every `Processor` (through its `Vm`) keep; RAM never moves, and nobody holds a
        // Rust reference into it.
        unsafe { self.fd.set_user_memory_region(slot) }
            .map_err(refused("KVM_SET_USER_MEMORY_REGION"))
    }

    pub(crate) fn dirty_log(&self) -> DirtyLog {
        self.dirty_log
    }

    /// Begins or ends the kernel's log for all RAM. No processor may be running.
    pub(crate) fn log_dirty(&self, on: bool) -> Result<(), String> {
        let placed = locked(&self.memory);
        let Some(Placed { slots, .. }) = &*placed else {
            return Err("this KVM machine has no memory yet".into());
        };
        for (number, region) in slots.iter().enumerate().filter(|(_, r)| r.writable) {
            self.set_slot(number, region, on)?;
        }
        drop(placed);
        // The bitmap begins anew; a ring keeps what it has.
        match self.dirty_log {
            DirtyLog::Bitmap => Ok(()),
            DirtyLog::Ring => self.collect_dirty(),
        }
    }

    /// Tells the memory what the kernel's bitmaps hold, and makes those pages clean in them. No
    /// processor may be running.
    fn collect_bitmaps(&self) -> Result<(), String> {
        let placed = locked(&self.memory);
        let Some(Placed { memory, slots }) = &*placed else {
            return Err("this KVM machine has no memory yet".into());
        };
        for (number, region) in slots.iter().enumerate().filter(|(_, r)| r.writable) {
            let mut bitmap = self
                .fd
                .get_dirty_log(number as u32, region.len as usize)
                .map_err(refused("KVM_GET_DIRTY_LOG"))?;
            for (n, word) in bitmap.iter().enumerate() {
                let mut bits = *word;
                while bits != 0 {
                    let page = n as u64 * 64 + u64::from(bits.trailing_zeros());
                    bits &= bits - 1;
                    memory.set_dirty(RamOffset(region.at.0 + page * PAGE_SIZE));
                }
            }
            if self.clears {
                let mut clear = kvm_clear_dirty_log {
                    slot: number as u32,
                    num_pages: (region.len / PAGE_SIZE) as u32,
                    first_page: 0,
                    __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
                        dirty_bitmap: bitmap.as_mut_ptr().cast(),
                    },
                };
                let request = request::<kvm_clear_dirty_log>(READ | WRITE, 0xc0);
                // SAFETY: the bitmap has a bit for each page of the slot, and outlives the call.
                let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), request as _, &mut clear) };
                if done < 0 {
                    let why = std::io::Error::last_os_error();
                    return Err(format!("KVM_CLEAR_DIRTY_LOG: {why}"));
                }
            }
        }
        Ok(())
    }

    /// The page that a ring's entry names, if it is one of ours.
    fn logged_page(&self, slot: u32, offset: u64) -> Option<(Arc<GuestMemory>, RamOffset)> {
        let placed = locked(&self.memory);
        let Placed { memory, slots } = placed.as_ref()?;
        let region = slots.get(slot as usize)?;
        let into = offset.checked_mul(PAGE_SIZE).filter(|o| *o < region.len)?;
        Some((memory.clone(), RamOffset(region.at.0 + into)))
    }

    /// Takes the kernel's log into the memory's, by whichever way. No processor may be running.
    pub(crate) fn collect_dirty(&self) -> Result<(), String> {
        match self.dirty_log {
            DirtyLog::Bitmap => self.collect_bitmaps(),
            DirtyLog::Ring => {
                let mut rings = locked(&self.rings);
                rings.retain(|ring| ring.strong_count() > 0);
                for ring in rings.iter().filter_map(Weak::upgrade) {
                    ring.collect(self);
                }
                self.reset_rings()
            }
        }
    }

    /// Makes the entries that were taken from rings free again, and their pages clean.
    fn reset_rings(&self) -> Result<(), String> {
        // SAFETY: KVM_RESET_DIRTY_RINGS takes no argument.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), request_plain(0xc7) as _, 0) };
        match done {
            0.. => Ok(()),
            _ => Err(format!(
                "KVM_RESET_DIRTY_RINGS: {}",
                std::io::Error::last_os_error()
            )),
        }
    }

    pub(crate) fn processor(self: &Arc<Vm>, id: u32) -> Result<Processor, String> {
        let mut fd = self
            .fd
            .create_vcpu(id.into())
            .map_err(refused("KVM_CREATE_VCPU"))?;
        let run: *mut kvm_run = fd.get_kvm_run();
        // SAFETY: `run` points to the mapped page; only the field's address is taken.
        let immediate_exit = unsafe { &raw mut (*run).immediate_exit };
        install_handler();
        let ring = match self.dirty_log {
            DirtyLog::Ring => {
                let ring = Arc::new(Ring::map(&fd)?);
                locked(&self.rings).push(Arc::downgrade(&ring));
                Some(ring)
            }
            DirtyLog::Bitmap => None,
        };
        Ok(Processor {
            fd,
            ring,
            kicker: Arc::new(Kicker {
                inside: AtomicBool::new(false),
                target: Mutex::new(Some(Target {
                    immediate_exit: immediate_exit.cast(),
                    thread: 0,
                })),
            }),
            thread: 0,
            has_tsc_offset: None,
            vm: self.clone(),
        })
    }
}

fn host_cpuid(supported: &CpuId, leaf: u32, subleaf: u32) -> [u32; 4] {
    supported
        .as_slice()
        .iter()
        .find(|e| e.function == leaf && e.index == subleaf)
        .map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
}

/// IA32_ARCH_CAPABILITIES, a feature MSR ("KVM_GET_MSR_FEATURE_INDEX_LIST"). Where KVM says nothing
/// of it, no immunity is known.
fn host_capabilities(kvm: &Kvm) -> u64 {
    let entry = kvm_msr_entry {
        index: 0x10a,
        ..Default::default()
    };
    let told = Msrs::from_entries(&[entry]).map(|mut list| match kvm.get_msrs(&mut list) {
        Ok(1) => list.as_slice()[0].data,
        _ => 0,
    });
    told.unwrap_or(0)
}

/// Lets the guest at the registers that KVM holds; every other access comes out to us. Of those of
/// speculation KVM may hold something without the feature (`speculation`), too, and no guest has
/// them then. KVM takes
/// the x2APIC's registers (0x800–0x8ff) from the filter, and refuses them for lack of an APIC of
/// its own: they come out as invalid.
fn filter_msrs(vm: &VmFd, speculation: bool) -> Result<(), Errno> {
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        ..Default::default()
    };
    let reasons = MsrExitReason::Unknown | MsrExitReason::Inval | MsrExitReason::Filter;
    cap.args[0] = reasons.bits().into();
    vm.enable_cap(&cap)?;
    // Ranges of 512 registers, a bit each.
    let bases = [0u32, 0x200, 0xc000_0000];
    let mut bitmaps = [[0u8; 64]; 3];
    let open = KVM_MSRS
        .iter()
        .filter(|msr| speculation || !SPECULATION_MSRS.contains(msr));
    for &msr in open {
        for (base, bitmap) in bases.iter().zip(&mut bitmaps) {
            let bit = msr.wrapping_sub(*base) as usize;
            if bit < 512 {
                bitmap[bit / 8] |= 1 << (bit % 8);
            }
        }
    }
    let ranges: Vec<MsrFilterRange<'_>> = bases
        .iter()
        .zip(&bitmaps)
        .map(|(&base, bitmap)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base,
            msr_count: 512,
            bitmap,
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
}

/// Why the guest was left. What it asks for is answered through [`Processor`], and takes effect
/// when the guest is entered again.
#[derive(Debug)]
pub(crate) enum Exit {
    /// Port access: `count` values of `size` bytes in [`Processor::io_data`].
    Io {
        port: u16,
        size: u8,
        count: u32,
        write: bool,
    },
    /// Memory access of `len` bytes.
    Mmio {
        at: u64,
        len: u8,
        write: Option<u64>,
    },
    /// RDMSR.
    ReadMsr(u32),
    /// WRMSR.
    WriteMsr(u32, u64),
    Halt,
    /// Interrupts can be injected now.
    Window,
    /// CR8 was lowered.
    Tpr,
    /// A kick.
    Interrupted,
    Shutdown,
    /// KVM met an instruction that it cannot emulate.
    Emulation,
    Debug,
    /// The ring of dirty pages is full.
    RingFull,
    /// Anything else.
    Failed(String),
}

/// Brings a processor out of the guest, from any thread.
pub(crate) struct Kicker {
    /// The processor is in KVM_RUN or about to be, and has looked at its pins after saying so.
    inside: AtomicBool,
    target: Mutex<Option<Target>>,
}

struct Target {
    /// In the shared page; valid while the processor exists, which takes the target away first.
    immediate_exit: *const AtomicU8,
    /// The thread that runs it.
    thread: libc::pid_t,
}

// SAFETY: the pointer is to a byte that is only accessed atomically from here, and by the kernel.
unsafe impl Send for Target {}

impl Kicker {
    pub(crate) fn kick(&self) {
        fence(Ordering::SeqCst);
        if !self.inside.load(Ordering::SeqCst) {
            return;
        }
        if let Some(target) = &*locked(&self.target) {
            // SAFETY: the page is mapped, see `Target`.
            unsafe { &*target.immediate_exit }.store(1, Ordering::SeqCst);
            // SAFETY: sends a signal, for which a handler is installed, to a thread of ours.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), target.thread, signal()) };
        }
    }
}

/// The signal that interrupts KVM_RUN: of the real-time ones, which nobody sends by accident.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 3
}

extern "C" fn on_signal(_: libc::c_int) {}

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as *const () as usize;
        // KVM_RUN returns all the same; other system calls of the thread go on.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler does nothing, so it may run at any time.
        unsafe { libc::sigaction(signal(), &action, std::ptr::null_mut()) };
    });
}

/// A processor of the kernel.
pub(crate) struct Processor {
    fd: VcpuFd,
    kicker: Arc<Kicker>,
    thread: libc::pid_t,
    ring: Option<Arc<Ring>>,
    has_tsc_offset: Option<bool>,
    /// After `fd`: dropped after it, with the memory.
    vm: Arc<Vm>,
}

// SAFETY: of `VcpuFd` only the pointer to the shared page keeps it from being sent, and the page
// is the processor's own, used by the thread that has it (and by `Kicker`, atomically).
unsafe impl Send for Processor {}

impl Drop for Processor {
    fn drop(&mut self) {
        *locked(&self.kicker.target) = None;
    }
}

/// A processor's ring of dirty pages, shared with the kernel, which fills it while the processor
/// is in the guest.
pub(crate) struct Ring {
    entries: NonNull<kvm_dirty_gfn>,
    /// The entry that comes next.
    next: Mutex<usize>,
}

// SAFETY: the entries are only accessed under the lock of `next`, and by the kernel, whose
// changes the flags of each entry announce.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn map(fd: &VcpuFd) -> Result<Ring, String> {
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                RING_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                (u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE) as libc::off_t,
            )
        };
        match NonNull::new(at.cast()) {
            Some(entries) if at != libc::MAP_FAILED => Ok(Ring {
                entries,
                next: Mutex::new(0),
            }),
            _ => Err(format!(
                "the ring of dirty pages: {}",
                std::io::Error::last_os_error()
            )),
        }
    }

    /// Tells the memory of `vm` what the ring holds, and empties it; how many entries that was.
    fn collect(&self, vm: &Vm) -> usize {
        let mut next = locked(&self.next);
        let first = *next;
        loop {
            // SAFETY: inside the mapping of RING_ENTRIES entries.
            let entry = unsafe { self.entries.as_ptr().add(*next % RING_ENTRIES) };
            // SAFETY: as above; the flags are only accessed atomically, here and by the kernel.
            let flags = unsafe { AtomicU32::from_ptr(&raw mut (*entry).flags) };
            if flags.load(Ordering::Acquire) & KVM_DIRTY_GFN_F_MASK != RING_DIRTY {
                return *next - first;
            }
            // SAFETY: as above; the kernel leaves a dirty entry alone until it is taken.
            let (slot, offset) = unsafe { ((*entry).slot, (*entry).offset) };
            if let Some((memory, page)) = vm.logged_page(slot, offset) {
                memory.set_dirty(page);
            }
            flags.store(RING_TAKEN, Ordering::Release);
            *next += 1;
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), RING_BYTES) };
    }
}

/// `_IOC`: direction, size, number within KVM's 0xae.
const fn request<T>(direction: u64, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | 0xae << 8 | number
}
/// Likewise, without an argument.
const fn request_plain(number: u64) -> u64 {
    0xae << 8 | number
}
const WRITE: u64 = 1;
const READ: u64 = 2;

impl Processor {
    pub(crate) fn kicker(&self) -> Arc<Kicker> {
        self.kicker.clone()
    }

    /// An ioctl that kvm-ioctls does not have.
    ///
    /// # Safety
    /// `number` takes a pointer to a `T`, and what `T` points to is valid.
    unsafe fn ioctl<T>(&self, request: u64, argument: &mut T) -> Result<(), String> {
        // SAFETY: the caller's promise.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), request as _, argument) };
        if result < 0 {
            Err(std::io::Error::last_os_error().to_string())
        } else {
            Ok(())
        }
    }

    /// The host's rate of the guest's TSC, in Hz.
    pub(crate) fn tsc_hz(&self) -> Option<u64> {
        Some(u64::from(self.fd.get_tsc_khz().ok()?) * 1000)
    }

    /// Scales the TSC; an error if the host cannot.
    pub(crate) fn set_tsc_hz(&self, hz: u64) -> Result<(), String> {
        let khz = (hz / 1000) as u32;
        if self.fd.get_tsc_khz() == Ok(khz) {
            return Ok(());
        }
        // Without scaling hardware KVM accepts higher rates, and then lets the TSC jump.
        if !self.vm.fd.check_extension(Cap::TscControl) {
            return Err("no TSC scaling".into());
        }
        self.fd.set_tsc_khz(khz).map_err(refused("KVM_SET_TSC_KHZ"))
    }

    /// Gives the guest `model`'s CPUID.
    pub(crate) fn set_cpuid(&self, model: &CpuModel, id: u32) -> Result<(), String> {
        let view = View {
            id,
            osxsave: false,
            xcr0: 1,
        };
        let entries: Vec<kvm_cpuid_entry2> = CpuModel::leaves()
            .map(|(leaf, subleaf)| {
                let [eax, ebx, ecx, edx] = model.cpuid(leaf, subleaf, &view);
                let indexed = matches!(leaf, 4 | 7 | 0xb | 0xd);
                kvm_cpuid_entry2 {
                    function: leaf,
                    index: subleaf,
                    flags: if indexed {
                        KVM_CPUID_FLAG_SIGNIFCANT_INDEX
                    } else {
                        0
                    },
                    eax,
                    ebx,
                    ecx,
                    edx,
                    padding: [0; 3],
                }
            })
            .collect();
        let table = CpuId::from_entries(&entries).map_err(|e| format!("CPUID: {e:?}"))?;
        self.fd
            .set_cpuid2(&table)
            .map_err(refused("KVM_SET_CPUID2"))
    }

    pub(crate) fn regs(&self) -> Result<kvm_regs, String> {
        self.fd.get_regs().map_err(refused("KVM_GET_REGS"))
    }
    pub(crate) fn set_regs(&self, regs: &kvm_regs) -> Result<(), String> {
        self.fd.set_regs(regs).map_err(refused("KVM_SET_REGS"))
    }

    pub(crate) fn sregs(&self) -> Result<kvm_sregs2, String> {
        if self.vm.sregs2 {
            let mut k = kvm_sregs2::default();
            // SAFETY: KVM_GET_SREGS2 fills this structure.
            unsafe { self.ioctl(request::<kvm_sregs2>(READ, 0xcc), &mut k) }
                .map_err(|e| format!("KVM_GET_SREGS2: {e}"))?;
            return Ok(k);
        }
        let k = self.fd.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
        Ok(kvm_sregs2 {
            cs: k.cs,
            ds: k.ds,
            es: k.es,
            fs: k.fs,
            gs: k.gs,
            ss: k.ss,
            tr: k.tr,
            ldt: k.ldt,
            gdt: k.gdt,
            idt: k.idt,
            cr0: k.cr0,
            cr2: k.cr2,
            cr3: k.cr3,
            cr4: k.cr4,
            cr8: k.cr8,
            efer: k.efer,
            apic_base: k.apic_base,
            flags: 0,
            pdptrs: [0; 4],
        })
    }

    pub(crate) fn set_sregs(&self, k: &kvm_sregs2) -> Result<(), String> {
        if self.vm.sregs2 {
            let mut k = *k;
            // SAFETY: KVM_SET_SREGS2 reads this structure.
            return unsafe { self.ioctl(request::<kvm_sregs2>(WRITE, 0xcd), &mut k) }
                .map_err(|e| format!("KVM_SET_SREGS2: {e}"));
        }
        // An older kernel reads the PDPTEs from memory.
        let k = kvm_sregs {
            cs: k.cs,
            ds: k.ds,
            es: k.es,
            fs: k.fs,
            gs: k.gs,
            ss: k.ss,
            tr: k.tr,
            ldt: k.ldt,
            gdt: k.gdt,
            idt: k.idt,
            cr0: k.cr0,
            cr2: k.cr2,
            cr3: k.cr3,
            cr4: k.cr4,
            cr8: k.cr8,
            efer: k.efer,
            apic_base: k.apic_base,
            interrupt_bitmap: [0; 4],
        };
        self.fd.set_sregs(&k).map_err(refused("KVM_SET_SREGS"))
    }

    pub(crate) fn xsave(&self) -> Result<kvm_xsave, String> {
        self.fd.get_xsave().map_err(refused("KVM_GET_XSAVE"))
    }
    pub(crate) fn set_xsave(&self, k: &kvm_xsave) -> Result<(), String> {
        // SAFETY: KVM_SET_XSAVE reads more than the structure's 4096 bytes only for a guest that
        // was granted dynamic components (AMX) by arch_prctl, which we never ask for.
        unsafe { self.fd.set_xsave(k) }.map_err(refused("KVM_SET_XSAVE"))
    }

    pub(crate) fn xcr0(&self) -> Result<u64, String> {
        let k = self.fd.get_xcrs().map_err(refused("KVM_GET_XCRS"))?;
        let count = (k.nr_xcrs as usize).min(k.xcrs.len());
        let found = k.xcrs[..count].iter().find(|x| x.xcr == 0);
        Ok(found.map_or(1, |x| x.value))
    }
    pub(crate) fn set_xcr0(&self, value: u64) -> Result<(), String> {
        let mut k = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        k.xcrs[0].value = value;
        self.fd.set_xcrs(&k).map_err(refused("KVM_SET_XCRS"))
    }

    pub(crate) fn debug_registers(&self) -> Result<kvm_debugregs, String> {
        self.fd
            .get_debug_regs()
            .map_err(refused("KVM_GET_DEBUGREGS"))
    }
    pub(crate) fn set_debug_registers(&self, k: &kvm_debugregs) -> Result<(), String> {
        self.fd
            .set_debug_regs(k)
            .map_err(refused("KVM_SET_DEBUGREGS"))
    }

    pub(crate) fn events(&self) -> Result<kvm_vcpu_events, String> {
        self.fd
            .get_vcpu_events()
            .map_err(refused("KVM_GET_VCPU_EVENTS"))
    }
    pub(crate) fn set_events(&self, k: &kvm_vcpu_events) -> Result<(), String> {
        self.fd
            .set_vcpu_events(k)
            .map_err(refused("KVM_SET_VCPU_EVENTS"))
    }

    /// The values of the registers in `list`, in place.
    pub(crate) fn get_msrs(&self, list: &mut [(u32, u64)]) -> Result<(), String> {
        let mut msrs = entries(list)?;
        let done = self
            .fd
            .get_msrs(&mut msrs)
            .map_err(refused("KVM_GET_MSRS"))?;
        if let Some((index, _)) = list.get(done) {
            return Err(format!("KVM_GET_MSRS: no MSR {index:#x}"));
        }
        for (entry, (_, value)) in msrs.as_slice().iter().zip(list) {
            *value = entry.data;
        }
        Ok(())
    }
    pub(crate) fn set_msrs(&self, list: &[(u32, u64)]) -> Result<(), String> {
        let done = self
            .fd
            .set_msrs(&entries(list)?)
            .map_err(refused("KVM_SET_MSRS"))?;
        match list.get(done) {
            Some((index, value)) => Err(format!("KVM_SET_MSRS: MSR {index:#x} = {value:#x}")),
            None => Ok(()),
        }
    }

    /// Lets the guest's TSC show `tsc` now. All processors of the machine get one offset: the
    /// first to come sets it, and a later one follows if it would differ by less than `slack`.
    pub(crate) fn set_tsc(&mut self, tsc: u64, adjust: u64, slack: u64) -> Result<(), String> {
        let mut shown = [(crate::convert::IA32_TSC, 0)];
        let offset = match self.tsc_offset() {
            Some(offset) => {
                self.get_msrs(&mut shown)?;
                offset
            }
            None => {
                return self.set_msrs(&[(crate::convert::IA32_TSC, tsc.wrapping_add(adjust))]);
            }
        };
        // `offset` and what is shown may hold an adjustment from before; their difference does not.
        let fresh = offset.wrapping_add(tsc.wrapping_sub(shown[0].1));
        let mut common = locked(&self.vm.tsc_offset);
        let base = match *common {
            Some(common) if fresh.wrapping_sub(common).wrapping_add(slack) < 2 * slack => common,
            _ => *common.insert(fresh),
        };
        drop(common);
        self.set_tsc_offset(base.wrapping_add(adjust))
    }

    /// The offset of the guest's TSC to the host's (scaled); `None` before Linux 5.16.
    fn tsc_offset(&mut self) -> Option<u64> {
        if self.has_tsc_offset == Some(false) {
            return None;
        }
        let mut offset = 0u64;
        let done = self.tsc_attribute(READ_ATTRIBUTE, &mut offset).is_ok();
        self.has_tsc_offset = Some(done);
        done.then_some(offset)
    }

    fn set_tsc_offset(&mut self, mut offset: u64) -> Result<(), String> {
        self.tsc_attribute(WRITE_ATTRIBUTE, &mut offset)
            .map_err(|e| format!("KVM_VCPU_TSC_OFFSET: {e}"))
    }

    fn tsc_attribute(&self, number: u64, value: &mut u64) -> Result<(), String> {
        let mut attribute = kvm_device_attr {
            flags: 0,
            group: KVM_VCPU_TSC_CTRL,
            attr: KVM_VCPU_TSC_OFFSET.into(),
            addr: value as *mut u64 as u64,
        };
        // SAFETY: the attribute is a u64 that the kernel reads or writes at `addr`.
        unsafe { self.ioctl(request::<kvm_device_attr>(WRITE, number), &mut attribute) }
    }

    /// Queues an external interrupt; only when [`Self::ready`].
    pub(crate) fn interrupt(&self, vector: u8) -> Result<(), String> {
        let mut argument = u32::from(vector);
        // SAFETY: struct kvm_interrupt is one u32.
        unsafe { self.ioctl(request::<u32>(WRITE, 0x86), &mut argument) }
            .map_err(|e| format!("KVM_INTERRUPT: {e}"))
    }

    pub(crate) fn nmi(&self) -> Result<(), String> {
        self.fd.nmi().map_err(refused("KVM_NMI"))
    }

    /// An external interrupt can be queued, as of the last exit.
    pub(crate) fn ready(&mut self) -> bool {
        self.fd.get_kvm_run().ready_for_interrupt_injection != 0
    }
    /// RFLAGS.IF as of the last exit.
    pub(crate) fn interrupts_enabled(&mut self) -> bool {
        self.fd.get_kvm_run().if_flag != 0
    }
    /// CR8 as of the last exit.
    pub(crate) fn cr8(&mut self) -> u8 {
        (self.fd.get_kvm_run().cr8 & 15) as u8
    }

    /// Binds the processor to this thread, which runs it from now on.
    pub(crate) fn adopt(&mut self) {
        // SAFETY: no arguments, no memory.
        let thread = unsafe { libc::gettid() };
        if self.thread != thread {
            self.thread = thread;
            if let Some(target) = &mut *locked(&self.kicker.target) {
                target.thread = thread;
            }
        }
    }

    /// Enters the guest unless `blocked` says otherwise, after which every kick brings it out.
    /// `window`: leave when an interrupt can be injected.
    pub(crate) fn run(
        &mut self,
        cr8: u8,
        window: bool,
        blocked: impl FnOnce() -> bool,
    ) -> Option<Exit> {
        let run = self.fd.get_kvm_run();
        run.cr8 = cr8.into();
        run.request_interrupt_window = window.into();
        self.set_immediate_exit(0);
        self.kicker.inside.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let exit = if blocked() { None } else { Some(self.enter()) };
        self.kicker.inside.store(false, Ordering::SeqCst);
        exit
    }

    /// Lets KVM finish the access that the last exit asked for, without running the guest.
    pub(crate) fn complete(&mut self) -> Exit {
        self.set_immediate_exit(1);
        self.enter()
    }

    fn set_immediate_exit(&mut self, value: u8) {
        let field = &raw mut self.fd.get_kvm_run().immediate_exit;
        // SAFETY: the page is mapped as long as `fd` lives; the byte is shared with `Kicker`.
        unsafe { AtomicU8::from_ptr(field) }.store(value, Ordering::SeqCst);
    }

    fn enter(&mut self) -> Exit {
        let failed = match self.fd.run() {
            Ok(_) => None,
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {
                return Exit::Interrupted;
            }
            Err(e) => Some(e),
        };
        if let Some(e) = failed {
            return Exit::Failed(format!("KVM_RUN: {e}"));
        }
        let run = self.fd.get_kvm_run();
        let what = &run.__bindgen_anon_1;
        // SAFETY (here and below): the kernel's exit reason says which member it has filled.
        match run.exit_reason {
            KVM_EXIT_IO => {
                let io = unsafe { what.io };
                Exit::Io {
                    port: io.port,
                    size: io.size,
                    count: io.count,
                    write: u32::from(io.direction) == KVM_EXIT_IO_OUT,
                }
            }
            KVM_EXIT_MMIO => {
                // SAFETY: as above.
                let mmio = unsafe { what.mmio };
                let value = u64::from_le_bytes(mmio.data);
                Exit::Mmio {
                    at: mmio.phys_addr,
                    len: mmio.len.clamp(1, 8) as u8,
                    write: (mmio.is_write != 0).then_some(value),
                }
            }
            KVM_EXIT_X86_RDMSR => {
                // SAFETY: as above.
                let msr = unsafe { what.msr };
                Exit::ReadMsr(msr.index)
            }
            KVM_EXIT_X86_WRMSR => {
                // SAFETY: as above.
                let msr = unsafe { what.msr };
                Exit::WriteMsr(msr.index, msr.data)
            }
            KVM_EXIT_HLT => Exit::Halt,
            KVM_EXIT_IRQ_WINDOW_OPEN => Exit::Window,
            KVM_EXIT_SET_TPR => Exit::Tpr,
            KVM_EXIT_INTR => Exit::Interrupted,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_DEBUG => Exit::Debug,
            KVM_EXIT_DIRTY_RING_FULL => Exit::RingFull,
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: as above.
                let error = unsafe { what.internal };
                match error.suberror {
                    KVM_INTERNAL_ERROR_EMULATION => Exit::Emulation,
                    other => Exit::Failed(format!(
                        "KVM internal error {other}, data {:x?}",
                        &error.data[..(error.ndata as usize).min(error.data.len())]
                    )),
                }
            }
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: as above.
                let entry = unsafe { what.fail_entry };
                Exit::Failed(format!(
                    "the host's processor refuses the state: {:#x}",
                    entry.hardware_entry_failure_reason
                ))
            }
            other => Exit::Failed(format!("KVM exit {other}")),
        }
    }

    /// After [`Exit::RingFull`]: takes what is in the ring, so that the guest can go on.
    pub(crate) fn empty_ring(&self) -> Result<(), String> {
        let taken = self.ring.as_ref().map_or(0, |ring| ring.collect(&self.vm));
        if taken == 0 {
            // Seen on a /dev/kvm that emulates ring 0, many instructions at a time: it does not
            // look at the limit in between, runs over the ring's end, and is full for ever.
            return Err("the kernel has overrun its ring of dirty pages: some are lost".into());
        }
        self.vm.reset_rings()
    }

    /// The values of an [`Exit::Io`].
    pub(crate) fn io_data(&mut self, bytes: usize) -> &mut [u8] {
        let size = self.vm.fd.run_size();
        let run: *mut kvm_run = self.fd.get_kvm_run();
        // SAFETY: called after an I/O exit, whose member this is.
        let offset = unsafe { (*run).__bindgen_anon_1.io.data_offset } as usize;
        assert!(
            offset <= size && bytes <= size - offset,
            "KVM's I/O data lies outside the shared mapping"
        );
        // SAFETY: inside the mapping (just checked), which lives as long as `self.fd`; the kernel
        // touches it only inside KVM_RUN.
        unsafe { std::slice::from_raw_parts_mut(run.cast::<u8>().add(offset), bytes) }
    }

    /// Answers an [`Exit::Mmio`] read.
    pub(crate) fn answer_mmio(&mut self, value: u64) {
        // Writing to a union's member is safe; the kernel reads it after an MMIO exit.
        self.fd.get_kvm_run().__bindgen_anon_1.mmio.data = value.to_le_bytes();
    }

    /// Answers an MSR exit; `None` raises #GP.
    pub(crate) fn answer_msr(&mut self, value: Option<u64>) {
        // SAFETY: called after an MSR exit, whose member this is.
        let msr = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.msr };
        msr.error = value.is_none().into();
        if let Some(value) = value {
            msr.data = value;
        }
    }
}

/// KVM_SET_DEVICE_ATTR and KVM_GET_DEVICE_ATTR.
const WRITE_ATTRIBUTE: u64 = 0xe1;
const READ_ATTRIBUTE: u64 = 0xe2;

fn entries(list: &[(u32, u64)]) -> Result<Msrs, String> {
    let entries: Vec<kvm_msr_entry> = list
        .iter()
        .map(|&(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    Msrs::from_entries(&entries).map_err(|e| format!("MSRs: {e:?}"))
}
