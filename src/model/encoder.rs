//! From the elements that are there to the chain to use.
