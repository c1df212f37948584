//! What every transport of a virtio device shares (virtio 1.2, "Basic Facilities of a Virtio
//! Device"): status, feature negotiation, queue set-up, and the answer to a broken ring.
//!
//! Called by the transports, calls the [`VirtioDevice`]. What the guest must be told comes back
//! as [`Signals`], which each transport delivers its own way.

use super::{Broken, DeviceIo, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Queue, VirtioDevice};
use crate::{Context, Inspector, LoadError};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

const STATUS_FEATURES_OK: u8 = 8;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_NEEDS_RESET: u8 = 64;
/// ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED: what a driver sets.
const STATUS_BY_DRIVER: u8 = 0x8f;

/// The most queues of a device: a bit each in [`Signals`].
const MAX_QUEUES: usize = 32;

/// What the driver is to be told.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Signals {
    /// Queues with used buffers to look at, a bit each.
    pub queues: u32,
    /// The configuration has changed (or NEEDS_RESET was set).
    pub config: bool,
    /// Queues to be served again soon, a bit each.
    pub more: u32,
}

/// The driver's side of the state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct State {
    status: u8,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u16,
    config_generation: u8,
    queues: Vec<Queue>,
}

/// A virtio device with what transports share.
pub struct Endpoint {
    label: String,
    device: Box<dyn VirtioDevice>,
    state: State,
}

/// The state of an [`Endpoint`] in a transport's section.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointState {
    state: State,
    device: Vec<u8>,
}

impl Endpoint {
    /// `label` is the user's name for the device, as in events: `disk0`.
    pub fn new(label: &str, device: Box<dyn VirtioDevice>) -> Endpoint {
        let sizes = device.queue_sizes();
        assert!(sizes.len() <= MAX_QUEUES, "too many queues");
        assert!(sizes.iter().all(|s| s.is_power_of_two()), "queue sizes");
        let state = Self::fresh(&*device);
        Endpoint {
            label: label.into(),
            device,
            state,
        }
    }

    fn fresh(device: &dyn VirtioDevice) -> State {
        State {
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            config_generation: 0,
            queues: device
                .queue_sizes()
                .iter()
                .map(|&n| Queue::new(n))
                .collect(),
        }
    }

    /// The device.
    pub fn device(&self) -> &dyn VirtioDevice {
        &*self.device
    }

    /// The device, for the machine to reach it.
    pub fn device_mut(&mut self) -> &mut dyn VirtioDevice {
        &mut *self.device
    }

    fn offered(&self) -> u64 {
        self.device.features() | F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX
    }

    /// device_feature_select.
    pub fn device_features_select(&self) -> u32 {
        self.state.device_features_select
    }
    /// Selects which 32 feature bits [`Self::device_features`] shows.
    pub fn select_device_features(&mut self, select: u32) {
        self.state.device_features_select = select;
    }
    /// The selected offered feature bits.
    pub fn device_features(&self) -> u32 {
        half(self.offered(), self.state.device_features_select)
    }
    /// driver_feature_select.
    pub fn driver_features_select(&self) -> u32 {
        self.state.driver_features_select
    }
    /// Selects which 32 feature bits [`Self::set_driver_features`] writes.
    pub fn select_driver_features(&mut self, select: u32) {
        self.state.driver_features_select = select;
    }
    /// The selected accepted feature bits.
    pub fn driver_features(&self) -> u32 {
        half(
            self.state.driver_features,
            self.state.driver_features_select,
        )
    }
    /// The driver accepts feature bits; ignored once FEATURES_OK is set.
    pub fn set_driver_features(&mut self, bits: u32) {
        let s = &mut self.state;
        if s.status & STATUS_FEATURES_OK == 0 && s.driver_features_select < 2 {
            let shift = 32 * s.driver_features_select;
            s.driver_features =
                s.driver_features & !(0xffff_ffff << shift) | u64::from(bits) << shift;
        }
    }

