//! The keyboard controller of a PC with a keyboard and a mouse ("8042" in IBM's "Personal
//! System/2 Hardware Interface Technical Reference", 1990: "Keyboard and Auxiliary Device
//! Controller", "Keyboard", "Mouse"; the wheel by Microsoft's IntelliMouse protocol).
//!
//! Region 0 is port 0x60 (data), region 1 is port 0x64 (status and command). Line 0 is IRQ 1,
//! line 1 is IRQ 12. The machine calls [`I8042::key`] and [`I8042::mouse`], and asks
//! [`I8042::a20`].
//!
//! Decisions and departures from hardware:
//! - Devices answer at once; there are no serial clocks, no parity or timeout errors.
//! - The A20 gate is kept for the machine to ask for; whether it acts is the machine's matter.
//! - Typematic repeat is the host's: keys come in as often as the host repeats them.
//! - Scan code sets 1 and 2 (set 3 is refused, as by many keyboards), and the translation of set
//!   2 to set 1 that is on by default.
//! - The mouse has no scaling by 2:1 in its data, only in its status.

use crate::{Context, Device, Inspector, LoadError, Power, load_state, save_state};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

const STATUS_OUTPUT_FULL: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;
const STATUS_AUX_FULL: u8 = 0x20;

/// Bits of the controller's command byte.
const CB_IRQ1: u8 = 0x01;
const CB_IRQ12: u8 = 0x02;
const CB_SYSTEM: u8 = 0x04;
const CB_KEYBOARD_OFF: u8 = 0x10;
const CB_MOUSE_OFF: u8 = 0x20;
const CB_TRANSLATE: u8 = 0x40;

/// Bits of the output port.
const OUT_NO_RESET: u8 = 0x01;
const OUT_A20: u8 = 0x02;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
const OVERRUN: u8 = 0x00;

/// Bytes a device holds back for the controller (a keyboard has 16; answers need a few more).
const KEYS: usize = 32;
const MOVES: usize = 64;

/// Scan code set 2 to set 1: what the controller's ROM does if translation is on. Codes from
/// 0x80 on stay, but for two.
const TRANSLATION: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

fn translated(code: u8) -> u8 {
    match code {
        0x83 => 0x41,
        0x84 => 0x54,
        _ => TRANSLATION.get(usize::from(code)).copied().unwrap_or(code),
    }
}

/// What the next byte to port 0x60 belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Expects {
    /// The keyboard.
    Keyboard,
    /// The controller's memory at this address (commands 0x60 to 0x7F).
    Memory(u8),
    /// The output port (0xD1).
    OutputPort,
    /// The keyboard's (0xD2) or the mouse's (0xD3) output buffer.
    KeyboardBuffer,
    MouseBuffer,
    /// The mouse (0xD4).
    Mouse,
}

/// Where the byte in the output buffer comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Source {
    Controller,
    Keyboard,
    Mouse,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Keyboard {
    /// Bytes for the controller: answers and scan codes.
    queue: VecDeque<u8>,
    scanning: bool,
    /// 1 or 2.
    set: u8,
    leds: u8,
    typematic: u8,
    /// A command that waits for its parameter.
    command: Option<u8>,
    /// The last byte sent, for RESEND.
    last: u8,
}

