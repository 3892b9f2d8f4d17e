//! The safe shelf.
