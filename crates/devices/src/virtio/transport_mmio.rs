//! Virtio over MMIO, version 2 (virtio 1.2, "Virtio Over MMIO"): for boards without PCI.
//!
//! Region 0 is 0x200 bytes of registers, of which the device's configuration is the upper half.
//! Line 0 is the interrupt, a level. The guest is told of the device by its command line
//! (`virtio_mmio.device=0x200@0xd0000000:5`) or by ACPI.
//!
//! Not offered: the legacy interface, shared memory, queue reset.

use super::{Endpoint, EndpointState, Signals, VirtioDevice};
use crate::{Context, Device, Inspector, LoadError, load_state, save_state};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// "MOIN".
const VENDOR: u32 = 0x4e49_4f4d;
const CONFIG: u64 = 0x100;
const INTERRUPT_USED: u8 = 1;
const INTERRUPT_CONFIG: u8 = 2;
const TIMER_MORE: u8 = 0;

/// A virtio device in its own memory window.
pub struct VirtioMmio {
    endpoint: Endpoint,
    interrupt_status: u8,
    more: u32,
}

#[derive(Serialize, Deserialize)]
struct State {
    endpoint: EndpointState,
    interrupt_status: u8,
    more: u32,
}

impl VirtioMmio {
    /// `label` is the user's name for the device, as in events: `disk0`.
    pub fn new(label: &str, device: Box<dyn VirtioDevice>) -> VirtioMmio {
        VirtioMmio {
            endpoint: Endpoint::new(label, device),
            interrupt_status: 0,
            more: 0,
        }
    }

    /// The endpoint, for the machine to reach the device.
    pub fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    fn deliver(&mut self, cx: &mut Context<'_>, signals: Signals) {
        if signals.queues != 0 {
            self.interrupt_status |= INTERRUPT_USED;
        }
        if signals.config {
            self.interrupt_status |= INTERRUPT_CONFIG;
        }
        self.more |= signals.more;
        if signals.more != 0 {
            cx.wires.arm(TIMER_MORE, Some(cx.now_ns));
        }
        cx.wires.set_line(0, self.interrupt_status != 0);
    }

    fn reset_device(&mut self, cx: &mut Context<'_>) {
        self.endpoint.reset();
        self.interrupt_status = 0;
        self.more = 0;
        cx.wires.arm(TIMER_MORE, None);
        cx.wires.set_line(0, false);
    }

    fn register(&self, offset: u64) -> u32 {
        let e = &self.endpoint;
        match offset {
            0x000 => MAGIC,
            0x004 => 2,
            0x008 => e.device().id().into(),
            0x00c => VENDOR,
            0x010 => e.device_features(),
            0x034 => e.queue_max().into(),
            0x044 => e.queue().is_some_and(|q| q.ready()).into(),
            0x060 => self.interrupt_status.into(),
            0x070 => e.status().into(),
            // SHMLen and SHMBase: no such region.
            0x0b0..=0x0bc => u32::MAX,
            0x0fc => e.config_generation().into(),
            _ => 0,
        }
    }

    fn set_register(&mut self, cx: &mut Context<'_>, offset: u64, value: u32) {
        let e = &mut self.endpoint;
        let mut signals = Signals::default();
        match offset {
            0x014 => e.select_device_features(value),
            0x020 => e.set_driver_features(value),
            0x024 => e.select_driver_features(value),
            // A queue beyond 16 bits does not exist.
            0x030 => e.select_queue(u16::try_from(value).unwrap_or(u16::MAX)),
            0x038 => e.set_queue_size(cx, u16::try_from(value).unwrap_or(0)),
            0x044 if value & 1 != 0 => signals = e.enable_queue(cx),
            0x044 => e.disable_queue(),
            0x050 => {
                if let Ok(queue) = u16::try_from(value) {
                    signals = e.notify(cx, queue);
                }
            }
            0x064 => self.interrupt_status &= !(value as u8),
            0x070 if value == 0 => self.reset_device(cx),
            0x070 => signals = e.set_status(cx, value as u8),
            0x080 | 0x090 | 0x0a0 => {
                let which = (offset - 0x080) as usize / 0x10;
                e.set_queue_address(which, 0xffff_ffff, value.into());
            }
            0x084 | 0x094 | 0x0a4 => {
                let which = (offset - 0x080) as usize / 0x10;
                e.set_queue_address(which, 0xffff_ffff << 32, u64::from(value) << 32);
            }
            _ => {}
        }
        self.deliver(cx, signals);
    }
}

impl Device for VirtioMmio {
    fn name(&self) -> &'static str {
        "virtio-mmio"
    }

    fn read(&mut self, _cx: &mut Context<'_>, _region: u8, offset: u64, size: u8) -> u64 {
        if offset >= CONFIG {
            self.endpoint.config_read(offset - CONFIG, size)
        } else if size == 4 && offset.is_multiple_of(4) {
            self.register(offset).into()
        } else {
            u64::MAX
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, _region: u8, offset: u64, size: u8, value: u64) {
        if offset >= CONFIG {
            let signals = self.endpoint.config_write(cx, offset - CONFIG, size, value);
            self.deliver(cx, signals);
        } else if size == 4 && offset.is_multiple_of(4) {
            self.set_register(cx, offset, value as u32);
        }
    }

    fn timer(&mut self, cx: &mut Context<'_>, timer: u8) {
        if timer != TIMER_MORE {
            return;
        }
        let more = core::mem::take(&mut self.more);
        let mut signals = Signals::default();
        for queue in 0..self.endpoint.queues() {
            if more >> queue & 1 != 0 {
                signals.add(self.endpoint.notify(cx, queue));
            }
        }
        self.deliver(cx, signals);
    }

    fn completion(&mut self, cx: &mut Context<'_>) {
        let signals = self.endpoint.completion(cx);
        self.deliver(cx, signals);
    }

    fn reset(&mut self, cx: &mut Context<'_>) {
        self.reset_device(cx);
    }

    fn save(&self) -> Vec<u8> {
        let VirtioMmio {
            endpoint,
            interrupt_status,
            more,
        } = self;
        let state = State {
            endpoint: endpoint.save(),
            interrupt_status: *interrupt_status,
            more: *more,
        };
        save_state(1, &state)
    }

    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let State {
            endpoint,
            interrupt_status,
            more,
        } = load_state(1, section)?;
        if interrupt_status & !(INTERRUPT_USED | INTERRUPT_CONFIG) != 0 {
            return Err(LoadError::Invalid {
                field: "interrupt_status",
                why: format!("{interrupt_status:#x}"),
            });
        }
        self.endpoint.load(endpoint)?;
        self.interrupt_status = interrupt_status;
        self.more = more;
        Ok(())
    }

    fn inspect(&self, out: &mut Inspector) {
        out.hex("interrupt_status", self.interrupt_status.into());
        self.endpoint.inspect(out);
    }
}
