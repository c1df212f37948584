//! Placeholder until its parts land.
#![no_std]
