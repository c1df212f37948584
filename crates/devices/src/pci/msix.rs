//! MSI-X (PCI 3.0, "MSI-X Capability and Table Structures"): the capability, the vector table
//! and the pending bits, for a function that puts both structures into one BAR.

use super::ConfigSpace;
use crate::{Context, LoadError, Message};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

const CAPABILITY_ID: u8 = 0x11;
const CONTROL_ENABLE: u16 = 0x8000;
const CONTROL_FUNCTION_MASK: u16 = 0x4000;
const VECTOR_MASKED: u32 = 1;
/// Bytes of a table entry.
const ENTRY: u64 = 16;
/// Where the pending bit array is in the BAR.
const PBA: u64 = 0x800;

/// One table entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Vector {
    address: u64,
    data: u32,
    control: u32,
    pending: bool,
}

/// The vectors of a function, in a BAR of [`Msix::BAR_SIZE`] bytes: the table at 0, the pending
/// bits at 0x800.
pub struct Msix {
    capability: usize,
    vectors: Vec<Vector>,
}

impl Msix {
    /// Size of the BAR in bytes.
    pub const BAR_SIZE: u64 = 0x1000;
    /// The most vectors that fit.
    pub const MAX_VECTORS: u16 = (PBA / ENTRY) as u16;

    /// Adds the capability and BAR `bar` with `vectors` (1 to [`Self::MAX_VECTORS`]) vectors.
    pub fn new(config: &mut ConfigSpace, bar: u8, vectors: u16) -> Msix {
        assert!((1..=Self::MAX_VECTORS).contains(&vectors), "MSI-X vectors");
        config.add_bar(bar.into(), super::BarKind::Memory32, Self::BAR_SIZE);
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        body[2..6].copy_from_slice(&u32::from(bar).to_le_bytes());
        body[6..].copy_from_slice(&(PBA as u32 | u32::from(bar)).to_le_bytes());
        let writable = (CONTROL_ENABLE | CONTROL_FUNCTION_MASK).to_le_bytes();
        let capability = config
            .add_capability(CAPABILITY_ID, &body, &writable)
            .into();
        let mut msix = Msix {
            capability,
            vectors: vec![],
        };
        msix.vectors = vec![Self::masked(); vectors.into()];
        msix
    }

    fn masked() -> Vector {
        Vector {
            address: 0,
            data: 0,
            control: VECTOR_MASKED,
            pending: false,
        }
    }

    fn control(&self, config: &ConfigSpace) -> u16 {
        config.u16(self.capability + 2)
    }

