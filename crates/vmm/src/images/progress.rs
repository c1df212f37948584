//! What a user sees while an image is being put together.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Told of each step and how far it is.
pub trait Progress: Sync {
    /// Step `name` has done `done` of `total` bytes; a `total` of 0 means unknown.
    fn step(&self, name: &str, done: u64, total: u64);
    /// There is nothing more to show.
    fn finish(&self) {}
}

/// Shows nothing.
pub struct Quiet;

impl Progress for Quiet {
    fn step(&self, _name: &str, _done: u64, _total: u64) {}
}

/// A bar on standard error; nothing where that is no terminal. It is gone when the work is done.
#[derive(Default)]
pub struct Terminal {
    bar: Mutex<Option<(String, ProgressBar)>>,
}

impl Terminal {
    /// A bar that appears with the first step.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Progress for Terminal {
    fn step(&self, name: &str, done: u64, total: u64) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let mut shown = self
            .bar
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (step, bar) = shown.get_or_insert_with(|| {
            let bar = ProgressBar::new(0).with_style(ProgressStyle::default_spinner());
            bar.enable_steady_tick(Duration::from_millis(100));
            (String::new(), bar)
        });
        if step != name {
            *step = name.to_owned();
            bar.reset();
            let form = match total {
                0 => "{spinner} {msg}  {bytes}",
                _ => "{spinner} {msg}  [{bar:20}] {bytes}/{total_bytes}",
            };
            if let Ok(style) = ProgressStyle::with_template(form) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(name.to_owned());
        }
        bar.set_length(total);
        bar.set_position(done);
    }

    fn finish(&self) {
        let mut shown = self
            .bar
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, bar)) = shown.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.finish();
    }
}
