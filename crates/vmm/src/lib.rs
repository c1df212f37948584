//! Placeholder until its parts land.
#![forbid(unsafe_code)]

pub mod images;
