//! When to try again, and what goes first.
