//! The second task: finds primes a few at a time, publishes how far it came, and sleeps in between.
#![no_std]
#![no_main]

mod sys;

use sys::{abi, call, is_prime};

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let (mut found, mut largest, mut candidate) = (0, 0, 2);
    loop {
        for _ in 0..100 {
            if is_prime(candidate) {
                found += 1;
                largest = candidate;
            }
            candidate += 1;
        }
        call(abi::REPORT, found, largest, 0);
        call(abi::SLEEP, abi::TICKS_PER_SECOND / 4, 0, 0);
    }
}
