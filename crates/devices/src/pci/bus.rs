//! PCI bus 0: configuration access, address decoding, interrupt lines (PCI 3.0, "Configuration
//! Mechanism #1"; 82371SB, "Reset Control Register" and "PIRQ Route Control").
//!
//! Regions, whose offsets are relative to their starts in [`PciLayout`]:
//! 0 = ports 0xCF8..0xD00, 1 = the ECAM window of bus 0 (1 MiB), 2 = the memory window below
//! 4 GiB, 3 = the I/O window, 4 = the memory window above 4 GiB.
//! The board hands whole windows over and never learns of BARs: the bus looks them up, and they
//! may move inside the windows at any time.
//!
//! Lines 0 to 3 are PIRQA# to PIRQD#, wired as on the 440FX: INTA# of slot n goes to PIRQ
//! (n + 3) mod 4, levels of several functions are ORed here. Timers: 8 for each function.
//!
//! Functions are placed by us as firmware would have done it: BARs assigned in ascending order,
//! decoding switched on, Interrupt Line filled in. An access to an address nobody decodes reads
//! all ones.

use super::config::COMMAND_INTX_DISABLE;
use super::{BarKind, PciFunction};
use crate::{Context, Device, Inspector, LoadError, Message, Power, Wires, load_state, save_state};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;
use serde::{Deserialize, Serialize};

const ADDRESS_ENABLE: u32 = 0x8000_0000;
/// Reset Control Register at 0xCF9: a 0 to 1 transition of bit 2 resets the processor.
const RCR_RESET_CPU: u8 = 0x04;
const TIMERS: u8 = 8;
const MAX_FUNCTIONS: usize = 32;

/// Where the bus's windows are and how it interrupts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciLayout {
    /// Memory below 4 GiB for BARs (region 2).
    pub memory32: Range<u64>,
    /// Memory above 4 GiB for 64-bit BARs (region 4); may be empty.
    pub memory64: Range<u64>,
    /// Ports for BARs (region 3).
    pub io: Range<u64>,
    /// The ISA interrupts of PIRQA# to PIRQD#, as filled into Interrupt Line.
    pub irqs: [u8; 4],
}

impl Default for PciLayout {
    fn default() -> Self {
        PciLayout {
            memory32: 0xc000_0000..0xfec0_0000,
            memory64: 0x80_0000_0000..0xc0_0000_0000,
            io: 0x1000..0x1_0000,
            // As SeaBIOS sets them up for this chipset.
            irqs: [10, 10, 11, 11],
        }
    }
}

/// Why a function could not be put on the bus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PciBuildError {
    /// The slot (0 to 31) and function (0 to 7) is taken or does not exist.
    Slot(u8, u8),
    /// The function's BAR does not fit the window for its kind.
    NoRoom(&'static str, usize),
    /// The bus is full.
    Full,
}

impl core::fmt::Display for PciBuildError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PciBuildError::Slot(slot, function) => {
                write!(f, "PCI 00:{slot:02x}.{function} is taken or does not exist")
            }
            PciBuildError::NoRoom(name, bar) => {
                write!(f, "no room in the PCI windows for BAR {bar} of {name}")
            }
            PciBuildError::Full => write!(f, "more than {MAX_FUNCTIONS} PCI functions"),
        }
    }
}

impl core::error::Error for PciBuildError {}

/// A place on the bus.
struct Place {
    /// Device and function number, as in configuration addresses.
    devfn: u8,
    function: Box<dyn PciFunction>,
    /// The function's own INTA# level.
    level: bool,
    /// Reads and writes of its BARs.
    accesses: [u64; 2],
}

impl Place {
    /// Which of PIRQA# to PIRQD# its INTA# is wired to.
    fn pirq(&self) -> u8 {
        (self.devfn >> 3).wrapping_add(3) & 3
    }
}

/// A stretch of addresses that some BAR decodes now.
struct Decoded {
    io: bool,
    range: Range<u64>,
    place: usize,
    bar: u8,
}

/// The wires of one function, which end on the bus.
struct FunctionWires<'a> {
    outer: &'a mut dyn Wires,
    place: u8,
    level: &'a mut bool,
}

