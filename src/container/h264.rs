//! NAL units in a byte stream of H.264.
//!
//! Owns: start codes and the zeros between units. Must not touch: what the units say.
//! Law: units come out byte for byte and in order; none is empty.
//! Sources: ITU-T H.264 annex B.

use std::ops::Range;

use memchr::memmem;

/// A slice of a picture that needs no other picture.
pub const IDR: u8 = 5;
pub const SEQUENCE_SET: u8 = 7;
pub const PICTURE_SET: u8 = 8;
pub const DELIMITER: u8 = 9;
pub const FILLER: u8 = 12;

/// Type of a NAL unit.
pub fn kind(unit: &[u8]) -> u8 {
    unit.first().map_or(0, |head| head & 0x1f)
}

/// Where the NAL units of a byte stream are, without start codes and the zeros behind them.
pub fn places(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut codes = memmem::find_iter(bytes, &[0, 0, 1]);
    let mut begin = codes.next().map(|code| code + 3);
    std::iter::from_fn(move || {
        let from = begin?;
        let code = codes.next();
        begin = code.map(|code| code + 3);
        Some(from..code.unwrap_or(bytes.len()))
    })
    .map(|place| place.start..place.end - bytes[place].iter().rev().take_while(|byte| **byte == 0).count())
    .filter(|place| !place.is_empty())
}

/// The same, the units themselves.
pub fn units(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    places(bytes).map(|place| &bytes[place])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nal_units_are_found_without_what_is_between_them() {
        let bytes = [9, 9, 0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0, 0, 0, 0, 1, 0x65, 0, 3, 0, 0];
        let found: Vec<&[u8]> = units(&bytes).collect();
        assert_eq!(found, [&[0x67, 1][..], &[0x68, 2], &[0x65, 0, 3]]);
        assert_eq!(found.iter().map(|unit| kind(unit)).collect::<Vec<_>>(), [SEQUENCE_SET, PICTURE_SET, IDR]);
        assert_eq!(units(&[0, 0, 1, 0, 0, 1]).count(), 0, "nothing lies between them");
    }

    proptest! {
        #[test]
        fn what_is_joined_is_found_again(all in prop::collection::vec(prop::collection::vec(2u8.., 1..20), 0..10)) {
            let bytes: Vec<u8> = all.iter().flat_map(|unit| [&[0, 0, 1], &unit[..], &[0]].concat()).collect();
            prop_assert_eq!(units(&bytes).collect::<Vec<_>>(), all.iter().map(|unit| &unit[..]).collect::<Vec<_>>());
        }
    }
}
