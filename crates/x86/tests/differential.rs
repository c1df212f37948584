//! The differential test: every user-mode row of the instruction table, random cases, run by the
//! physical processor and by the interpreter, and compared completely.
//!
//! ```text
//! cargo test --release -p x86 --test differential                    the quick set
//! MOINHO_CASES=5000 cargo test --release -p x86 --test differential   a long run
//! MOINHO_SEED=7 MOINHO_ROW=Add_rm8_r8 MOINHO_CASE=123 …               one case, printed
//! ```
//!
//! `main` only forks workers and watches them: a worker generates a case from its seed, runs it
//! natively in its own address space (so it may die of it, and is then replaced), runs it in the
//! interpreter, and compares. What is not compared is listed in `departures`.
#![allow(missing_docs)]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "differential"]
mod parts {
    pub mod departures;
    pub mod generate;
    pub mod interpreted;
    pub mod native;
    pub mod rng;
    pub mod run;
    pub mod state;
}
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use parts::*;

fn main() {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    std::process::exit(run::main());
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    println!("skipped: needs Linux on x86-64");
}
