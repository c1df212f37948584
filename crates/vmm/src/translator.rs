//! What the user asks of the translator beside running the guest: optimisations switched off,
//! listings, counts, names for perf. Checked by [`crate::lifecycle`] before anything runs.

use crate::config::{Config, EngineChoice, UserError};
use bt::{Dump, Options, PerfMap, Switches};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The translator's part of a [`Config`].
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Translator {
    /// The optimisations.
    pub switches: Switches,
    /// Counts executions of blocks and the ways between them.
    pub count: bool,
    /// Where all blocks are listed.
    pub dump: Option<PathBuf>,
    /// Names blocks for `perf report`.
    pub perf_map: bool,
    /// MiB of translated code, of all processors together.
    pub cache_mib: Option<u32>,
    /// How long a program computes before the host's MMU is used for its memory.
    pub window_after: Option<Duration>,
}

/// Reads the names of optimisations that are to be off.
pub fn switches(names: &str) -> Result<Switches, UserError> {
    Switches::without(names).map_err(|why| {
        UserError::new(
            format_args!("--bt-no: {why}"),
            "give some of them, with commas between",
        )
    })
}

/// For the help: the names of the optimisations, and what the translator does with them.
pub fn optimisations() -> &'static [(&'static str, &'static str)] {
    Switches::ALL
}

/// What a processor under the translator takes beside its code cache, about, in bytes; and the
/// least that all caches have together by default.
const BESIDE_THE_CACHE: usize = 5 << 20;
const LEAST_TOGETHER: usize = 23 << 20;

/// Bytes of one processor's code cache: they share what there is, and what a second processor
/// takes besides comes off it, so that a machine of two takes no more memory than one of one.
fn code_cache(mib: Option<u32>, cpus: usize) -> Result<usize, UserError> {
    let (least, most) = bt::CODE_CACHE_BOUNDS;
    let Some(mib) = mib else {
        let others = BESIDE_THE_CACHE * (cpus - 1);
        let together = bt::CODE_CACHE.saturating_sub(others).max(LEAST_TOGETHER);
        return Ok((together / cpus).max(least) & !0xffff);
    };
    let (low, high) = ((least >> 20) * cpus, (most >> 20) * cpus);
    if !(low..=high).contains(&(mib as usize)) {
        return Err(UserError::new(
            format_args!("--bt-cache: {mib} MiB for {cpus} processors"),
            format_args!("give {low} to {high}"),
        ));
    }
    let one = ((mib as usize) << 20) / cpus;
    Ok(one & !0xffff)
}

/// The options of the engine. An error is the user's.
pub(crate) fn options(config: &Config) -> Result<Options, UserError> {
    let Translator {
        switches,
        count,
        dump,
        perf_map,
        cache_mib,
        window_after,
    } = &config.translator;
    let asked = [
        ("--dump-bt", dump.is_some()),
        ("--count-bt", *count),
        ("--perf-map", *perf_map),
        ("--bt-no", *switches != Switches::default()),
        ("--bt-cache", cache_mib.is_some()),
        ("--bt-window", window_after.is_some()),
    ];
    let translates = |choice| choice == EngineChoice::Bt;
    let comes = translates(config.engine) || config.moves.iter().any(|m| translates(m.0));
    if let Some((flag, _)) = asked.iter().find(|a| a.1 && !comes) {
        return Err(UserError::new(
            format_args!("{flag}: it is the translator's, and another engine may run"),
            "give --engine bt, too",
        ));
    }
    let create = |flag: &str, path: &Path| -> Result<_, UserError> {
        let file = File::create(path).map_err(|e| {
            UserError::new(
                format_args!("{flag} {}: {e}", path.display()),
                "give a file that can be written",
            )
        })?;
        Ok(BufWriter::new(file))
    };
    let dump = dump.as_deref().map(|path| create("--dump-bt", path));
    let map = format!("/tmp/perf-{}.map", std::process::id());
    let map = perf_map.then(|| create("--perf-map", Path::new(&map)));
    Ok(Options {
        switches: *switches,
        count: *count,
        window_after: *window_after,
        code_cache: Some(code_cache(*cache_mib, config.spec.cpus.max(1) as usize)?),
        dump: dump
            .transpose()?
            .map(|file| Arc::new(Dump::new(Box::new(file)))),
        perf_map: map
            .transpose()?
            .map(|file| Arc::new(PerfMap::new(Box::new(file)))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_share_the_code_cache_and_none_gets_less_than_it_needs() {
        let mib = |mib, cpus| code_cache(mib, cpus).map(|bytes| bytes as f64 / (1 << 20) as f64);
        assert_eq!(mib(None, 1), Ok(37.0));
        assert_eq!(mib(None, 2), Ok(16.0));
        assert_eq!(mib(None, 4), Ok(5.75));
        assert_eq!(mib(None, 64), Ok(2.0));
        assert_eq!(mib(Some(64), 2), Ok(32.0));
        for (given, cpus) in [(1, 1), (7, 4), (129, 1)] {
            assert!(mib(Some(given), cpus).is_err(), "{given} MiB for {cpus}");
        }
    }
}
