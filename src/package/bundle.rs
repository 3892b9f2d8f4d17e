//! Bundles: the segments of a list, read once so that its plan tells what they hold.
//!
//! Owns: which segments can be read, their sums. Must not touch: what a list says (`model::bundle`).
//! Law: what cannot be read is named and left out, once for a task; what is in a packed file is not lost by that.

use std::collections::BTreeMap;

use super::shelf::Shelf;
use crate::model::made::Made;
use crate::model::package::Order;
use crate::model::packed::Packed;

/// Plans all lists of an order. `each` hears of every segment before it is read.
pub fn plan(order: &Order, made: &Made, shelf: &Shelf, each: &mut dyn FnMut(&str), packed: &mut Packed) {
    for list in &order.lists {
        let mut readable = BTreeMap::new();
        for (file, _) in &list.pieces {
            if packed.broken.iter().any(|(broken, _)| broken == file) {
                continue;
            }
            each(file);
            match shelf.read(file) {
                Ok(bytes) => drop(readable.insert(file.clone(), (bytes.len() as u64, crc32fast::hash(&bytes)))),
                Err(_) if made.holds(file) => {}
                Err(error) => packed.broken.push((file.clone(), error.to_string())),
            }
        }
        if let Some((file, plan)) = list.plan(&readable) {
            let text = serde_json::to_string(&plan).expect("a plan has text keys and no floats");
            packed.files.push((file, text));
        }
    }
}
