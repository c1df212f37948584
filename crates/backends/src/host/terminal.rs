//! The user's terminal in raw mode, restored on every way out.
//!
//! The mode it had is kept in one place of the process, so that whoever notices the end first
//! (the guard's drop, the panic hook, a signal's handling in `vmm`) restores it, once.

use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcsetattr};
use std::sync::{Mutex, Once, PoisonError};

/// The mode to go back to, while the terminal is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal is raw as long as this lives.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes the terminal at standard input raw, so that every key goes to the guest. `None` if
    /// standard input is no terminal. Output processing stays on: a lone line feed, as debug
    /// ports and our own messages have, still begins a new line.
    pub fn enter() -> std::io::Result<Option<RawMode>> {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return Ok(None);
        }
        restore_on_panic();
        let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
        let now = tcgetattr(stdin)?;
        let mut raw = now.clone();
        raw.make_raw();
        raw.output_modes |= now.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
        // A second guard must not take raw mode for the user's.
        before.get_or_insert(now);
        tcsetattr(stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(RawMode(())))
    }

    /// Gives the terminal back before the drop.
    pub fn restore(&self) {
        restore();
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal its mode back, if it is raw. May be called at any time and often.
pub fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // The terminal may be gone (a hang-up), which is as good.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
    }
}

/// Restores the terminal before a panic's message is printed.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            next(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restoring_is_harmless_without_a_raw_terminal() {
        restore();
        restore();
    }
}