impl Wires for FunctionWires<'_> {
    fn set_line(&mut self, line: u8, level: bool) {
        if line == 0 {
            *self.level = level;
        }
    }
    fn message(&mut self, message: Message) {
        self.outer.message(message);
    }
    fn arm(&mut self, timer: u8, at_ns: Option<u64>) {
        if timer < TIMERS {
            self.outer.arm(self.place * TIMERS + timer, at_ns);
        }
    }
    fn power(&mut self, what: Power) {
        self.outer.power(what);
    }
    fn event(&mut self, text: String) {
        self.outer.event(text);
    }
}

/// Bus 0 and everything on it.
pub struct PciBus {
    layout: PciLayout,
    places: Vec<Place>,
    /// Cache of what the BARs decode.
    decoded: Vec<Decoded>,
    /// Next free addresses: ports, memory below, memory above.
    next: [u64; 3],
    /// CONFADD at 0xCF8.
    address: u32,
    /// RCR at 0xCF9.
    reset_control: u8,
    /// The level of each PIRQ as last driven.
    driven: [bool; 4],
}

impl PciBus {
    /// An empty bus.
    pub fn new(layout: PciLayout) -> PciBus {
        PciBus {
            next: [
                layout.io.start,
                layout.memory32.start,
                layout.memory64.start,
            ],
            layout,
            places: Vec::new(),
            decoded: Vec::new(),
            address: 0,
            reset_control: 0,
            driven: [false; 4],
        }
    }

    /// Puts a function into a slot, as function 0.
    pub fn add(&mut self, slot: u8, function: Box<dyn PciFunction>) -> Result<(), PciBuildError> {
        self.add_function(slot, 0, function)
    }

    /// Puts a function into a slot as function `number`; number 0 must be there first.
    pub fn add_function(
        &mut self,
        slot: u8,
        number: u8,
        mut function: Box<dyn PciFunction>,
    ) -> Result<(), PciBuildError> {
        if slot > 31 || number > 7 {
            return Err(PciBuildError::Slot(slot, number));
        }
        let devfn = slot << 3 | number;
        let has_zero = self.places.iter().position(|p| p.devfn == slot << 3);
        if self.find(devfn).is_some() || (number != 0 && has_zero.is_none()) {
            return Err(PciBuildError::Slot(slot, number));
        }
        if self.places.len() == MAX_FUNCTIONS {
            return Err(PciBuildError::Full);
        }
        let bars: Vec<_> = function.config().bars().collect();
        for (index, kind, size) in bars {
            // A 64-bit BAR that fits below stays there: a guest without 64-bit windows finds it.
            let below = kind == BarKind::Memory64 && size <= 64 << 20;
            let (which, window) = match kind {
                BarKind::Io => (0, &self.layout.io),
                BarKind::Memory64 if !below && !self.layout.memory64.is_empty() => {
                    (2, &self.layout.memory64)
                }
                BarKind::Memory32 | BarKind::Memory64 => (1, &self.layout.memory32),
            };
            let no_room = PciBuildError::NoRoom(function.name(), index);
            let at = self.next[which].checked_next_multiple_of(size);
            let end = at.and_then(|at| at.checked_add(size));
            match (at, end) {
                (Some(at), Some(end)) if end <= window.end => {
                    function.config_mut().assign(index, at);
                    self.next[which] = end;
                }
                _ => return Err(no_room),
            }
        }
        let mut place = Place {
            devfn,
            function,
            level: false,
            accesses: [0; 2],
        };
        let irq = self.layout.irqs[usize::from(place.pirq())];
        place.function.config_mut().enable_decoding(irq);
        if let (Some(zero), true) = (has_zero, number != 0) {
            self.places[zero].function.config_mut().fix(0x0e, &[0x80]);
        }
        self.places.push(place);
        self.decode();
        Ok(())
    }

    /// The function in a slot.
    pub fn function(&mut self, slot: u8, number: u8) -> Option<&mut dyn PciFunction> {
        let i = self.find(slot << 3 | number & 7)?;
        Some(&mut *self.places[i].function)
    }

    /// The layout it was built with.
    pub fn layout(&self) -> &PciLayout {
        &self.layout
    }

