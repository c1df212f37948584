//! The translator as an engine, and what the processors of one machine share.

use crate::dump::Dump;
use crate::perfmap::PerfMap;
use crate::switches::Switches;
use crate::vcpu::BtVcpu;
use core::time::Duration;
use iced_x86::CpuidFeature;
use mem::{GuestMemory, RamOffset};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use x86::cpuid::CpuModel;
use x86::{Engine, Signals, Vcpu};

/// What the processors of one machine share: who is in translated code, and how often a page has
/// begun to hold code.
pub(crate) struct Peers {
    /// Held from the mark of a page until nobody can write to it past the mark: whoever finds a
    /// page marked under this lock may read its code.
    pub(crate) marking: Mutex<()>,
    /// Grows when a page becomes a code page: write entries for it must go.
    pub(crate) marks: AtomicU64,
    pub(crate) members: Mutex<Vec<Arc<Peer>>>,
    /// A bit for each page of RAM that some processor may have a write entry for.
    written: Box<[AtomicU64]>,
}

impl Peers {
    pub(crate) fn new(pages: usize) -> Peers {
        Peers {
            marking: Mutex::default(),
            marks: AtomicU64::default(),
            members: Mutex::default(),
            written: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn written_bit(&self, at: RamOffset) -> (&AtomicU64, u64) {
        let page = (at.0 >> 12) as usize;
        (&self.written[page / 64], 1 << (page % 64))
    }

    /// To be called before a write entry is made for a page, and before it is asked whether the
    /// page holds code: either the asker sees the mark, or whoever marks sees this.
    pub(crate) fn will_write(&self, at: RamOffset) {
        let (word, bit) = self.written_bit(at);
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// True if there may be a write entry for a page that was just marked as code.
    pub(crate) fn may_write(&self, at: RamOffset) -> bool {
        fence(Ordering::SeqCst);
        let (word, bit) = self.written_bit(at);
        word.load(Ordering::Relaxed) & bit != 0
    }

    /// No processor has any write entry: to be called by the only one there is.
    pub(crate) fn nothing_is_written(&self) {
        for word in &self.written {
            word.store(0, Ordering::Relaxed);
        }
    }
}

pub(crate) struct Peer {
    pub(crate) signals: Arc<Signals>,
    /// In translated code, or about to be.
    pub(crate) inside: AtomicBool,
    /// The value of `marks` for which the write tables have been emptied.
    pub(crate) seen: AtomicU64,
}

/// Bytes of code cache that all processors of a machine should have together.
pub const CODE_CACHE: usize = crate::cache::SIZE;
/// The least and the most for one processor.
pub const CODE_CACHE_BOUNDS: (usize, usize) = crate::cache::BOUNDS;

/// How a [`Translation`] works and what it shows.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The optimisations.
    pub switches: Switches,
    /// Counts what translated code does: executions of blocks, the ways between them. This costs:
    /// a load, an addition and a store at the head of each block.
    pub count: bool,
    /// Where all blocks are listed; implies `count`.
    pub dump: Option<Arc<Dump>>,
    /// Bytes of each processor's code cache; [`CODE_CACHE`] if not given.
    pub code_cache: Option<usize>,
    /// How long a program must compute before its memory is checked by the host's MMU; tests want it
    /// to be at once.
    pub window_after: Option<Duration>,
    /// Where blocks are named for perf.
    pub perf_map: Option<Arc<PerfMap>>,
}

impl Options {
    /// See the field; `None` if that is off.
    pub(crate) fn window_after(&self) -> Option<Duration> {
        let after = self.window_after.unwrap_or(crate::vcpu::LONG);
        self.switches.window.then_some(after)
    }

    /// Translated code counts.
    pub(crate) fn counts(&self) -> bool {
        self.count || self.dump.is_some()
    }
}

/// The translator as an engine.
pub struct Translation {
    checked: bool,
    options: Options,
    peers: Mutex<Vec<(std::sync::Weak<GuestMemory>, Arc<Peers>)>>,
}

impl Translation {
    /// The engine, if this host can run it.
    pub fn new(options: Options) -> Result<Translation, String> {
        for (name, has) in [
            ("AVX", std::is_x86_feature_detected!("avx")),
            ("BMI2", std::is_x86_feature_detected!("bmi2")),
        ] {
            if !has {
                return Err(format!(
                    "the translator's code needs {name}, which this processor lacks; use --engine interp"
                ));
            }
        }
        Ok(Translation {
            checked: false,
            options,
            peers: Mutex::default(),
        })
    }

    /// The engine, holding everything it translates against the interpreter (see
    /// [`crate::check`]). For machines with one processor.
    pub fn checked(self) -> Translation {
        Translation {
            checked: true,
            ..self
        }
    }

    fn peers(&self, memory: &Arc<GuestMemory>) -> Arc<Peers> {
        let mut all = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(m, _)| m.strong_count() > 0);
        let known = all
            .iter()
            .find(|(m, _)| std::ptr::eq(m.as_ptr(), Arc::as_ptr(memory)));
        if let Some((_, peers)) = known {
            return peers.clone();
        }
        let peers = Arc::new(Peers::new(memory.page_count()));
        all.push((Arc::downgrade(memory), peers.clone()));
        peers
    }

    /// Pages have become clean in the dirty log: the write tables are emptied before translated
    /// code runs again, and have no entry for a page that is marked.
    fn forbid_clean_writes(&self, memory: &GuestMemory) {
        let all = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        for (of, peers) in all.iter() {
            if std::ptr::eq(of.as_ptr(), memory) {
                peers.marks.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

impl Engine for Translation {
    fn name(&self) -> &'static str {
        "bt"
    }
    fn vcpu(
        &self,
        id: u32,
        model: &CpuModel,
        memory: Arc<GuestMemory>,
        signals: Arc<Signals>,
    ) -> Result<Box<dyn Vcpu>, String> {
        let peers = self.peers(&memory);
        let mut vcpu = BtVcpu::new(id, model, memory, signals, peers, &self.options)?;
        if self.checked {
            vcpu.check();
        }
        Ok(Box::new(vcpu))
    }
    fn log_dirty(&self, memory: &GuestMemory, on: bool) -> Result<(), String> {
        memory.log_dirty(on);
        self.forbid_clean_writes(memory);
        Ok(())
    }
    fn take_dirty(&self, memory: &GuestMemory) -> Result<Vec<RamOffset>, String> {
        let pages = memory.take_dirty();
        self.forbid_clean_writes(memory);
        Ok(pages)
    }
}

/// True if the host has XSAVEC, and XGETBV tells which state is in use.
pub(crate) fn has_xsavec() -> bool {
    // A processor with AVX has leaf 0xd.
    let leaf = std::arch::x86_64::__cpuid_count(0xd, 1).eax;
    leaf & 6 == 6
}

/// True if the host has a feature that copied instructions need.
pub(crate) fn native(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    use std::is_x86_feature_detected as has;
    match feature {
        F::INTEL8086
        | F::INTEL186
        | F::INTEL286
        | F::INTEL386
        | F::INTEL486
        | F::X64
        | F::CMOV
        | F::CX8
        | F::FPU
        | F::FPU287
        | F::FPU387
        | F::MMX
        | F::SSE
        | F::SSE2
        | F::MULTIBYTENOP
        | F::PAUSE => true,
        F::CMPXCHG16B => has!("cmpxchg16b"),
        F::SSE3 => has!("sse3"),
        F::SSSE3 => has!("ssse3"),
        F::SSE4_1 => has!("sse4.1"),
        F::SSE4_2 => has!("sse4.2"),
        F::POPCNT => has!("popcnt"),
        F::LZCNT => has!("lzcnt"),
        F::MOVBE => has!("movbe"),
        F::BMI1 => has!("bmi1"),
        F::BMI2 => has!("bmi2"),
        F::ADX => has!("adx"),
        F::AES => has!("aes"),
        F::PCLMULQDQ => has!("pclmulqdq"),
        F::SHA => has!("sha"),
        F::AVX => has!("avx"),
        F::AVX2 => has!("avx2"),
        F::FMA => has!("fma"),
        F::F16C => has!("f16c"),
        _ => false,
    }
}
