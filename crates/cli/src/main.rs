//! The program `moinho`.

fn main() {}