    fn find(&self, devfn: u8) -> Option<usize> {
        self.places.iter().position(|p| p.devfn == devfn)
    }

    /// Rebuilds the cache of decoded addresses.
    fn decode(&mut self) {
        self.decoded.clear();
        for (place, p) in self.places.iter().enumerate() {
            for bar in 0..6 {
                if let Some((kind, range)) = p.function.config().decoded(bar) {
                    self.decoded.push(Decoded {
                        io: kind == BarKind::Io,
                        range,
                        place,
                        bar: bar as u8,
                    });
                }
            }
        }
    }

    /// Calls a function with its own wires, then drives the PIRQ it is wired to.
    fn call<R>(
        &mut self,
        cx: &mut Context<'_>,
        place: usize,
        f: impl FnOnce(&mut dyn PciFunction, &mut Context<'_>) -> R,
    ) -> R {
        let p = &mut self.places[place];
        let result = {
            let mut wires = FunctionWires {
                outer: &mut *cx.wires,
                place: place as u8,
                level: &mut p.level,
            };
            let mut inner = Context {
                now_ns: cx.now_ns,
                memory: cx.memory,
                wires: &mut wires,
            };
            f(&mut *p.function, &mut inner)
        };
        let pirq = p.pirq();
        self.drive(cx, pirq);
        result
    }

    fn drive(&mut self, cx: &mut Context<'_>, pirq: u8) {
        let asks = |p: &Place| {
            p.level && p.pirq() == pirq && p.function.config().command() & COMMAND_INTX_DISABLE == 0
        };
        let level = self.places.iter().any(asks);
        let driven = &mut self.driven[usize::from(pirq)];
        if *driven != level {
            *driven = level;
            cx.wires.set_line(pirq, level);
        }
    }

    fn config_read(&mut self, cx: &mut Context<'_>, devfn: u8, offset: usize, size: u8) -> u32 {
        let Some(place) = self.find(devfn) else {
            return u32::MAX;
        };
        if offset >= 256 {
            return u32::MAX;
        }
        self.call(cx, place, |f, cx| f.config_reading(cx, offset as u8, size));
        let p = &mut self.places[place];
        p.function.config_mut().show_interrupt(p.level);
        p.function.config().read(offset, size)
    }

    fn config_write(
        &mut self,
        cx: &mut Context<'_>,
        devfn: u8,
        offset: usize,
        size: u8,
        value: u32,
    ) {
        let Some(place) = self.find(devfn) else {
            return;
        };
        if offset >= 256 {
            return;
        }
        self.call(cx, place, |f, cx| {
            f.config_mut().write(offset, size, value);
            f.config_written(cx, offset as u8, size);
        });
        // Command or a BAR.
        if offset < 0x28 {
            self.decode();
        }
    }

    /// Port access 0xCF8 to 0xCFF: `offset` from 0xCF8.
    fn mechanism_read(&mut self, cx: &mut Context<'_>, offset: u64, size: u8) -> u32 {
        match (offset, size) {
            (0, 4) => self.address,
            (1, 1) => self.reset_control.into(),
            (4..=7, 1 | 2 | 4) if self.address & ADDRESS_ENABLE != 0 => {
                let (bus, devfn, register) = self.selected();
                if bus != 0 {
                    return u32::MAX;
                }
                self.config_read(cx, devfn, register + (offset - 4) as usize, size)
            }
            _ => u32::MAX,
        }
    }

    fn mechanism_write(&mut self, cx: &mut Context<'_>, offset: u64, size: u8, value: u32) {
        match (offset, size) {
            (0, 4) => self.address = value & 0x80ff_fffc,
            (1, 1) => {
                let value = value as u8;
                let rises = value & !self.reset_control & RCR_RESET_CPU != 0;
                self.reset_control = value & 0x06;
                if rises {
                    cx.wires.power(Power::Reset);
                }
            }
            (4..=7, 1 | 2 | 4) if self.address & ADDRESS_ENABLE != 0 => {
                let (bus, devfn, register) = self.selected();
                if bus == 0 {
                    let at = register + (offset - 4) as usize;
                    self.config_write(cx, devfn, at, size, value);
                }
            }
            _ => {}
        }
    }

    /// Bus, device and function, register of CONFADD.
    fn selected(&self) -> (u8, u8, usize) {
        let [register, devfn, bus, _] = self.address.to_le_bytes();
        (bus, devfn, register.into())
    }

    /// The absolute address of an access to a window, and whether it is I/O.
    fn absolute(&self, region: u8, offset: u64) -> Option<(bool, u64)> {
        let (io, window) = match region {
            2 => (false, &self.layout.memory32),
            3 => (true, &self.layout.io),
            4 => (false, &self.layout.memory64),
            _ => return None,
        };
        Some((io, window.start.checked_add(offset)?))
    }

    /// Which BAR decodes an access: place, BAR, offset in it.
    fn lookup(&self, region: u8, offset: u64, size: u8) -> Option<(usize, u8, u64)> {
        let (io, at) = self.absolute(region, offset)?;
        let last = at.checked_add(u64::from(size).saturating_sub(1))?;
        let hit = |d: &&Decoded| d.io == io && d.range.contains(&at) && d.range.contains(&last);
        let d = self.decoded.iter().find(hit)?;
        Some((d.place, d.bar, at - d.range.start))
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    address: u32,
    reset_control: u8,
    driven: [bool; 4],
    functions: Vec<FunctionState>,
}

#[derive(Serialize, Deserialize)]
struct FunctionState {
    devfn: u8,
    name: String,
    level: bool,
    config: Vec<u8>,
    section: Vec<u8>,
}

impl Device for PciBus {
    fn name(&self) -> &'static str {
        "pci"
    }

    fn read(&mut self, cx: &mut Context<'_>, region: u8, offset: u64, size: u8) -> u64 {
        match region {
            0 => self.mechanism_read(cx, offset, size).into(),
            1 => {
                let mut value = u64::MAX;
                if offset < 1 << 20 && matches!(size, 1 | 2 | 4) {
                    let (devfn, at) = ((offset >> 12) as u8, (offset & 0xfff) as usize);
                    value = self.config_read(cx, devfn, at, size).into();
                }
                value
            }
            _ => match self.lookup(region, offset, size) {
                Some((place, bar, at)) => {
                    self.places[place].accesses[0] += 1;
                    self.call(cx, place, |f, cx| f.bar_read(cx, bar, at, size))
                }
                None => u64::MAX,
            },
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, region: u8, offset: u64, size: u8, value: u64) {
        match region {
            0 => self.mechanism_write(cx, offset, size, value as u32),
            1 => {
                if offset < 1 << 20 && matches!(size, 1 | 2 | 4) {
                    let (devfn, at) = ((offset >> 12) as u8, (offset & 0xfff) as usize);
                    self.config_write(cx, devfn, at, size, value as u32);
                }
            }
            _ => {
                if let Some((place, bar, at)) = self.lookup(region, offset, size) {
                    self.places[place].accesses[1] += 1;
                    self.call(cx, place, |f, cx| f.bar_write(cx, bar, at, size, value));
                }
            }
        }
    }

    fn passed_on(&self) -> Vec<(String, u64, u64)> {
        let of = |p: &Place| {
            let name = format!("{} {:02x}.{}", p.function.name(), p.devfn >> 3, p.devfn & 7);
            (name, p.accesses[0], p.accesses[1])
        };
        self.places.iter().map(of).collect()
    }

    fn timer(&mut self, cx: &mut Context<'_>, timer: u8) {
        let place = usize::from(timer / TIMERS);
        if place < self.places.len() {
            self.call(cx, place, |f, cx| f.timer(cx, timer % TIMERS));
        }
    }

    fn completion(&mut self, cx: &mut Context<'_>) {
        for place in 0..self.places.len() {
            self.call(cx, place, |f, cx| f.completion(cx));
        }
    }

    fn reset(&mut self, cx: &mut Context<'_>) {
        for place in 0..self.places.len() {
            self.call(cx, place, |f, cx| {
                f.config_mut().reset();
                f.reset(cx);
            });
            self.places[place].level = false;
        }
        self.address = 0;
        self.reset_control = 0;
        self.driven = [false; 4];
        for pirq in 0..4 {
            cx.wires.set_line(pirq, false);
        }
        self.decode();
    }

    fn save(&self) -> Vec<u8> {
        let PciBus {
            layout: _,
            places,
            decoded: _,
            next: _,
            address,
            reset_control,
            driven,
        } = self;
        let function = |p: &Place| {
            let Place {
                devfn,
                function,
                level,
                accesses: _,
            } = p;
            FunctionState {
                devfn: *devfn,
                name: function.name().to_string(),
                level: *level,
                config: function.config().save().to_vec(),
                section: function.save(),
            }
        };
        let state = State {
            address: *address,
            reset_control: *reset_control,
            driven: *driven,
            functions: places.iter().map(function).collect(),
        };
        save_state(1, &state)
    }

    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let new: State = load_state(1, section)?;
        let invalid = |field, why| Err(LoadError::Invalid { field, why });
        if new.address & !0x80ff_fffc != 0 {
            return invalid("address", format!("{:#x}", new.address));
        }
        if new.reset_control & !0x06 != 0 {
            return invalid("reset_control", format!("{:#x}", new.reset_control));
        }
        if new.functions.len() != self.places.len() {
            let (found, want) = (new.functions.len(), self.places.len());
            return invalid("functions", format!("{found} instead of {want}"));
        }
        for (p, f) in self.places.iter().zip(&new.functions) {
            if p.devfn != f.devfn || p.function.name() != f.name {
                let (slot, number) = (f.devfn >> 3, f.devfn & 7);
                let why = format!("00:{slot:02x}.{number} is not {}", f.name);
                return invalid("functions", why);
            }
            p.function.config().check(&f.config)?;
        }
        // A function checks only when it loads: the ones before a refusal go back.
        let before: Vec<_> = self.places.iter().map(|p| p.function.save()).collect();
        for i in 0..self.places.len() {
            if let Err(e) = self.places[i].function.load(&new.functions[i].section) {
                for (p, old) in self.places.iter_mut().zip(&before).take(i) {
                    // It has just written this state itself.
                    let _ = p.function.load(old);
                }
                return Err(e);
            }
        }
        for (p, f) in self.places.iter_mut().zip(&new.functions) {
            p.function.config_mut().load(&f.config);
            p.level = f.level;
        }
        self.address = new.address;
        self.reset_control = new.reset_control;
        self.driven = new.driven;
        self.decode();
        Ok(())
    }

    fn inspect(&self, out: &mut Inspector) {
        out.hex("address", self.address.into());
        for p in &self.places {
            let name = format!(
                "00:{:02x}.{} {}",
                p.devfn >> 3,
                p.devfn & 7,
                p.function.name()
            );
            out.tree(&name, |out| {
                p.function.config().inspect(out);
                out.value("inta", p.level);
                p.function.inspect(out);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigSpace, HostBridge, IsaBridge};
    use super::*;
    use crate::Recorder;
    use mem::GuestMemory;

    /// A function whose BAR 0 (memory) holds a number, BAR 2 is 64-bit, BAR 4 ports; a write to
    /// the ports drives INTA#.
    struct Probe(ConfigSpace, u64);

    impl Probe {
        fn new() -> Box<Probe> {
            let mut c = ConfigSpace::new(0x1234, 0x5678, 0xff_00_00, 1);
            c.use_intx();
            c.add_bar(0, BarKind::Memory32, 0x1000);
            c.add_bar(2, BarKind::Memory64, 0x4000);
            c.add_bar(4, BarKind::Io, 0x20);
            Box::new(Probe(c, 0))
        }
    }

    impl PciFunction for Probe {
        fn name(&self) -> &'static str {
            "probe"
        }
        fn config(&self) -> &ConfigSpace {
            &self.0
        }
        fn config_mut(&mut self) -> &mut ConfigSpace {
            &mut self.0
        }
        fn bar_read(&mut self, _: &mut Context<'_>, bar: u8, offset: u64, _: u8) -> u64 {
            self.1 | u64::from(bar) << 32 | offset << 40
        }
        fn bar_write(&mut self, cx: &mut Context<'_>, bar: u8, _: u64, _: u8, value: u64) {
            self.1 = value & 0xffff;
            if bar == 4 {
                cx.wires.set_line(0, value & 1 != 0);
            }
        }
        fn reset(&mut self, _: &mut Context<'_>) {
            self.1 = 0;
        }
        fn save(&self) -> Vec<u8> {
            save_state(1, &self.1)
        }
        fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
            self.1 = load_state(1, section)?;
            Ok(())
        }
    }

    struct Bench {
        bus: PciBus,
        wires: Recorder,
        memory: GuestMemory,
    }

    impl Bench {
        fn new() -> Bench {
            let mut bus = PciBus::new(PciLayout::default());
            bus.add(0, Box::<HostBridge>::default()).unwrap();
            bus.add(1, Box::<IsaBridge>::default()).unwrap();
            bus.add(2, Probe::new()).unwrap();
            bus.add(6, Probe::new()).unwrap();
            Bench {
                bus,
                wires: Recorder::default(),
                memory: GuestMemory::flat(0x1000).unwrap(),
            }
        }
        fn with<R>(&mut self, f: impl FnOnce(&mut PciBus, &mut Context<'_>) -> R) -> R {
            let mut cx = Context {
                now_ns: 0,
                memory: &self.memory,
                wires: &mut self.wires,
            };
            f(&mut self.bus, &mut cx)
        }
        fn read(&mut self, region: u8, offset: u64, size: u8) -> u64 {
            self.with(|b, cx| b.read(cx, region, offset, size))
        }
        fn write(&mut self, region: u8, offset: u64, size: u8, value: u64) {
            self.with(|b, cx| b.write(cx, region, offset, size, value));
        }
        fn config(&mut self, slot: u64, register: u64) -> u32 {
            self.write(0, 0, 4, 0x8000_0000 | slot << 11 | register);
            self.read(0, 4, 4) as u32
        }
        fn set_config(&mut self, slot: u64, register: u64, value: u32) {
            self.write(0, 0, 4, 0x8000_0000 | slot << 11 | register);
            self.write(0, 4, 4, value.into());
        }
    }

    #[test]
    fn functions_are_found_by_mechanism_1_and_by_ecam_and_empty_slots_read_ones() {
        let mut b = Bench::new();
        assert_eq!(b.config(0, 0), 0x1237_8086);
        assert_eq!(b.config(1, 0), 0x7000_8086);
        assert_eq!(b.config(2, 0), 0x5678_1234);
        assert_eq!(b.config(3, 0), u32::MAX);
        assert_eq!(b.config(2, 0x3c), 0x010a, "PIRQB# is IRQ 10");
        assert_eq!(b.read(1, 2 << 15 | 2, 2), 0x5678);
        assert_eq!(b.read(1, 2 << 15 | 0x100, 4), 0xffff_ffff);
        b.write(0, 0, 4, 0x8001_1000);
        assert_eq!(b.read(0, 4, 4), 0xffff_ffff, "bus 1");
        b.write(0, 0, 4, 0x1000);
        assert_eq!(b.read(0, 4, 4), 0xffff_ffff, "not enabled");
        b.write(0, 0, 4, 0x8000_1000);
        assert_eq!(b.read(0, 6, 2), 0x5678);
    }

    #[test]
    fn bars_are_assigned_sized_and_moved() {
        let mut b = Bench::new();
        assert_eq!(b.config(2, 0x10), 0xc000_0000);
        assert_eq!(b.config(2, 0x18), 0xc000_4004);
        assert_eq!(b.config(2, 0x20), 0x1001);
        b.set_config(2, 0x10, u32::MAX);
        assert_eq!(b.config(2, 0x10), 0xffff_f000);
        b.set_config(2, 0x10, 0xd000_0000);
        b.set_config(2, 0x18, u32::MAX);
        b.set_config(2, 0x1c, u32::MAX);
        assert_eq!(
            (b.config(2, 0x18), b.config(2, 0x1c)),
            (0xffff_c004, u32::MAX)
        );
        b.set_config(2, 0x18, 0);
        b.set_config(2, 0x1c, 0x80);
        b.set_config(2, 0x20, u32::MAX);
        assert_eq!(b.config(2, 0x20), 0xffe1);
        b.set_config(2, 0x20, 0x2000);
        b.write(2, 0x1000_0000, 4, 0x77);
        assert_eq!(b.read(2, 0x1000_0008, 4), 0x77 | 8 << 40);
        assert_eq!(b.read(2, 0, 4), u64::MAX, "nobody is there any more");
        assert_eq!(b.read(4, 4, 4), 0x77 | 2 << 32 | 4 << 40);
        assert_eq!(b.read(3, 0x1000, 1), 0x77 | 4 << 32);
        assert_eq!(
            b.read(2, 0x1000_0ffe, 4),
            u64::MAX,
            "over the end of the BAR"
        );
        b.set_config(2, 4, 1);
        assert_eq!(b.read(2, 0x1000_0000, 4), u64::MAX, "memory is off");
        assert_ne!(b.read(3, 0x1000, 1), u64::MAX);
    }

    #[test]
    fn accesses_to_bars_are_counted_by_function_and_configuration_is_not() {
        let mut b = Bench::new();
        b.config(6, 0x10);
        b.write(3, 0x20, 1, 1);
        b.read(2, 0, 4);
        b.read(2, 8, 4);
        let asked: Vec<_> = b.bus.passed_on();
        let asked = asked.iter().filter(|a| a.1 + a.2 > 0);
        let asked: Vec<_> = asked.map(|(name, r, w)| (&**name, *r, *w)).collect();
        assert_eq!(asked, [("probe 02.0", 2, 0), ("probe 06.0", 0, 1)]);
    }

    #[test]
    fn a_shared_interrupt_line_stays_up_until_both_functions_let_go() {
        let mut b = Bench::new();
        b.write(3, 0, 1, 1);
        b.write(3, 0x20, 1, 1);
        assert!(b.wires.lines[&1]);
        assert_eq!(b.config(2, 4) >> 16 & 8, 8, "Interrupt Status");
        b.write(3, 0, 1, 0);
        assert!(b.wires.lines[&1]);
        b.set_config(6, 4, 0x403);
        assert!(!b.wires.lines[&1], "INTx disable");
        b.set_config(6, 4, 0x003);
        assert!(b.wires.lines[&1]);
        b.with(|bus, cx| bus.reset(cx));
        assert!(!b.wires.lines[&1]);
    }

    #[test]
    fn port_cf9_resets_the_machine() {
        let mut b = Bench::new();
        b.write(0, 1, 1, 0x02);
        assert!(b.wires.power.is_empty());
        b.write(0, 1, 1, 0x06);
        assert_eq!(b.wires.power, [Power::Reset]);
    }

    #[test]
    fn a_saved_bus_loads_and_saves_the_same_and_read_only_bits_are_refused() {
        let mut b = Bench::new();
        b.set_config(2, 0x10, 0xd000_0000);
        b.write(3, 0, 1, 1);
        let saved = b.bus.save();
        let mut other = Bench::new();
        other.bus.load(&saved).unwrap();
        assert_eq!(other.bus.save(), saved);
        assert_eq!(other.config(2, 0x10), 0xd000_0000);
        let mut state: State = load_state(1, &saved).unwrap();
        state.functions[2].config[0] = 0;
        let before = other.bus.save();
        assert!(other.bus.load(&save_state(1, &state)).is_err());
        assert_eq!(other.bus.save(), before);
    }

    #[test]
    fn random_access_never_panics() {
        let mut b = Bench::new();
        let mut seed = 0x1234_5678_9abc_def0_u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..200_000 {
            let region = (next() % 6) as u8;
            let offset = next() >> (next() % 64);
            let size = 1 << (next() % 4);
            if next() & 1 == 0 {
                b.read(region, offset, size);
            } else {
                b.write(region, offset, size, next());
            }
        }
        let saved = b.bus.save();
        b.bus.load(&saved).unwrap();
    }

    #[test]
    fn it_keeps_the_contract() {
        crate::contract::check(&[8, 1 << 20, 0x9000, 0x100, 0x1000], || Bench::new().bus);
    }
}
