//! holdfast: an offline-safe room recorder for clinics.
//!
//! Read it in the order in which things happen: [`api`] is the door, [`rooms`] decides (by the pure rules of
//! [`model`]), [`media`] has the frames, [`spool`] is the safe shelf, [`upload`] the carrier, [`webhook`] the news, [`images`]
//! fetches what a layout shows beside people, [`panel`] has the lights and the button. [`package`] makes mp4 and aac
//! files of segments; [`container`] knows the bytes of transport streams and mp4 for both. [`vault`] is how files lie
//! encrypted on the shelf. [`alarms`] watches over what is recorded; [`fleet`] is the line to those who operate many
//! boxes. [`store`] remembers; [`config`] and [`health`] are asked by all; [`app`] puts the parts
//! together. At the points of [`crash`] tests let the box die.
//!
//! # Glossary
//! * **room**: people who meet; exists while someone is in it. **participant**: one of them, a user id.
//! * **track**: one stream of sound or pictures that a participant sends, main or aux.
//! * **task**: one recording that somebody asked for, from Create until its last file is at the destination.
//! * **lane**: what a task writes for one stream: one playlist and its segments.
//! * **run**: one unbroken life of a lane's pipeline. **segment**: a finished piece of a lane, 10 s or so.
//! * **spool**: the local disk where every segment is safe before anything else happens to it.
//! * **lease**: an upload's claim on a spooled file. **outbox**: events that the clinic's server has not yet taken.

#![deny(clippy::unwrap_used)]

pub mod alarms;
pub mod api;
pub mod app;
pub mod config;
pub mod container;
pub mod crash;
pub mod demo;
pub mod fleet;
pub mod health;
pub mod images;
pub mod media;
pub mod model;
pub mod package;
pub mod panel;
pub mod rooms;
pub mod spool;
pub mod store;
pub mod upload;
pub mod vault;
pub mod webhook;
