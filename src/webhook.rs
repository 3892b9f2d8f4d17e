//! The news.