    /// Number of queues.
    pub fn queues(&self) -> u16 {
        self.state.queues.len() as u16
    }
    /// queue_select.
    pub fn queue_select(&self) -> u16 {
        self.state.queue_select
    }
    /// Selects the queue that the queue registers mean.
    pub fn select_queue(&mut self, queue: u16) {
        self.state.queue_select = queue;
    }
    /// The selected queue, if there is one.
    pub fn queue(&self) -> Option<&Queue> {
        self.state.queues.get(usize::from(self.state.queue_select))
    }
    /// The largest size of the selected queue; 0 if there is none.
    pub fn queue_max(&self) -> u16 {
        let i = usize::from(self.state.queue_select);
        self.device.queue_sizes().get(i).copied().unwrap_or(0)
    }
    /// Sets the size of the selected queue.
    pub fn set_queue_size(&mut self, cx: &mut Context<'_>, size: u16) {
        let max = self.queue_max();
        let i = self.state.queue_select;
        if let Some(q) = self.state.queues.get_mut(usize::from(i))
            && !q.set_size(size, max)
        {
            self.event(cx, &format!("queue {i}: size {size} ignored"));
        }
    }
    /// Sets the bits of `mask` in address `which` (descriptors, available, used) of the
    /// selected queue.
    pub fn set_queue_address(&mut self, which: usize, mask: u64, value: u64) {
        let i = usize::from(self.state.queue_select);
        if let Some(q) = self.state.queues.get_mut(i) {
            q.set_address(which, mask, value);
        }
    }
    /// Enables the selected queue.
    pub fn enable_queue(&mut self, cx: &mut Context<'_>) -> Signals {
        let mut signals = Signals::default();
        let features = self.state.driver_features;
        let i = self.state.queue_select;
        if let Some(q) = self.state.queues.get_mut(usize::from(i))
            && !q.ready()
            && let Err(why) = q.enable(
                cx.memory,
                features & F_EVENT_IDX != 0,
                features & F_INDIRECT_DESC != 0,
            )
        {
            self.broken(cx, why.at(i), &mut signals);
        }
        signals
    }
    /// Takes the selected queue out of service (MMIO's QueueReady = 0).
    pub fn disable_queue(&mut self) {
        let max = self.queue_max();
        let i = usize::from(self.state.queue_select);
        if let Some(q) = self.state.queues.get_mut(i) {
            *q = Queue::new(max);
        }
    }

    /// config_generation.
    pub fn config_generation(&self) -> u8 {
        self.state.config_generation
    }
    /// device_status.
    pub fn status(&self) -> u8 {
        self.state.status
    }

