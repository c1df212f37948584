//! The contract of a device and the context in which it is called.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use mem::GuestMemory;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message-signalled interrupt as it leaves a device (PCI 3.0, "MSI"): a 32-bit write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Address, 0xFEEx_xxxx for an interrupt.
    pub address: u64,
    /// Data: vector and delivery mode.
    pub data: u32,
}

/// What a device can do to the machine's power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// The guest switched the machine off (ACPI S5).
    Off,
    /// The guest asked for a reset (port 0x64, 0xCF9, ACPI reset register).
    Reset,
    /// A write of this value to isa-debug-exit: the run ends with status `(value << 1) | 1`.
    DebugExit(u32),
}

/// The wires that leave a device. `machine` implements it; [`Recorder`] does for tests.
pub trait Wires {
    /// Drives the interrupt line `line` of this device (its own numbering from 0; the board says
    /// which GSI that is). A level: an edge is two calls.
    fn set_line(&mut self, line: u8, level: bool);
    /// Sends a message-signalled interrupt.
    fn message(&mut self, message: Message);
    /// Arms timer `timer` of this device for the machine time `at_ns`, or stops it. A timer that
    /// is armed again forgets its earlier deadline; it fires once.
    fn arm(&mut self, timer: u8, at_ns: Option<u64>);
    /// Power off, reset, exit.
    fn power(&mut self, what: Power);
    /// Tells the user something about this device: a host failure, a ring the guest broke. One
    /// line that begins with the device's label. Machines show it and limit the rate, as a guest
    /// can cause as many as it likes; the default drops it.
    fn event(&mut self, text: String) {
        let _ = text;
    }
}

/// What a device may use while it is called.
pub struct Context<'a> {
    /// Machine time, in nanoseconds since power-on.
    pub now_ns: u64,
    /// Guest memory, for DMA.
    pub memory: &'a GuestMemory,
    /// The wires that leave the device.
    pub wires: &'a mut dyn Wires,
}

/// One device. `region` names which of the device's address ranges is meant (the board assigns
/// them in the order the device documents), `offset` is relative to its start, `size` is 1, 2, 4
/// or 8 bytes. Nothing here fails and nothing panics, whatever the guest does: what hardware
/// leaves undefined reads as all ones and ignores writes.
pub trait Device: Send {
    /// The model's name, as in messages and saved sections: `"i8254"`.
    fn name(&self) -> &'static str;
    /// A read by the guest. Bits above `size` bytes are ignored.
    fn read(&mut self, cx: &mut Context<'_>, region: u8, offset: u64, size: u8) -> u64;
    /// A write by the guest.
    fn write(&mut self, cx: &mut Context<'_>, region: u8, offset: u64, size: u8, value: u64);
    /// A timer armed through [`Wires::arm`] has come due.
    fn timer(&mut self, cx: &mut Context<'_>, timer: u8) {
        let _ = (cx, timer);
    }
    /// The backend has something new (input has arrived, a request is done).
    fn completion(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }
    /// Back to the power-on state (RESET#). Lines fall, timers stop.
    fn reset(&mut self, cx: &mut Context<'_>);
    /// The modelled state, as one section; see [`save_state`].
    fn save(&self) -> Vec<u8>;
    /// Takes over a saved state, validated as if hostile. On an error the device is unchanged.
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError>;
    /// The state as a readable tree.
    fn inspect(&self, out: &mut Inspector);
    /// Those of its accesses that it passed on to devices behind it: a name that tells these
    /// apart, reads, writes. Counted since power-on, no part of the state.
    fn passed_on(&self) -> Vec<(String, u64, u64)> {
        Vec::new()
    }
}

/// Why a saved state was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// The bytes are not this section, or not this version of it.
    Malformed(String),
    /// A field has a value the device can never have.
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl core::fmt::Display for LoadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LoadError::Malformed(why) => write!(f, "malformed section: {why}"),
            LoadError::Invalid { field, why } => write!(f, "field {field}: {why}"),
        }
    }
}

impl core::error::Error for LoadError {}

/// Writes a device's state structure as a section, after its version number.
pub fn save_state<T: Serialize>(version: u16, state: &T) -> Vec<u8> {
    // postcard fails only on sequences of unknown length, which no state has; an empty section
    // is then refused by `load_state` with a message.
    postcard::to_allocvec(&(version, state)).unwrap_or_default()
}

/// Reads a section written by [`save_state`]; leftover bytes are an error.
pub fn load_state<T: DeserializeOwned>(version: u16, section: &[u8]) -> Result<T, LoadError> {
    let ((found, state), rest): ((u16, T), &[u8]) =
        postcard::take_from_bytes(section).map_err(|e| LoadError::Malformed(e.to_string()))?;
    if found != version {
        return Err(LoadError::Malformed(alloc::format!(
            "version {found}, expected {version}"
        )));
    }
    if !rest.is_empty() {
        return Err(LoadError::Malformed(alloc::format!(
            "{} bytes left over",
            rest.len()
        )));
    }
    Ok(state)
}

/// A readable tree of names and values, for people and for `--json`.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Inspector {
    /// Entries in the order they were added: a name and either a value or a subtree.
    pub entries: Vec<(String, Inspected)>,
}

/// One entry of an [`Inspector`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inspected {
    /// A value as text.
    Value(String),
    /// A named group.
    Tree(Inspector),
}

impl Inspector {
    /// Adds `name: value`.
    pub fn value(&mut self, name: &str, value: impl core::fmt::Display) {
        self.entries
            .push((name.to_owned(), Inspected::Value(value.to_string())));
    }
    /// Adds `name: 0x…`.
    pub fn hex(&mut self, name: &str, value: u64) {
        self.value(name, format_args!("{value:#x}"));
    }
    /// Adds a named group.
    pub fn tree(&mut self, name: &str, fill: impl FnOnce(&mut Inspector)) {
        let mut inner = Inspector::default();
        fill(&mut inner);
        self.entries.push((name.to_owned(), Inspected::Tree(inner)));
    }
}

/// [`Wires`] that remember what was done to them: for the tests of devices.
#[derive(Default, Debug)]
pub struct Recorder {
    /// The level of each line that was ever driven.
    pub lines: alloc::collections::BTreeMap<u8, bool>,
    /// Rising edges seen on each line.
    pub edges: alloc::collections::BTreeMap<u8, u32>,
    /// Messages in order.
    pub messages: Vec<Message>,
    /// Armed timers and their deadlines in machine nanoseconds.
    pub timers: alloc::collections::BTreeMap<u8, u64>,
    /// Power requests in order.
    pub power: Vec<Power>,
    /// Events in order.
    pub events: Vec<String>,
}

impl Wires for Recorder {
    fn set_line(&mut self, line: u8, level: bool) {
        if level && !self.lines.get(&line).copied().unwrap_or(false) {
            *self.edges.entry(line).or_default() += 1;
        }
        self.lines.insert(line, level);
    }
    fn message(&mut self, message: Message) {
        self.messages.push(message);
    }
    fn arm(&mut self, timer: u8, at_ns: Option<u64>) {
        match at_ns {
            Some(at) => self.timers.insert(timer, at),
            None => self.timers.remove(&timer),
        };
    }
    fn power(&mut self, what: Power) {
        self.power.push(what);
    }
    fn event(&mut self, text: String) {
        self.events.push(text);
    }
}
