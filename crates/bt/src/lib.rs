//! t
mod area; mod emit;