impl Keyboard {
    fn new() -> Keyboard {
        Keyboard {
            queue: VecDeque::new(),
            scanning: true,
            set: 2,
            leds: 0,
            typematic: 0x2b,
            command: None,
            last: 0,
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.queue.len() + bytes.len() <= KEYS {
            self.queue.extend(bytes);
        }
    }

    /// "Keyboard Commands from the System".
    fn receive(&mut self, byte: u8) {
        if byte < 0x80
            && let Some(command) = self.command.take()
        {
            match command {
                0xed => self.leds = byte & 7,
                0xf3 => self.typematic = byte & 0x7f,
                // 0xF0: the scan code set; 0 asks.
                _ => match byte {
                    0 => {
                        self.answer(&[ACK, self.set]);
                        return;
                    }
                    1 | 2 => self.set = byte,
                    _ => {
                        self.answer(&[RESEND]);
                        return;
                    }
                },
            }
            self.answer(&[ACK]);
            return;
        }
        self.command = None;
        match byte {
            0xed | 0xf0 | 0xf3 => {
                self.command = Some(byte);
                self.answer(&[ACK]);
            }
            0xee => self.answer(&[0xee]),
            0xf2 => self.answer(&[ACK, 0xab, 0x83]),
            0xf4 => {
                self.queue.clear();
                self.scanning = true;
                self.answer(&[ACK]);
            }
            0xf5 | 0xf6 => {
                let leds = self.leds;
                *self = Keyboard::new();
                self.leds = leds;
                self.scanning = byte == 0xf6;
                self.answer(&[ACK]);
            }
            // Key types of set 3: accepted, without effect in sets 1 and 2.
            0xf7..=0xfa => self.answer(&[ACK]),
            0xfe => {
                let last = self.last;
                self.answer(&[last]);
            }
            0xff => {
                *self = Keyboard::new();
                self.answer(&[ACK, SELF_TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    /// A key goes down or up: its bytes in the chosen set, from set 2's make code.
    fn key(&mut self, prefix: bool, code: u8, down: bool) {
        if !self.scanning {
            return;
        }
        let mut bytes = [0; 3];
        let mut n = 0;
        let mut put = |b| {
            bytes[n] = b;
            n += 1;
        };
        if prefix {
            put(0xe0);
        }
        if self.set == 1 {
            put(translated(code) | if down { 0 } else { 0x80 });
        } else {
            if !down {
                put(0xf0);
            }
            put(code);
        }
        // Room for an answer stays. "Buffer overrun": one 00 stands for all keys lost.
        if self.queue.len() + n <= KEYS - 8 {
            self.queue.extend(&bytes[..n]);
        } else if self.queue.back() != Some(&OVERRUN) && self.queue.len() < KEYS - 4 {
            self.queue.push_back(OVERRUN);
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Mouse {
    queue: VecDeque<u8>,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scaling: bool,
    resolution: u8,
    rate: u8,
    /// 0 for a plain mouse, 3 with a wheel.
    id: u8,
    /// How far the knock 200, 100, 80 has come.
    knock: u8,
    command: Option<u8>,
    /// Not yet reported movement and the buttons.
    dx: i16,
    dy: i16,
    dz: i16,
    buttons: u8,
    changed: bool,
    last: u8,
}

impl Mouse {
    fn new() -> Mouse {
        Mouse {
            queue: VecDeque::new(),
            reporting: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            rate: 100,
            id: 0,
            knock: 0,
            command: None,
            dx: 0,
            dy: 0,
            dz: 0,
            buttons: 0,
            changed: false,
            last: 0,
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.queue.len() + bytes.len() <= MOVES {
            self.queue.extend(bytes);
        }
    }

    fn defaults(&mut self) {
        let (id, buttons) = (self.id, self.buttons);
        *self = Mouse::new();
        self.id = id;
        self.buttons = buttons;
    }

    /// The movement counters start again.
    fn forget(&mut self) {
        (self.dx, self.dy, self.dz) = (0, 0, 0);
        self.changed = false;
    }

    /// "Mouse Commands".
    fn receive(&mut self, byte: u8) {
        if let Some(command) = self.command.take() {
            if command == 0xf3 {
                self.rate = byte;
                // The IntelliMouse knock turns the wheel on.
                self.knock = match (self.knock, byte) {
                    (_, 200) => 1,
                    (1, 100) => 2,
                    (2, 80) => {
                        self.id = 3;
                        0
                    }
                    _ => 0,
                };
            } else {
                self.resolution = byte & 3;
            }
            self.answer(&[ACK]);
            return;
        }
        if self.wrap && !matches!(byte, 0xec | 0xff) {
            self.answer(&[byte]);
            return;
        }
        match byte {
            0xe6 | 0xe7 => self.scaling = byte == 0xe7,
            0xe8 | 0xf3 => self.command = Some(byte),
            0xe9 => {
                let status = u8::from(self.remote) << 6
                    | u8::from(self.reporting) << 5
                    | u8::from(self.scaling) << 4
                    // Left is bit 2, right bit 0 here.
                    | (self.buttons & 1) << 2
                    | (self.buttons & 4) >> 1
                    | (self.buttons & 2) >> 1;
                let (resolution, rate) = (self.resolution, self.rate);
                self.answer(&[ACK, status, resolution, rate]);
                return;
            }
            0xea => {
                self.remote = false;
                self.forget();
            }
            0xeb => {
                self.answer(&[ACK]);
                self.report();
                return;
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => {
                self.remote = true;
                self.forget();
            }
            0xf2 => {
                let id = self.id;
                self.answer(&[ACK, id]);
                return;
            }
            0xf4 => {
                self.reporting = true;
                self.forget();
            }
            0xf5 => self.reporting = false,
            0xf6 => self.defaults(),
            0xfe => {
                let last = self.last;
                self.answer(&[last]);
                return;
            }
            0xff => {
                let buttons = self.buttons;
                *self = Mouse::new();
                self.buttons = buttons;
                self.answer(&[ACK, SELF_TEST_PASSED, 0]);
                return;
            }
            _ => {
                self.answer(&[RESEND]);
                return;
            }
        }
        self.answer(&[ACK]);
    }

    fn moved(&mut self, dx: i16, dy: i16, dz: i16, buttons: u8) {
        let buttons = buttons & 7;
        self.changed |= dx != 0 || dy != 0 || dz != 0 || buttons != self.buttons;
        self.dx = self.dx.saturating_add(dx);
        self.dy = self.dy.saturating_add(dy);
        self.dz = self.dz.saturating_add(dz);
        self.buttons = buttons;
        self.stream();
    }

    /// In stream mode reports what has moved, as long as there is room for a whole report.
    fn stream(&mut self) {
        while self.changed
            && self.reporting
            && !self.remote
            && !self.wrap
            && self.queue.len() + 4 <= MOVES / 2
        {
            self.report();
        }
    }

    /// A data report: at most 255 steps each way, the rest follows in the next one.
    fn report(&mut self) {
        let take = |d: &mut i16, most: i16| {
            let now = (*d).clamp(-most, most);
            *d -= now;
            now
        };
        let dx = take(&mut self.dx, 255);
        let dy = take(&mut self.dy, 255);
        let mut first = 0x08 | self.buttons;
        first |= u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        self.answer(&[first, dx as u8, dy as u8]);
        if self.id == 3 {
            let dz = take(&mut self.dz, 7);
            self.answer(&[dz as u8]);
        } else {
            self.dz = 0;
        }
        self.changed = self.dx != 0 || self.dy != 0 || self.dz != 0;
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct State {
    /// The output buffer: a byte and where it comes from.
    output: Option<(u8, Source)>,
    /// What port 0x60 reads when nothing is new.
    stale: u8,
    command_byte: u8,
    output_port: u8,
    /// The controller's memory beyond the command byte.
    memory: Vec<u8>,
    expects: Expects,
    /// The last write went to port 0x64.
    last_was_command: bool,
    /// Answers of the controller that wait.
    answers: VecDeque<u8>,
    /// In translation: 0xF0 was there.
    break_code: bool,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl State {
    fn new() -> State {
        State {
            output: None,
            stale: 0,
            // As firmware leaves it: interrupts on, system flag, translation.
            command_byte: CB_IRQ1 | CB_SYSTEM | CB_TRANSLATE | CB_MOUSE_OFF,
            output_port: 0xcc | OUT_NO_RESET | OUT_A20,
            memory: alloc::vec![0; 32],
            expects: Expects::Keyboard,
            last_was_command: false,
            answers: VecDeque::new(),
            break_code: false,
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
        }
    }

    fn answer(&mut self, byte: u8) {
        if self.answers.len() < 16 {
            self.answers.push_back(byte);
        }
    }

    /// Fills the output buffer, if it is empty, from whoever has something.
    fn fill(&mut self) {
        self.mouse.stream();
        while self.output.is_none() {
            if let Some(byte) = self.answers.pop_front() {
                self.output = Some((byte, Source::Controller));
            } else if self.command_byte & CB_KEYBOARD_OFF == 0 && !self.keyboard.queue.is_empty() {
                let byte = self.keyboard.queue.pop_front().unwrap_or(0);
                self.keyboard.last = byte;
                self.take_from_keyboard(byte);
            } else if self.command_byte & CB_MOUSE_OFF == 0 && !self.mouse.queue.is_empty() {
                let byte = self.mouse.queue.pop_front().unwrap_or(0);
                self.mouse.last = byte;
                self.output = Some((byte, Source::Mouse));
            } else {
                return;
            }
        }
    }

    fn take_from_keyboard(&mut self, byte: u8) {
        if self.command_byte & CB_TRANSLATE == 0 {
            self.break_code = false;
            self.output = Some((byte, Source::Keyboard));
        } else if byte == 0xf0 {
            // The break prefix becomes bit 7 of the code that follows.
            self.break_code = true;
        } else {
            let flag = if core::mem::take(&mut self.break_code) {
                0x80
            } else {
                0
            };
            self.output = Some((translated(byte) | flag, Source::Keyboard));
        }
    }

    fn status(&self) -> u8 {
        let mut status = STATUS_UNLOCKED | self.command_byte & STATUS_SYSTEM;
        if self.last_was_command {
            status |= STATUS_COMMAND;
        }
        match self.output {
            Some((_, Source::Mouse)) => status |= STATUS_OUTPUT_FULL | STATUS_AUX_FULL,
            Some(_) => status |= STATUS_OUTPUT_FULL,
            None => {}
        }
        status
    }
}

/// A keyboard controller with keyboard and mouse.
pub struct I8042 {
    state: State,
}

impl Default for I8042 {
    fn default() -> Self {
        Self::new()
    }
}

impl I8042 {
    /// A controller as firmware leaves it: keyboard on, translation on, mouse off.
    pub fn new() -> I8042 {
        I8042 {
            state: State::new(),
        }
    }

    /// True if the A20 gate is open (addresses are not wrapped at 1 MiB).
    pub fn a20(&self) -> bool {
        self.state.output_port & OUT_A20 != 0
    }

    /// A key goes down or up. `code` is the make code of scan code set 2, with 0xE000 added for
    /// the extended keys: 0x1C for A, 0xE074 for the right arrow. Pause is 0xE11477.
    pub fn key(&mut self, cx: &mut Context<'_>, code: u32, down: bool) {
        if code == 0xe1_1477 {
            // Pause has no break code: make and break come together.
            let keyboard = &mut self.state.keyboard;
            let bytes: &[u8] = match keyboard.set {
                1 => &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
                _ => &[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77],
            };
            if down && keyboard.scanning && keyboard.queue.len() + bytes.len() <= KEYS - 8 {
                keyboard.queue.extend(bytes);
            }
        } else {
            let prefix = code & 0xff00 == 0xe000;
            self.state.keyboard.key(prefix, code as u8, down);
        }
        self.update(cx);
    }

    /// The mouse has moved: right, up, wheel towards the user are positive. `buttons`: bit 0
    /// left, 1 right, 2 middle.
    pub fn mouse(&mut self, cx: &mut Context<'_>, dx: i16, dy: i16, dz: i16, buttons: u8) {
        self.state.mouse.moved(dx, dy, dz, buttons);
        self.update(cx);
    }

    /// Room in the keyboard's buffer: a machine that types for the user waits while this is
    /// false.
    pub fn keyboard_ready(&self) -> bool {
        self.state.keyboard.queue.len() <= KEYS / 2
    }

    /// The keyboard's lights: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    pub fn leds(&self) -> u8 {
        self.state.keyboard.leds
    }

    /// The one place where lines change: the output buffer is filled and shown.
    fn update(&mut self, cx: &mut Context<'_>) {
        let s = &mut self.state;
        s.fill();
        let (irq1, irq12) = match s.output {
            Some((_, Source::Mouse)) => (false, s.command_byte & CB_IRQ12 != 0),
            Some((_, Source::Keyboard)) => (s.command_byte & CB_IRQ1 != 0, false),
            // An answer of the controller interrupts like a key.
            Some((_, Source::Controller)) => (s.command_byte & CB_IRQ1 != 0, false),
            None => (false, false),
        };
        cx.wires.set_line(0, irq1);
        cx.wires.set_line(1, irq12);
    }

    fn read_data(&mut self, cx: &mut Context<'_>) -> u8 {
        let s = &mut self.state;
        if let Some((byte, _)) = s.output.take() {
            s.stale = byte;
            // The lines fall between two bytes: each is an edge of its own.
            cx.wires.set_line(0, false);
            cx.wires.set_line(1, false);
        }
        let byte = s.stale;
        self.update(cx);
        byte
    }

    fn write_data(&mut self, cx: &mut Context<'_>, byte: u8) {
        let s = &mut self.state;
        s.last_was_command = false;
        match core::mem::replace(&mut s.expects, Expects::Keyboard) {
            Expects::Keyboard => {
                // "Writing to the keyboard enables it."
                s.command_byte &= !CB_KEYBOARD_OFF;
                s.keyboard.receive(byte);
            }
            Expects::Memory(0) => s.command_byte = byte,
            Expects::Memory(at) => {
                if let Some(place) = s.memory.get_mut(usize::from(at)) {
                    *place = byte;
                }
            }
            Expects::OutputPort => self.set_output_port(cx, byte),
            Expects::KeyboardBuffer => s.output = Some((byte, Source::Keyboard)),
            Expects::MouseBuffer => s.output = Some((byte, Source::Mouse)),
            Expects::Mouse => {
                s.command_byte &= !CB_MOUSE_OFF;
                s.mouse.receive(byte);
            }
        }
        self.update(cx);
    }

    fn set_output_port(&mut self, cx: &mut Context<'_>, byte: u8) {
        self.state.output_port = byte;
        if byte & OUT_NO_RESET == 0 {
            cx.wires.power(Power::Reset);
        }
    }

    fn write_command(&mut self, cx: &mut Context<'_>, command: u8) {
        let s = &mut self.state;
        s.last_was_command = true;
        s.expects = Expects::Keyboard;
        match command {
            0x20 => s.answer(s.command_byte),
            0x21..=0x3f => {
                let byte = s.memory.get(usize::from(command & 0x1f)).copied();
                s.answer(byte.unwrap_or(0));
            }
            0x60..=0x7f => s.expects = Expects::Memory(command & 0x1f),
            0xa7 => s.command_byte |= CB_MOUSE_OFF,
            0xa8 => s.command_byte &= !CB_MOUSE_OFF,
            // Interface tests: no error.
            0xa9 | 0xab => s.answer(0),
            0xaa => {
                // The self test leaves both devices' interfaces off.
                s.command_byte |= CB_KEYBOARD_OFF | CB_MOUSE_OFF | CB_SYSTEM;
                s.output = None;
                s.answers.clear();
                s.answer(0x55);
            }
            0xad => s.command_byte |= CB_KEYBOARD_OFF,
            0xae => s.command_byte &= !CB_KEYBOARD_OFF,
            // Input port: not inhibited, no manufacturing jumper.
            0xc0 => s.answer(0xa0),
            0xd0 => {
                let full = match s.output {
                    Some((_, Source::Mouse)) => 0x20,
                    Some(_) => 0x10,
                    None => 0,
                };
                s.answer(s.output_port & !0x30 | full);
            }
            0xd1 => s.expects = Expects::OutputPort,
            0xd2 => s.expects = Expects::KeyboardBuffer,
            0xd3 => s.expects = Expects::MouseBuffer,
            0xd4 => s.expects = Expects::Mouse,
            0xdd => s.output_port &= !OUT_A20,
            0xdf => s.output_port |= OUT_A20,
            // Test inputs: both clocks are high unless switched off.
            0xe0 => {
                let off = s.command_byte & CB_KEYBOARD_OFF != 0;
                s.answer(u8::from(!off));
            }
            // Pulse output port bits 0 to 3 low, those that are 0: bit 0 is the processor's reset.
            0xf0..=0xff if command & OUT_NO_RESET == 0 => cx.wires.power(Power::Reset),
            _ => {}
        }
        self.update(cx);
    }
}

impl Device for I8042 {
    fn name(&self) -> &'static str {
        "i8042"
    }

    fn read(&mut self, cx: &mut Context<'_>, region: u8, _offset: u64, _size: u8) -> u64 {
        let byte = match region {
            0 => self.read_data(cx),
            _ => self.state.status(),
        };
        byte.into()
    }

    fn write(&mut self, cx: &mut Context<'_>, region: u8, _offset: u64, _size: u8, value: u64) {
        match region {
            0 => self.write_data(cx, value as u8),
            _ => self.write_command(cx, value as u8),
        }
    }

    fn reset(&mut self, cx: &mut Context<'_>) {
        self.state = State::new();
        self.update(cx);
    }

    fn save(&self) -> Vec<u8> {
        let I8042 { state } = self;
        save_state(1, state)
    }

    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let new: State = load_state(1, section)?;
        let invalid = |field, why| Err(LoadError::Invalid { field, why });
        if new.memory.len() != 32 {
            return invalid("memory", format!("{} bytes", new.memory.len()));
        }
        if new.answers.len() > 16 {
            return invalid("answers", format!("{} bytes", new.answers.len()));
        }
        if new.keyboard.queue.len() > KEYS {
            let why = format!("{} bytes", new.keyboard.queue.len());
            return invalid("keyboard.queue", why);
        }
        if !matches!(new.keyboard.set, 1 | 2) {
            return invalid("keyboard.set", format!("{}", new.keyboard.set));
        }
        if !matches!(new.keyboard.command, None | Some(0xed | 0xf0 | 0xf3)) {
            return invalid("keyboard.command", format!("{:?}", new.keyboard.command));
        }
        if new.mouse.queue.len() > MOVES {
            let why = format!("{} bytes", new.mouse.queue.len());
            return invalid("mouse.queue", why);
        }
        if !matches!(new.mouse.id, 0 | 3) || new.mouse.buttons > 7 {
            return invalid("mouse", format!("{:?}", new.mouse));
        }
        if !matches!(new.mouse.command, None | Some(0xe8 | 0xf3)) {
            return invalid("mouse.command", format!("{:?}", new.mouse.command));
        }
        if matches!(new.expects, Expects::Memory(at) if at > 31) {
            return invalid("expects", format!("{:?}", new.expects));
        }
        self.state = new;
        Ok(())
    }

    fn inspect(&self, out: &mut Inspector) {
        let s = &self.state;
        out.hex("status", s.status().into());
        out.hex("command byte", s.command_byte.into());
        out.hex("output port", s.output_port.into());
        out.tree("keyboard", |out| {
            out.value("scanning", s.keyboard.scanning);
            out.value("scan code set", s.keyboard.set);
            out.hex("leds", s.keyboard.leds.into());
            out.value("waiting", s.keyboard.queue.len());
        });
        out.tree("mouse", |out| {
            out.value("reporting", s.mouse.reporting);
            out.value("id", s.mouse.id);
            out.value("waiting", s.mouse.queue.len());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;
    use mem::GuestMemory;

    struct Bench {
        chip: I8042,
        wires: Recorder,
        memory: GuestMemory,
    }

    impl Bench {
        fn new() -> Bench {
            Bench {
                chip: I8042::new(),
                wires: Recorder::default(),
                memory: GuestMemory::flat(0x1000).unwrap(),
            }
        }
        fn with<R>(&mut self, f: impl FnOnce(&mut I8042, &mut Context<'_>) -> R) -> R {
            let mut cx = Context {
                now_ns: 0,
                memory: &self.memory,
                wires: &mut self.wires,
            };
            f(&mut self.chip, &mut cx)
        }
        fn command(&mut self, byte: u8) {
            self.with(|c, cx| c.write(cx, 1, 0, 1, byte.into()));
        }
        fn data(&mut self, byte: u8) {
            self.with(|c, cx| c.write(cx, 0, 0, 1, byte.into()));
        }
        fn status(&mut self) -> u8 {
            self.with(|c, cx| c.read(cx, 1, 0, 1) as u8)
        }
        /// Everything that waits, with the mouse's bytes marked by 0x100.
        fn drain(&mut self) -> Vec<u16> {
            let mut got = Vec::new();
            loop {
                let status = self.status();
                if status & 1 == 0 {
                    return got;
                }
                let mouse = u16::from(status & STATUS_AUX_FULL) << 3;
                got.push(self.with(|c, cx| c.read(cx, 0, 0, 1) as u16) | mouse);
            }
        }
        fn mouse_command(&mut self, bytes: &[u8]) -> Vec<u16> {
            let mut got = Vec::new();
            for &b in bytes {
                self.command(0xd4);
                self.data(b);
                got.extend(self.drain());
            }
            got
        }
    }

    #[test]
    fn the_controller_tests_itself_and_keeps_its_command_byte() {
        let mut b = Bench::new();
        b.command(0xaa);
        assert_eq!(b.status() & (STATUS_SYSTEM | STATUS_COMMAND), 0x0c);
        assert_eq!(b.drain(), [0x55]);
        b.command(0xab);
        b.command(0xa9);
        assert_eq!(b.drain(), [0, 0]);
        b.command(0x60);
        b.data(0x43);
        b.command(0x20);
        assert_eq!(b.drain(), [0x43]);
        b.command(0x65);
        b.data(0x99);
        b.command(0x25);
        assert_eq!(b.drain(), [0x99]);
    }

    #[test]
    fn keys_come_translated_with_an_edge_for_each_byte() {
        let mut b = Bench::new();
        b.with(|c, cx| c.key(cx, 0x1c, true));
        assert!(b.wires.lines[&0]);
        b.with(|c, cx| c.key(cx, 0x1c, false));
        b.with(|c, cx| c.key(cx, 0xe074, true));
        b.with(|c, cx| c.key(cx, 0xe074, false));
        assert_eq!(b.drain(), [0x1e, 0x9e, 0xe0, 0x4d, 0xe0, 0xcd]);
        assert_eq!(b.wires.edges[&0], 6);
        assert!(!b.wires.lines[&0]);
        b.with(|c, cx| c.key(cx, 0xe1_1477, true));
        assert_eq!(b.drain(), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    }

    #[test]
    fn without_translation_keys_come_in_the_chosen_set() {
        let mut b = Bench::new();
        b.command(0x60);
        b.data(0x05);
        b.with(|c, cx| c.key(cx, 0x1c, true));
        b.with(|c, cx| c.key(cx, 0x1c, false));
        assert_eq!(b.drain(), [0x1c, 0xf0, 0x1c]);
        b.data(0xf0);
        b.data(1);
        assert_eq!(b.drain(), [0xfa, 0xfa]);
        b.with(|c, cx| c.key(cx, 0x1c, false));
        assert_eq!(b.drain(), [0x9e]);
        b.data(0xf0);
        b.data(0);
        assert_eq!(b.drain(), [0xfa, 0xfa, 1]);
        b.data(0xf0);
        b.data(3);
        assert_eq!(b.drain(), [0xfa, 0xfe], "no set 3");
    }

    #[test]
    fn the_keyboard_answers_its_commands() {
        let mut b = Bench::new();
        b.data(0xff);
        assert_eq!(b.drain(), [0xfa, 0xaa]);
        b.data(0xf2);
        assert_eq!(
            b.drain(),
            [0xfa, 0xab, 0x41],
            "translated: 0x83 becomes 0x41"
        );
        b.data(0xed);
        b.data(0x07);
        assert_eq!(b.drain(), [0xfa, 0xfa]);
        assert_eq!(b.chip.leds(), 7);
        b.data(0xee);
        assert_eq!(b.drain(), [0xee]);
        b.data(0xfe);
        assert_eq!(b.drain(), [0xee], "resend");
        b.data(0xf5);
        assert_eq!(b.drain(), [0xfa]);
        b.with(|c, cx| c.key(cx, 0x1c, true));
        assert_eq!(b.drain(), [], "disabled");
        b.data(0xf4);
        b.data(0x00);
        assert_eq!(b.drain(), [0xfa, 0xfe]);
    }

    #[test]
    fn keys_wait_while_the_interface_is_off_and_too_many_are_an_overrun() {
        let mut b = Bench::new();
        b.command(0xad);
        for _ in 0..100 {
            b.with(|c, cx| c.key(cx, 0x1c, true));
        }
        assert_eq!(b.status() & 1, 0);
        assert!(!b.chip.keyboard_ready());
        b.command(0xae);
        let got = b.drain();
        assert_eq!(got.len(), 25);
        assert_eq!(got[24], 0xff, "0 translates to FF");
        b.data(0xee);
        assert_eq!(b.drain(), [0xee]);
    }

    #[test]
    fn the_mouse_is_found_knocked_and_reports() {
        let mut b = Bench::new();
        b.command(0xa8);
        b.command(0x60);
        b.data(0x47);
        assert_eq!(b.mouse_command(&[0xff]), [0x1fa, 0x1aa, 0x100]);
        assert!(b.wires.edges[&1] >= 3);
        assert_eq!(b.mouse_command(&[0xf2]), [0x1fa, 0x100]);
        b.mouse_command(&[0xf3, 200, 0xf3, 100, 0xf3, 80]);
        assert_eq!(b.mouse_command(&[0xf2]), [0x1fa, 0x103]);
        b.with(|c, cx| c.mouse(cx, 5, -3, 0, 0));
        assert_eq!(b.drain(), [], "not reporting");
        b.mouse_command(&[0xf4]);
        b.with(|c, cx| c.mouse(cx, 300, 0, -1, 1));
        let got = b.drain();
        assert_eq!(got[..4], [0x109, 0x1ff, 0x100, 0x1ff]);
        assert_eq!(got[4..], [0x109, 0x12d, 0x100, 0x100], "the rest");
        b.with(|c, cx| c.mouse(cx, -1, -2, 0, 1));
        assert_eq!(b.drain(), [0x139, 0x1ff, 0x1fe, 0x100]);
        assert_eq!(b.mouse_command(&[0xe9]), [0x1fa, 0x124, 0x102, 0x150]);
    }

    #[test]
    fn a_mouse_in_remote_mode_speaks_when_asked() {
        let mut b = Bench::new();
        b.command(0xa8);
        b.mouse_command(&[0xff, 0xf0, 0xf4]);
        b.with(|c, cx| c.mouse(cx, 1, 1, 0, 2));
        assert_eq!(b.drain(), []);
        assert_eq!(b.mouse_command(&[0xeb]), [0x1fa, 0x10a, 0x101, 0x101]);
    }

    #[test]
    fn a20_and_reset_are_the_output_ports() {
        let mut b = Bench::new();
        assert!(b.chip.a20());
        b.command(0xdd);
        assert!(!b.chip.a20());
        b.command(0xd1);
        b.data(0xdf);
        assert!(b.chip.a20());
        b.command(0xd0);
        assert_eq!(b.drain(), [0xcf]);
        b.command(0xff);
        assert!(b.wires.power.is_empty(), "pulses nothing");
        b.command(0xfe);
        b.command(0xd1);
        b.data(0xde);
        assert_eq!(b.wires.power, [Power::Reset, Power::Reset]);
    }

    #[test]
    fn it_keeps_the_contract() {
        crate::contract::check(&[1, 1], I8042::new);
    }
}