    /// True if the guest has switched MSI-X on (INTx is then not used).
    pub fn enabled(&self, config: &ConfigSpace) -> bool {
        self.control(config) & CONTROL_ENABLE != 0
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Sends vector `vector`, or notes it as pending while it is masked. No such vector: nothing.
    pub fn signal(&mut self, cx: &mut Context<'_>, config: &ConfigSpace, vector: u16) {
        if let Some(v) = self.vectors.get_mut(usize::from(vector)) {
            v.pending = true;
            self.send_pending(cx, config);
        }
    }

    /// Sends what is pending and no longer masked. Call after a configuration write.
    pub fn send_pending(&mut self, cx: &mut Context<'_>, config: &ConfigSpace) {
        let control = self.control(config);
        if control & CONTROL_ENABLE == 0 || control & CONTROL_FUNCTION_MASK != 0 {
            return;
        }
        for v in &mut self.vectors {
            if v.pending && v.control & VECTOR_MASKED == 0 {
                v.pending = false;
                cx.wires.message(Message {
                    address: v.address,
                    data: v.data,
                });
            }
        }
    }

    fn doubleword(&self, offset: u64) -> u32 {
        if let Some(v) = self.vectors.get((offset / ENTRY) as usize) {
            return match offset % ENTRY / 4 {
                0 => v.address as u32,
                1 => (v.address >> 32) as u32,
                2 => v.data,
                _ => v.control,
            };
        }
        let Some(first) = offset.checked_sub(PBA) else {
            return 0;
        };
        let bits = self.vectors.iter().skip((first as usize).saturating_mul(8));
        bits.take(32)
            .enumerate()
            .fold(0, |word, (i, v)| word | u32::from(v.pending) << i)
    }

    /// A read of the BAR: doublewords and quadwords; others are undefined and read as ones.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        match size {
            4 if offset.is_multiple_of(4) => self.doubleword(offset).into(),
            8 if offset.is_multiple_of(8) => {
                u64::from(self.doubleword(offset)) | u64::from(self.doubleword(offset + 4)) << 32
            }
            _ => u64::MAX,
        }
    }

    /// A write to the BAR: doublewords and quadwords; others, and the pending bits, are ignored.
    pub fn write(
        &mut self,
        cx: &mut Context<'_>,
        config: &ConfigSpace,
        offset: u64,
        size: u8,
        value: u64,
    ) {
        match size {
            4 if offset.is_multiple_of(4) => self.write_doubleword(offset, value as u32),
            8 if offset.is_multiple_of(8) => {
                self.write_doubleword(offset, value as u32);
                self.write_doubleword(offset + 4, (value >> 32) as u32);
            }
            _ => return,
        }
        self.send_pending(cx, config);
    }

    fn write_doubleword(&mut self, offset: u64, value: u32) {
        let Some(v) = self.vectors.get_mut((offset / ENTRY) as usize) else {
            return;
        };
        match offset % ENTRY / 4 {
            0 => v.address = v.address & !0xffff_ffff | u64::from(value & !3),
            1 => v.address = v.address & 0xffff_ffff | u64::from(value) << 32,
            2 => v.data = value,
            _ => v.control = value & VECTOR_MASKED,
        }
    }

    /// Masks every vector, forgets what is pending.
    pub fn reset(&mut self) {
        self.vectors.fill(Self::masked());
    }

    /// The state, for the function's section.
    pub fn save(&self) -> MsixState {
        let Msix {
            capability: _,
            vectors,
        } = self;
        MsixState(vectors.clone())
    }

    /// Checks a saved state; [`Self::load`] then takes it over.
    pub fn check(&self, saved: &MsixState) -> Result<(), LoadError> {
        let invalid = |why| Err(LoadError::Invalid { field: "msix", why });
        if saved.0.len() != self.vectors.len() {
            return invalid(format!(
                "{} vectors instead of {}",
                saved.0.len(),
                self.vectors.len()
            ));
        }
        for (i, v) in saved.0.iter().enumerate() {
            if v.address & 3 != 0 || v.control & !VECTOR_MASKED != 0 {
                return invalid(format!("vector {i} has reserved bits"));
            }
        }
        Ok(())
    }

    /// Takes over a state that [`Self::check`] accepted.
    pub fn load(&mut self, saved: MsixState) {
        self.vectors = saved.0;
    }
}

/// The saved vectors.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MsixState(Vec<Vector>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;
    use mem::GuestMemory;

    #[test]
    fn a_masked_vector_is_pending_until_vector_and_function_are_unmasked() {
        let memory = GuestMemory::flat(0x1000).unwrap();
        let mut wires = Recorder::default();
        let mut cx = Context {
            now_ns: 0,
            memory: &memory,
            wires: &mut wires,
        };
        let mut config = ConfigSpace::new(1, 2, 0, 0);
        let mut msix = Msix::new(&mut config, 1, 3);
        let control = 0x42;
        config.write(control, 2, 0xc000);
        msix.write(&mut cx, &config, 0x10, 8, 0xfee0_1000);
        msix.write(&mut cx, &config, 0x18, 4, 0x41);
        assert_eq!(msix.read(0x1c, 4), 1, "masked at reset");
        msix.signal(&mut cx, &config, 1);
        msix.signal(&mut cx, &config, 7);
        assert_eq!(msix.read(PBA, 8), 2);
        msix.write(&mut cx, &config, 0x1c, 4, 0);
        assert_eq!(msix.read(PBA, 4), 2, "the function mask holds it");
        config.write(control, 2, 0x8000);
        msix.send_pending(&mut cx, &config);
        assert_eq!(msix.read(PBA, 4), 0);
        assert_eq!(
            wires.messages,
            [Message {
                address: 0xfee0_1000,
                data: 0x41
            }]
        );
    }
}
