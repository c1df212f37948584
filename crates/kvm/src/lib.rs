//! The KVM engine: a guest processor runs on the host's, switched to and from by the Linux kernel.
//!
//! ```text
//! vcpu.rs     the loop: pins → KVM_RUN → exit → Bus            (no unsafe)
//! convert.rs  CpuState ⇄ the kernel's structures               (no unsafe)
//! ioctl.rs    every ioctl, the shared page, the kick           (all the unsafe there is)
//! ```
//!
//! KVM gets no interrupt controller and no timer: the local APICs, the I/O APIC and the PICs are
//! the machine's, as under every other engine. So a processor's state is the whole of
//! [`x86::CpuState`] and nothing else, and a machine moves between engines without loss
//! (`docs/decisions/kvm-userspace-apic.md`, which also lists the costs and the departures).
#![deny(unsafe_code)]

mod convert;
#[allow(unsafe_code)]
mod ioctl;
mod vcpu;

use mem::{GuestMemory, RamOffset};
use std::sync::{Arc, Mutex, PoisonError};
use x86::cpuid::{CpuModel, Feature, TSC_HZ};
use x86::{Engine, Signals, Vcpu};

pub use ioctl::{DirtyLog, OpenError};
pub use vcpu::KvmVcpu;

/// Features that a guest gets from the machine or from this crate, whatever the host's processor
/// has: the local APIC's, the registers that are only stored, and promises about speed.
const OURS: &[Feature] = &[
    Feature::Apic,
    Feature::X2apic,
    Feature::TscDeadline,
    Feature::Arat,
    Feature::Hypervisor,
    Feature::Mtrr,
    Feature::Mce,
    Feature::Mca,
    Feature::TscAdjust,
    Feature::InvariantTsc,
    Feature::ArchCapabilities,
    Feature::Erms,
    Feature::Fsrm,
];

/// KVM as an engine: one virtual machine of the kernel. Makes the processors of one machine.
pub struct KvmEngine {
    vm: Arc<ioctl::Vm>,
    /// The first processor, made early to learn how the TSC can run.
    first: Mutex<Option<ioctl::Processor>>,
    tsc_hz: u64,
}

impl KvmEngine {
    /// Opens `/dev/kvm` and makes a virtual machine; the error says why it cannot be and what to
    /// do about it. That KVM answers does not say that it is fast: measure it.
    pub fn open() -> Result<KvmEngine, OpenError> {
        KvmEngine::open_with(DirtyLog::Ring)
    }

    /// As [`Self::open`], with a choice of how dirty pages are logged; a kernel that has no ring
    /// gives a bitmap.
    pub fn open_with(log: DirtyLog) -> Result<KvmEngine, OpenError> {
        let vm = Arc::new(ioctl::Vm::open(log)?);
        let first = vm.processor(0).map_err(OpenError::Refused)?;
        // Without TSC scaling the guest's TSC runs at the host's rate, and the model says so.
        let tsc_hz = match first.set_tsc_hz(TSC_HZ) {
            Ok(()) => TSC_HZ,
            Err(_) => first.tsc_hz().unwrap_or(TSC_HZ),
        };
        Ok(KvmEngine {
            vm,
            first: Mutex::new(Some(first)),
            tsc_hz,
        })
    }

    /// How the kernel logs dirty pages.
    pub fn dirty_log(&self) -> DirtyLog {
        self.vm.dirty_log()
    }
}

impl Engine for KvmEngine {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn model(&self, wanted: &CpuModel) -> (CpuModel, Vec<String>) {
        let (model, lost) = wanted.within(|leaf, sub| self.vm.host_cpuid(leaf, sub), OURS);
        let model = model.with_host_capabilities(self.vm.capabilities);
        (model.with_tsc(self.tsc_hz), lost)
    }

    fn vcpu(
        &self,
        id: u32,
        model: &CpuModel,
        memory: Arc<GuestMemory>,
        signals: Arc<Signals>,
    ) -> Result<Box<dyn Vcpu>, String> {
        if model.tsc_hz != self.tsc_hz && self.tsc_hz != TSC_HZ {
            return Err(format!(
                "the machine's TSC runs at {} Hz, this host's at {} Hz and cannot be scaled",
                model.tsc_hz, self.tsc_hz
            ));
        }
        self.vm.place(&memory)?;
        let early = match id {
            0 => self
                .first
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
            _ => None,
        };
        let fd = match early {
            Some(fd) => fd,
            None => self.vm.processor(id)?,
        };
        let vcpu = KvmVcpu::new(fd, id, model, memory, signals)?;
        Ok(Box::new(vcpu))
    }

    fn log_dirty(&self, memory: &GuestMemory, on: bool) -> Result<(), String> {
        self.vm.log_dirty(on)?;
        memory.log_dirty(on);
        Ok(())
    }

    fn take_dirty(&self, memory: &GuestMemory) -> Result<Vec<RamOffset>, String> {
        self.vm.collect_dirty()?;
        Ok(memory.take_dirty())
    }
}
