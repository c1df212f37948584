//! Virtio over PCI (virtio 1.2, "Virtio Over PCI Bus"): a modern device, 1AF4:1040 + device id.
//!
//! BAR 0 (memory, 16 KiB): common configuration at 0, ISR at 0x1000, the device's configuration
//! at 0x2000, notifications at 0x3000 (4 bytes for each queue). BAR 1: MSI-X, a vector for each
//! queue and one for configuration changes. Without MSI-X, INTA# with the ISR register.
//!
//! Not offered: the legacy interface, queue_reset, notification data, shared memory.

use super::{Endpoint, EndpointState, Signals, VirtioDevice};
use crate::pci::{BarKind, ConfigSpace, Msix, PciFunction};
use crate::{Context, Inspector, LoadError, load_state, save_state};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

const VENDOR: u16 = 0x1af4;
const BAR: u8 = 0;
const BAR_MSIX: u8 = 1;
const COMMON: u64 = 0;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const BAR_SIZE: u64 = 0x4000;
const NOTIFY_MULTIPLIER: u32 = 4;

const CAP_VENDOR: u8 = 0x09;
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;

const NO_VECTOR: u16 = 0xffff;
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Serves queues that had more to do than was done at once.
const TIMER_MORE: u8 = 0;

/// A virtio device as a PCI function.
pub struct VirtioPci {
    config: ConfigSpace,
    /// Offset of the PCI configuration access capability.
    window: usize,
    msix: Msix,
    endpoint: Endpoint,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    isr: u8,
    more: u32,
}

#[derive(Serialize, Deserialize)]
struct State {
    endpoint: EndpointState,
    msix: crate::pci::MsixState,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    isr: u8,
    more: u32,
}

