//! What of a stranger's H.264 the parser gets to see.
//!
//! Owns: which units of a byte stream go on into `h264parse`. Must not touch: what is inside a unit.
//! Law: the parser sees the units of a plain picture and no others. Those of H.264's extensions (several views, layers)
//! and those that no standard has given a meaning are left out: the picture decodes without them, and no browser and no
//! camera that we know sends them. GStreamer 1.22 follows a null pointer in a subset parameter set that ends early, so
//! one packet of one participant would end the process, and with it every recording of the box.

use std::ops::Range;

use gstreamer as gst;
use gstreamer::prelude::*;
use memchr::memmem;

const PARSER: &str = "h264parse";
const START: &[u8] = &[0, 0, 1];

/// Puts a sieve before each parser of H.264 that is in `bin` now.
pub(super) fn guard(bin: &gst::Bin) {
    for parser in bin.iterate_all_by_element_factory_name(PARSER).into_iter().flatten() {
        let pad = parser.static_pad("sink").expect("a parser has a sink");
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, |_, info| {
            let passes = match &mut info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => sieved(buffer).is_none_or(|kept| replace(buffer, kept)),
                Some(gst::PadProbeData::BufferList(list)) => {
                    let kept: gst::BufferList = list.iter_owned().filter_map(passing).collect();
                    let some = !kept.is_empty();
                    *list = kept;
                    some
                }
                _ => true,
            };
            if passes { gst::PadProbeReturn::Ok } else { gst::PadProbeReturn::Drop }
        });
    }
}

fn passing(mut buffer: gst::Buffer) -> Option<gst::Buffer> {
    let passes = sieved(&buffer).is_none_or(|kept| replace(&mut buffer, kept));
    passes.then_some(buffer)
}

/// The parts of a buffer that go on; `None`: all of it.
fn sieved(buffer: &gst::Buffer) -> Option<Vec<Range<usize>>> {
    // what cannot be read here cannot be read by the parser
    kept(&buffer.map_readable().ok()?)
}

/// Leaves these parts of a buffer, without copying them; says whether there are any.
fn replace(buffer: &mut gst::Buffer, kept: Vec<Range<usize>>) -> bool {
    metrics::counter!("holdfast_lane_units_left_out_total").increment(1);
    let mut left = gst::Buffer::new();
    {
        let left = left.get_mut().expect("a new buffer has one owner");
        let flags = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
        if buffer.copy_into(left, flags, ..).is_err() {
            return false;
        }
    }
    for part in kept {
        match buffer.copy_region(gst::BufferCopyFlags::MEMORY, part) {
            Ok(part) => left.append(part),
            Err(_) => return false,
        }
    }
    let some = left.size() > 0;
    *buffer = left;
    some
}

/// The units that are of a plain picture (H.264 table 7-1): slices, parameter sets, SEI, delimiters, ends, filler.
fn plain(unit_type: u8) -> bool {
    (1..=12).contains(&unit_type)
}

/// The parts of a byte stream (H.264 annex B) that are plain units, start codes included; `None` when that is all.
/// What stands before the first start code belongs to the unit of the buffer before and stays.
fn kept(bytes: &[u8]) -> Option<Vec<Range<usize>>> {
    let starts: Vec<usize> = memmem::find_iter(bytes, START).collect();
    let unit_type = |start: &usize| bytes.get(start + START.len()).map_or(0, |header| header & 0x1f);
    if starts.iter().all(|start| plain(unit_type(start))) {
        return None;
    }
    // zeros before a start code belong to it
    let begin = |start: &usize| bytes[..*start].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let ends = starts.iter().skip(1).map(begin).chain([bytes.len()]);
    let first = starts.first().map(begin).filter(|first| *first > 0).map(|first| 0..first);
    let units = starts.iter().zip(ends).filter(|(start, _)| plain(unit_type(start)));
    Some(first.into_iter().chain(units.map(|(start, end)| begin(start)..end)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a byte stream.
    fn left(bytes: &[u8]) -> Vec<u8> {
        match kept(bytes) {
            None => bytes.to_vec(),
            Some(parts) => parts.into_iter().flat_map(|part| bytes[part].to_vec()).collect(),
        }
    }

    #[test]
    fn plain_units_stay_with_every_byte_of_theirs() {
        let stream = [0, 0, 0, 1, 0x67, 5, 0, 0, 1, 0x68, 6, 0, 0, 0, 0, 1, 0x65, 7, 0, 0];
        assert_eq!(kept(&stream), None);
        // bytes that go on from the buffer before
        assert_eq!(kept(&[9, 8, 0, 0, 1, 0x41, 7]), None);
        assert_eq!(kept(&[]), None);
    }

    #[test]
    fn units_of_extensions_and_of_no_meaning_go() {
        for unit_type in (0..32).filter(|unit_type| !(1..=12).contains(unit_type)) {
            let alone = [0, 0, 0, 1, 0x60 | unit_type, 1, 2];
            assert_eq!(kept(&alone), Some(vec![]), "{unit_type}");
            let between = [&[0, 0, 0, 1, 0x67, 5][..], &alone, &[0, 0, 1, 0x65, 7]].concat();
            assert_eq!(left(&between), [0, 0, 0, 1, 0x67, 5, 0, 0, 1, 0x65, 7], "{unit_type}");
            let last = [&[9, 0, 0, 1, 0x67, 5][..], &alone].concat();
            assert_eq!(left(&last), [9, 0, 0, 1, 0x67, 5], "{unit_type}");
        }
    }

    #[test]
    fn what_hides_in_a_unit_behind_a_start_code_of_its_own_goes() {
        assert_eq!(left(&[0, 0, 1, 0x65, 7, 0, 0, 1, 0x6f, 1, 0, 0, 1]), [0, 0, 1, 0x65, 7]);
    }
}
