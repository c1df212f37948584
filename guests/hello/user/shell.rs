//! The first task: reads a line, edits it, obeys it.
//!
//! Keys: backspace, Ctrl-U (drop the line), Ctrl-C (drop the line, or stop what runs). The commands are in
//! `commands.rs`, and so is the list that `help` prints.
#![no_std]
#![no_main]

mod commands;
mod privileged;
mod sys;

use sys::{abi, call};

const PROMPT: &str = "moinho> ";

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    print!("Type `help` for the commands.\n");
    let mut keys = Keys {
        after_return: false,
    };
    let mut line = [0; 200];
    loop {
        print!("{PROMPT}");
        let len = keys.read_line(&mut line);
        match str::from_utf8(&line[..len]) {
            Ok(text) => commands::run(text.trim()),
            Err(_) => print!("That is not text.\n"),
        }
    }
}

/// The console's bytes, one at a time: what is not yet obeyed stays with the kernel, and survives us.
struct Keys {
    /// The last byte was CR: an LF after it belongs to the same key press.
    after_return: bool,
}

impl Keys {
    fn next(&mut self) -> u8 {
        let mut key = 0u8;
        call(abi::READ, &raw mut key as u64, 1, 0);
        key
    }

    /// Reads a line with echo; returns its length without the end.
    fn read_line(&mut self, line: &mut [u8]) -> usize {
        let mut len = 0;
        loop {
            let key = self.next();
            let line_feed_of_pair = key == b'\n' && self.after_return;
            self.after_return = key == b'\r';
            match key {
                b'\n' if line_feed_of_pair => {}
                b'\r' | b'\n' => {
                    print!("\n");
                    return len;
                }
                8 | 0x7f if len > 0 => {
                    // A character beyond ASCII is several bytes: drop its tail first.
                    while line[len - 1] & 0xc0 == 0x80 && len > 1 {
                        len -= 1;
                    }
                    len -= 1;
                    print!("\x08 \x08");
                }
                3 => {
                    print!("^C\n{PROMPT}");
                    len = 0;
                }
                0x15 => {
                    print!("\r\x1b[K{PROMPT}");
                    len = 0;
                }
                b' '.. if len < line.len() && key != 0x7f => {
                    line[len] = key;
                    len += 1;
                    call(abi::WRITE, &raw const key as u64, 1, 0);
                }
                _ => {}
            }
        }
    }
}
