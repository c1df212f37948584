//! Placeholder until its parts land.
#![no_std]
pub mod softfloat;
