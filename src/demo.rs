//! Box, publishers, recording and receiver in one process.
