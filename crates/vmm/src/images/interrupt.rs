//! SIGINT, SIGTERM and SIGHUP while an image is put together: noticed between steps, so that what
//! was begun is cleared away before the program ends.

use super::ImageError;
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Watches for signals while it lives.
pub struct Interrupt {
    /// The latest signal, or 0.
    number: Arc<AtomicUsize>,
    ids: Vec<SigId>,
}

impl Interrupt {
    /// Begins. A signal that cannot be watched keeps its effect.
    pub fn watch() -> Self {
        let number = Arc::new(AtomicUsize::new(0));
        let ids = [SIGINT, SIGTERM, SIGHUP]
            .into_iter()
            .filter_map(|signal| {
                signal_hook::flag::register_usize(signal, number.clone(), signal as usize).ok()
            })
            .collect();
        Interrupt { number, ids }
    }

    /// An error once a signal has come.
    pub fn check(&self) -> Result<(), ImageError> {
        match self.number.load(Ordering::SeqCst) {
            0 => Ok(()),
            number => Err(ImageError::Interrupted(number as i32)),
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
