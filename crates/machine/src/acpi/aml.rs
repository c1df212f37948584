//! A small builder of AML, the byte code of ACPI's namespace (ACPI 6.5, chapter 20 "ACPI Machine
//! Language Specification", and 6.4 "Resource Data Types"). It knows what our DSDT says and no
//! more; each function is one production of the grammar.

use alloc::vec::Vec;

/// AML under construction.
#[derive(Default)]
pub struct Aml {
    /// The code so far.
    pub bytes: Vec<u8>,
}

/// A value that can stand in a `Name` or a package.
pub enum Value {
    /// An integer, in the shortest form.
    Integer(u64),
    /// A string.
    String(&'static str),
    /// An EISA identifier, `PNP0501`.
    EisaId(&'static str),
    /// A package.
    Package(Vec<Value>),
    /// A buffer.
    Buffer(Vec<u8>),
}

impl Aml {
    /// `Scope (path) { body }`.
    pub fn scope(&mut self, path: &str, body: impl FnOnce(&mut Aml)) {
        self.block(&[0x10], path, &[], body);
    }

    /// `Device (name) { body }`.
    pub fn device(&mut self, name: &str, body: impl FnOnce(&mut Aml)) {
        self.block(&[0x5b, 0x82], name, &[], body);
    }

    /// `Name (name, value)`.
    pub fn name(&mut self, name: &str, value: Value) {
        self.bytes.push(0x08);
        self.name_string(name);
        self.value(&value);
    }

    /// `Name (_CRS, ResourceTemplate { … })`.
    pub fn crs(&mut self, resources: Resources) {
        self.name("_CRS", Value::Buffer(resources.finish()));
    }

    fn block(&mut self, opcode: &[u8], name: &str, after: &[u8], body: impl FnOnce(&mut Aml)) {
        let mut inner = Aml::default();
        inner.name_string(name);
        inner.bytes.extend_from_slice(after);
        body(&mut inner);
        self.bytes.extend_from_slice(opcode);
        self.package_length(inner.bytes.len());
        self.bytes.append(&mut inner.bytes);
    }

    /// PkgLength: counts itself; the low nibble of the first byte, then bytes.
    fn package_length(&mut self, body: usize) {
        let more = match body {
            0..=0x3e => 0,
            0x3f..=0xffd => 1,
            0xffe..=0xf_fffc => 2,
            _ => 3,
        };
        let length = body + 1 + more;
        if more == 0 {
            self.bytes.push(length as u8);
            return;
        }
        self.bytes.push((more << 6) as u8 | (length & 0xf) as u8);
        for i in 0..more {
            self.bytes.push((length >> (4 + 8 * i)) as u8);
        }
    }

    /// NameString: segments of four, filled up with `_`, parted by dots, after a `\`.
    fn name_string(&mut self, path: &str) {
        let relative = path.strip_prefix('\\').unwrap_or(path);
        if relative.len() != path.len() {
            self.bytes.push(b'\\');
        }
        match relative.split('.').count() {
            _ if relative.is_empty() => self.bytes.push(0),
            1 => (),
            2 => self.bytes.push(0x2e),
            n => self.bytes.extend_from_slice(&[0x2f, n as u8]),
        }
        for segment in relative.split('.').filter(|s| !s.is_empty()) {
            let mut four = [b'_'; 4];
            for (to, from) in four.iter_mut().zip(segment.bytes()) {
                *to = from;
            }
            self.bytes.extend_from_slice(&four);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Integer(n) => self.integer(*n),
            Value::String(s) => {
                self.bytes.push(0x0d);
                self.bytes.extend_from_slice(s.as_bytes());
                self.bytes.push(0);
            }
            Value::EisaId(id) => {
                self.bytes.push(0x0c);
                self.bytes.extend_from_slice(&eisa_id(id));
            }
            Value::Package(elements) => {
                let mut inner = Aml::default();
                inner.bytes.push(elements.len() as u8);
                elements.iter().for_each(|e| inner.value(e));
                self.bytes.push(0x12);
                self.package_length(inner.bytes.len());
                self.bytes.append(&mut inner.bytes);
            }
            Value::Buffer(data) => {
                let mut size = Aml::default();
                size.integer(data.len() as u64);
                self.bytes.push(0x11);
                self.package_length(size.bytes.len() + data.len());
                self.bytes.append(&mut size.bytes);
                self.bytes.extend_from_slice(data);
            }
        }
    }

    fn integer(&mut self, n: u64) {
        let bytes = n.to_le_bytes();
        let (prefix, size) = match n {
            0 | 1 => return self.bytes.push(n as u8),
            2..=0xff => (0x0a, 1),
            0x100..=0xffff => (0x0b, 2),
            0x1_0000..=0xffff_ffff => (0x0c, 4),
            _ => (0x0e, 8),
        };
        self.bytes.push(prefix);
        self.bytes.extend_from_slice(&bytes[..size]);
    }
}

/// Three letters of five bits and four hex digits, big-endian.
fn eisa_id(id: &str) -> [u8; 4] {
    let mut value = 0u32;
    for (i, c) in id.chars().enumerate().take(7) {
        value = if i < 3 {
            (value << 5) | (c as u32 & 0x1f)
        } else {
            (value << 4) | c.to_digit(16).unwrap_or(0)
        };
    }
    value.to_be_bytes()
}

/// A resource template.
#[derive(Default)]
pub struct Resources(Vec<u8>);

/// Trigger and polarity of an interrupt, as the flags of its descriptor have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// Edge, active high.
    EdgeHigh,
    /// Level, active high.
    LevelHigh,
    /// Level, active low.
    LevelLow,
}

impl Resources {
    /// `IO (Decode16, base, base, 1, len)`.
    pub fn io(mut self, base: u16, len: u8) -> Self {
        self.0.extend_from_slice(&[0x47, 1]);
        self.word(base);
        self.word(base);
        self.0.extend_from_slice(&[1, len]);
        self
    }

