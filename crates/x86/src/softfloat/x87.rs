//! The operations of the x87.