impl VirtioPci {
    /// `label` is the user's name for the device, as in events: `disk0`.
    pub fn new(label: &str, device: Box<dyn VirtioDevice>) -> VirtioPci {
        let mut config = ConfigSpace::new(VENDOR, 0x1040 + device.id(), device.class(), 1);
        config.subsystem(VENDOR, 0x1100);
        config.use_intx();
        config.add_bar(BAR.into(), BarKind::Memory32, BAR_SIZE);
        let endpoint = Endpoint::new(label, device);
        let queues = endpoint.queues();
        let msix = Msix::new(&mut config, BAR_MSIX, queues + 1);
        let capability = |kind: u8, offset: u64, len: u32, extra: &[u8]| {
            let mut body = vec![16 + extra.len() as u8, kind, BAR, 0, 0, 0];
            body.extend((offset as u32).to_le_bytes());
            body.extend(len.to_le_bytes());
            body.extend(extra);
            body
        };
        let notify_len = u32::from(queues) * NOTIFY_MULTIPLIER;
        let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
        for body in [
            capability(CAP_COMMON, COMMON, 0x38, &[]),
            capability(CAP_ISR, ISR, 1, &[]),
            capability(CAP_DEVICE, DEVICE, 0x1000, &[]),
            capability(CAP_NOTIFY, NOTIFY, notify_len, &multiplier),
        ] {
            config.add_capability(CAP_VENDOR, &body, &[]);
        }
        let body = capability(CAP_PCI, 0, 0, &[0; 4]);
        let mut writable = [0xff; 18];
        // Everything but cap_len, cfg_type, id and padding.
        writable[..2].fill(0);
        writable[3..6].fill(0);
        let window = config.add_capability(CAP_VENDOR, &body, &writable).into();
        VirtioPci {
            config,
            window,
            msix,
            endpoint,
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues.into()],
            isr: 0,
            more: 0,
        }
    }

    /// The endpoint, for the machine to reach the device.
    pub fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// Tells the driver.
    fn deliver(&mut self, cx: &mut Context<'_>, signals: Signals) {
        if self.msix.enabled(&self.config) {
            for i in 0..self.queue_vectors.len() {
                if signals.queues >> i & 1 != 0 {
                    self.msix.signal(cx, &self.config, self.queue_vectors[i]);
                }
            }
            if signals.config {
                self.msix.signal(cx, &self.config, self.config_vector);
            }
        } else {
            if signals.queues != 0 {
                self.isr |= ISR_QUEUE;
            }
            if signals.config {
                self.isr |= ISR_CONFIG;
            }
        }
        self.more |= signals.more;
        if signals.more != 0 {
            cx.wires.arm(TIMER_MORE, Some(cx.now_ns));
        }
        self.drive(cx);
    }

    fn drive(&self, cx: &mut Context<'_>) {
        let level = self.isr != 0 && !self.msix.enabled(&self.config);
        cx.wires.set_line(0, level);
    }

    /// A reset of the device by its driver, or of the whole machine.
    fn reset_device(&mut self, cx: &mut Context<'_>) {
        self.endpoint.reset();
        self.config_vector = NO_VECTOR;
        self.queue_vectors.fill(NO_VECTOR);
        self.isr = 0;
        self.more = 0;
        cx.wires.arm(TIMER_MORE, None);
        self.drive(cx);
    }

    fn vector(&self, value: u16) -> u16 {
        if value < self.msix.vectors() {
            value
        } else {
            NO_VECTOR
        }
    }

    /// "Common configuration structure layout".
    fn common_read(&self, offset: u64, size: u8) -> u64 {
        let e = &self.endpoint;
        let queue = usize::from(e.queue_select());
        let addresses = e.queue().map_or([0; 3], |q| q.addresses());
        match (offset, size) {
            (0x00, 4) => e.device_features_select().into(),
            (0x04, 4) => e.device_features().into(),
            (0x08, 4) => e.driver_features_select().into(),
            (0x0c, 4) => e.driver_features().into(),
            (0x10, 2) => self.config_vector.into(),
            (0x12, 2) => e.queues().into(),
            (0x14, 1) => e.status().into(),
            (0x15, 1) => e.config_generation().into(),
            (0x16, 2) => e.queue_select().into(),
            (0x18, 2) => e.queue().map_or(0, |q| q.size()).into(),
            (0x1a, 2) => u64::from(*self.queue_vectors.get(queue).unwrap_or(&NO_VECTOR)),
            (0x1c, 2) => e.queue().is_some_and(|q| q.ready()).into(),
            (0x1e, 2) => e.queue_select().into(),
            (0x20 | 0x28 | 0x30, 8) => addresses[(offset - 0x20) as usize / 8],
            (0x20..=0x34, 4) if offset.is_multiple_of(4) => {
                let address = addresses[(offset - 0x20) as usize / 8];
                address >> (8 * (offset % 8)) & 0xffff_ffff
            }
            _ => 0,
        }
    }

    fn common_write(&mut self, cx: &mut Context<'_>, offset: u64, size: u8, value: u64) {
        let e = &mut self.endpoint;
        let mut signals = Signals::default();
        match (offset, size) {
            (0x00, 4) => e.select_device_features(value as u32),
            (0x08, 4) => e.select_driver_features(value as u32),
            (0x0c, 4) => e.set_driver_features(value as u32),
            (0x10, 2) => self.config_vector = self.vector(value as u16),
            (0x14, 1) if value as u8 == 0 => self.reset_device(cx),
            (0x14, 1) => signals = e.set_status(cx, value as u8),
            (0x16, 2) => e.select_queue(value as u16),
            (0x18, 2) => e.set_queue_size(cx, value as u16),
            (0x1a, 2) => {
                let vector = self.vector(value as u16);
                let queue = usize::from(self.endpoint.queue_select());
                if let Some(v) = self.queue_vectors.get_mut(queue) {
                    *v = vector;
                }
            }
            (0x1c, 2) if value as u16 == 1 => signals = e.enable_queue(cx),
            (0x20 | 0x28 | 0x30, 8) => {
                e.set_queue_address((offset - 0x20) as usize / 8, u64::MAX, value);
            }
            (0x20..=0x34, 4) if offset.is_multiple_of(4) => {
                let shift = 8 * (offset % 8);
                let which = (offset - 0x20) as usize / 8;
                e.set_queue_address(which, 0xffff_ffff << shift, value << shift);
            }
            _ => {}
        }
        self.deliver(cx, signals);
    }

    /// Where the PCI configuration access window points: BAR, offset, length.
    fn window_target(&self) -> Option<(u8, u64, u8)> {
        let bar = self.config.u16(self.window + 4) as u8;
        let offset = self.config.u32(self.window + 8);
        let len = self.config.u32(self.window + 12);
        let good = bar <= BAR_MSIX && matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len);
        let end = if bar == BAR { BAR_SIZE } else { Msix::BAR_SIZE };
        let inside = u64::from(offset) + u64::from(len) <= end;
        (good && inside).then_some((bar, offset.into(), len as u8))
    }

    fn touches_window(&self, offset: u8, size: u8) -> bool {
        let data = self.window + 16;
        let offset = usize::from(offset);
        offset < data + 4 && data < offset + usize::from(size)
    }
}