    /// `IRQNoFlags () { irq }`: edge, active high, of the 8259s.
    pub fn irq(mut self, irq: u8) -> Self {
        self.0.push(0x22);
        self.word(1 << (irq & 15));
        self
    }

    /// `Memory32Fixed (ReadWrite, base, len)`.
    pub fn memory_32(mut self, base: u32, len: u32) -> Self {
        self.0.extend_from_slice(&[0x86, 9, 0, 1]);
        self.dword(base);
        self.dword(len);
        self
    }

    /// `Interrupt (ResourceConsumer, …, Exclusive) { gsi }`.
    pub fn interrupt(mut self, gsi: u32, trigger: Trigger) -> Self {
        let flags = match trigger {
            Trigger::EdgeHigh => 0b011,
            Trigger::LevelHigh => 0b001,
            Trigger::LevelLow => 0b101,
        };
        self.0.extend_from_slice(&[0x89, 6, 0, flags, 1]);
        self.dword(gsi);
        self
    }

    /// `WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode)`.
    pub fn bus_numbers(mut self, first: u16, last: u16) -> Self {
        self.0.extend_from_slice(&[0x88, 13, 0, 2, 0x0c, 0]);
        self.word_range(first, last);
        self
    }

    /// `WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange)`.
    pub fn io_window(mut self, first: u16, last: u16) -> Self {
        self.0.extend_from_slice(&[0x88, 13, 0, 1, 0x0c, 3]);
        self.word_range(first, last);
        self
    }

    /// `DWordMemory (ResourceProducer, …, NonCacheable, ReadWrite)`.
    pub fn memory_window_32(mut self, first: u32, last: u32) -> Self {
        self.0.extend_from_slice(&[0x87, 23, 0, 0, 0x0c, 1]);
        for value in [0, first, last, 0, (last - first).wrapping_add(1)] {
            self.dword(value);
        }
        self
    }

    /// `QWordMemory (ResourceProducer, …, NonCacheable, ReadWrite)`.
    pub fn memory_window_64(mut self, first: u64, last: u64) -> Self {
        self.0.extend_from_slice(&[0x8a, 43, 0, 0, 0x0c, 1]);
        for value in [0, first, last, 0, (last - first).wrapping_add(1)] {
            self.0.extend_from_slice(&value.to_le_bytes());
        }
        self
    }

    /// Granularity, first, last, translation, length; 16 bits cannot say 0x10000 whole.
    fn word_range(&mut self, first: u16, last: u16) {
        let length = (last - first).wrapping_add(1);
        for value in [0, first, last, 0, length] {
            self.word(value);
        }
    }

    fn word(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn dword(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Adds the end tag, whose checksum of zero means "none".
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0x79, 0]);
        self.0
    }
}
