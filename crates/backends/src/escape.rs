//! The escape keys of a terminal: Ctrl-A and a letter, which speak to the VM instead of the
//! guest. A pure state machine, fed byte by byte.
//!
//! It is used only when the input is a terminal: what comes from a pipe or a file goes to the
//! guest as it is, Ctrl-A included.

/// Ctrl-A.
pub const CTRL_A: u8 = 0x01;

/// What the keys do, for `Ctrl-A ?`.
pub const HELP: &str = "Ctrl-A x  end the VM\nCtrl-A a  send Ctrl-A to the guest\nCtrl-A ?  this\n";

/// What the user asks of the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// `Ctrl-A x`.
    Quit,
    /// `Ctrl-A ?` or `Ctrl-A h`: show [`HELP`].
    Help,
}

/// What becomes of a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Escaped {
    /// Nothing yet: it may begin a command.
    Held,
    /// It goes to the guest.
    Byte(u8),
    /// Ctrl-A was no escape: it and this byte go to the guest.
    Both(u8),
    /// A command.
    Command(Command),
}

/// The state: whether Ctrl-A was the last key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Escape {
    held: bool,
}

impl Escape {
    /// The next byte typed.
    pub fn feed(&mut self, byte: u8) -> Escaped {
        if !self.held {
            self.held = byte == CTRL_A;
            return if self.held {
                Escaped::Held
            } else {
                Escaped::Byte(byte)
            };
        }
        self.held = false;
        match byte {
            b'x' | b'X' => Escaped::Command(Command::Quit),
            b'?' | b'h' | b'H' => Escaped::Command(Command::Help),
            b'a' | b'A' | CTRL_A => Escaped::Byte(CTRL_A),
            _ => Escaped::Both(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &[u8], guest: &[u8], commands: &[Command]) {
        let (mut escape, mut to_guest, mut found) = (Escape::default(), vec![], vec![]);
        for &byte in typed {
            match escape.feed(byte) {
                Escaped::Held => {}
                Escaped::Byte(b) => to_guest.push(b),
                Escaped::Both(b) => to_guest.extend([CTRL_A, b]),
                Escaped::Command(c) => found.push(c),
            }
        }
        assert_eq!((&to_guest[..], &found[..]), (guest, commands), "{typed:?}");
    }

    #[test]
    fn ctrl_a_and_a_letter_is_a_command_and_nothing_else_is_lost() {
        check(b"hello", b"hello", &[]);
        check(b"\x01x", b"", &[Command::Quit]);
        check(b"a\x01?b", b"ab", &[Command::Help]);
        check(b"\x01a", b"\x01", &[]);
        check(b"\x01\x01x", b"\x01x", &[]);
        check(b"\x01z", b"\x01z", &[]);
        check(b"xx\x01", b"xx", &[]);
    }
}
