//! The operations of SSE, AVX, FMA and F16C, one element at a time.