impl PciFunction for VirtioPci {
    fn name(&self) -> &'static str {
        self.endpoint.device().name()
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_reading(&mut self, cx: &mut Context<'_>, offset: u8, size: u8) {
        if self.touches_window(offset, size)
            && let Some((bar, at, len)) = self.window_target()
        {
            let value = self.bar_read(cx, bar, at, len).to_le_bytes();
            self.config
                .show(self.window + 16, &value[..usize::from(len)]);
        }
    }

    fn config_written(&mut self, cx: &mut Context<'_>, offset: u8, size: u8) {
        if self.touches_window(offset, size)
            && let Some((bar, at, len)) = self.window_target()
        {
            let value = self.config.u32(self.window + 16);
            self.bar_write(cx, bar, at, len, value.into());
        }
        // MSI-X may have been switched or unmasked.
        self.msix.send_pending(cx, &self.config);
        self.drive(cx);
    }

    fn bar_read(&mut self, cx: &mut Context<'_>, bar: u8, offset: u64, size: u8) -> u64 {
        if bar == BAR_MSIX {
            return self.msix.read(offset, size);
        }
        match offset {
            COMMON..ISR => self.common_read(offset, size),
            ISR..DEVICE => {
                if offset != ISR {
                    return 0;
                }
                let isr = core::mem::take(&mut self.isr);
                self.drive(cx);
                isr.into()
            }
            DEVICE..NOTIFY => self.endpoint.config_read(offset - DEVICE, size),
            _ => 0,
        }
    }

    fn bar_write(&mut self, cx: &mut Context<'_>, bar: u8, offset: u64, size: u8, value: u64) {
        if bar == BAR_MSIX {
            return self.msix.write(cx, &self.config, offset, size, value);
        }
        match offset {
            COMMON..ISR => self.common_write(cx, offset, size, value),
            ISR..DEVICE => {}
            DEVICE..NOTIFY => {
                let signals = self.endpoint.config_write(cx, offset - DEVICE, size, value);
                self.deliver(cx, signals);
            }
            _ => {
                // The place names the queue; the value says the same.
                let queue = (offset - NOTIFY) / u64::from(NOTIFY_MULTIPLIER);
                let signals = self.endpoint.notify(cx, queue as u16);
                self.deliver(cx, signals);
            }
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
        self.msix.reset();
        self.reset_device(cx);
    }

    fn save(&self) -> Vec<u8> {
        let VirtioPci {
            config: _,
            window: _,
            msix,
            endpoint,
            config_vector,
            queue_vectors,
            isr,
            more,
        } = self;
        let state = State {
            endpoint: endpoint.save(),
            msix: msix.save(),
            config_vector: *config_vector,
            queue_vectors: queue_vectors.clone(),
            isr: *isr,
            more: *more,
        };
        save_state(1, &state)
    }

    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let State {
            endpoint,
            msix,
            config_vector,
            queue_vectors,
            isr,
            more,
        } = load_state(1, section)?;
        let invalid = |field, why| Err(LoadError::Invalid { field, why });
        if queue_vectors.len() != self.queue_vectors.len() {
            return invalid("queue_vectors", format!("{}", queue_vectors.len()));
        }
        for v in queue_vectors.iter().chain([&config_vector]) {
            if self.vector(*v) != *v {
                return invalid("queue_vectors", format!("no vector {v}"));
            }
        }
        if isr & !(ISR_QUEUE | ISR_CONFIG) != 0 {
            return invalid("isr", format!("{isr:#x}"));
        }
        self.msix.check(&msix)?;
        self.endpoint.load(endpoint)?;
        self.msix.load(msix);
        self.config_vector = config_vector;
        self.queue_vectors = queue_vectors;
        self.isr = isr;
        self.more = more;
        Ok(())
    }

    fn inspect(&self, out: &mut Inspector) {
        out.hex("isr", self.isr.into());
        out.value("msix", self.msix.enabled(&self.config));
        self.endpoint.inspect(out);
    }
}