    fn driver_ok(&self) -> bool {
        self.state.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET) == STATUS_DRIVER_OK
    }

    /// The driver writes device_status; 0 is a reset.
    pub fn set_status(&mut self, cx: &mut Context<'_>, value: u8) -> Signals {
        let old = self.state.status;
        if value == 0 {
            self.reset();
            return Signals::default();
        }
        // Bits are only ever added; NEEDS_RESET is ours.
        let mut new = old | value & STATUS_BY_DRIVER;
        if new & !old & STATUS_FEATURES_OK != 0 {
            let accepted = self.state.driver_features;
            if accepted & !self.offered() != 0 || accepted & F_VERSION_1 == 0 {
                new &= !STATUS_FEATURES_OK;
            }
        }
        if new & STATUS_FEATURES_OK == 0 {
            new &= !STATUS_DRIVER_OK;
        }
        self.state.status = new;
        if new & !old & STATUS_DRIVER_OK == 0 {
            return Signals::default();
        }
        let features = self.state.driver_features;
        let all = u32::MAX;
        let mut signals = self.run(cx, all, |device, io| {
            device.activate(io, features)?;
            device.completion(io)
        });
        // Buffers that were made available before DRIVER_OK need no notification.
        for queue in 0..self.queues() {
            signals.add(self.notify(cx, queue));
        }
        signals
    }

    /// Back to the state before any driver.
    pub fn reset(&mut self) {
        self.device.reset();
        self.state = Self::fresh(&*self.device);
    }

    /// The driver has added buffers to a queue.
    pub fn notify(&mut self, cx: &mut Context<'_>, queue: u16) -> Signals {
        if queue >= self.queues() {
            return Signals::default();
        }
        self.run(cx, 1 << queue, |device, io| device.notify(io, queue))
    }

    /// The backend has something new.
    pub fn completion(&mut self, cx: &mut Context<'_>) -> Signals {
        let all = u32::MAX;
        self.run(cx, all, |device, io| device.completion(io))
    }

    /// A read of the device's configuration space.
    pub fn config_read(&self, offset: u64, size: u8) -> u64 {
        let mut bytes = [0; 8];
        let n = usize::from(size.min(8));
        self.device.config_read(offset, &mut bytes[..n]);
        u64::from_le_bytes(bytes)
    }

    /// A write to it.
    pub fn config_write(
        &mut self,
        cx: &mut Context<'_>,
        offset: u64,
        size: u8,
        value: u64,
    ) -> Signals {
        let bytes = value.to_le_bytes();
        let mut signals = Signals::default();
        let mut io = self.io(cx);
        // Split borrows: the device is called with the queues.
        let mut queues = core::mem::take(&mut self.state.queues);
        io.queues = &mut queues;
        self.device
            .config_write(&mut io, offset, &bytes[..usize::from(size.min(8))]);
        let (changed, events) = (io.config_changed, io.events);
        self.state.queues = queues;
        self.finish(cx, changed, events, &mut signals);
        signals
    }

    fn io<'a>(&self, cx: &Context<'a>) -> DeviceIo<'a> {
        DeviceIo {
            now_ns: cx.now_ns,
            memory: cx.memory,
            queues: &mut [],
            config_changed: false,
            more: false,
            events: Vec::new(),
        }
    }

    /// Calls the device while the driver is OK, and works out what the driver must be told.
    fn run(
        &mut self,
        cx: &mut Context<'_>,
        served: u32,
        f: impl FnOnce(&mut dyn VirtioDevice, &mut DeviceIo<'_>) -> Result<(), Broken>,
    ) -> Signals {
        let mut signals = Signals::default();
        if !self.driver_ok() {
            return signals;
        }
        let mut io = self.io(cx);
        let mut queues = core::mem::take(&mut self.state.queues);
        io.queues = &mut queues;
        let mut result = f(&mut *self.device, &mut io);
        let (changed, more, events) = (io.config_changed, io.more, io.events);
        for (i, q) in queues.iter_mut().enumerate() {
            match q.take_interrupt(cx.memory) {
                Ok(true) => signals.queues |= 1 << i,
                Ok(false) => {}
                Err(why) => result = result.and(Err(why.at(i as u16))),
            }
        }
        self.state.queues = queues;
        if more && result.is_ok() {
            signals.more = served;
        }
        self.finish(cx, changed, events, &mut signals);
        if let Err(broken) = result {
            self.broken(cx, broken, &mut signals);
        }
        signals
    }

    fn finish(
        &mut self,
        cx: &mut Context<'_>,
        changed: bool,
        events: Vec<String>,
        signals: &mut Signals,
    ) {
        if changed {
            self.state.config_generation = self.state.config_generation.wrapping_add(1);
            signals.config |= self.driver_ok();
        }
        for text in events {
            self.event(cx, &text);
        }
    }

    fn event(&self, cx: &mut Context<'_>, text: &str) {
        let (label, name) = (&self.label, self.device.name());
        cx.wires.event(format!("{label} ({name}): {text}"));
    }

    fn broken(&mut self, cx: &mut Context<'_>, broken: Broken, signals: &mut Signals) {
        let Broken { queue, why } = broken;
        self.event(
            cx,
            &format!("queue {queue}: {why}; device set to NEEDS_RESET"),
        );
        signals.config |= self.state.status & STATUS_DRIVER_OK != 0;
        signals.more = 0;
        self.state.status |= STATUS_NEEDS_RESET;
    }

    /// The state, for the transport's section.
    pub fn save(&self) -> EndpointState {
        let Endpoint {
            label: _,
            device,
            state,
        } = self;
        EndpointState {
            state: state.clone(),
            device: device.save(),
        }
    }

    /// Checks a state and takes it over. On an error nothing has changed.
    pub fn load(&mut self, saved: EndpointState) -> Result<(), LoadError> {
        let EndpointState { state, device } = saved;
        let invalid = |field, why| Err(LoadError::Invalid { field, why });
        if state.status & !(STATUS_BY_DRIVER | STATUS_NEEDS_RESET) != 0 {
            return invalid("status", format!("{:#x}", state.status));
        }
        let features_ok = state.status & STATUS_FEATURES_OK != 0;
        if features_ok && state.driver_features & !self.offered() != 0 {
            let why = format!("{:#x} is more than is offered", state.driver_features);
            return invalid("driver_features", why);
        }
        if state.status & STATUS_DRIVER_OK != 0 && !features_ok {
            return invalid("status", format!("{:#x}", state.status));
        }
        let sizes = self.device.queue_sizes();
        if state.queues.len() != sizes.len() {
            let why = format!("{} instead of {}", state.queues.len(), sizes.len());
            return invalid("queues", why);
        }
        for (q, &max) in state.queues.iter().zip(sizes) {
            q.check(max)?;
        }
        self.device.load(&device)?;
        self.state = state;
        Ok(())
    }

    /// Status, features, queues, and the device's own.
    pub fn inspect(&self, out: &mut Inspector) {
        out.value("label", &self.label);
        out.hex("status", self.state.status.into());
        out.hex("features", self.state.driver_features);
        for (i, q) in self.state.queues.iter().enumerate() {
            out.value(&format!("queue{i}"), format_args!("{q:x?}"));
        }
        self.device.inspect(out);
    }
}

impl Signals {
    /// Adds those of another call.
    pub fn add(&mut self, other: Signals) {
        self.queues |= other.queues;
        self.config |= other.config;
        self.more |= other.more;
    }
}

fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}
