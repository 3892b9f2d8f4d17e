//! The boxes of an mp4 file: its brand, its index, the head of its media.
//!
//! Owns: what the tables of tracks look like as bytes. Must not touch: samples; where chunks lie and what times samples have is
//! told by who writes the file.
//! Law: the same tables give the same bytes; times are true to the tick: a track that begins late says so in its edit list.
//! Pictures with other parameter sets have a sample entry of their own, and so has sound of another form.
//! Sources: ISO/IEC 14496-12 §8 (boxes), 14496-15 §5 (H.264 in them), 14496-1 §7.2.6 and 14496-14 §5.6 (esds).

use std::io;

use mp4_atom::esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig};
use mp4_atom::{
    Audio, Avc1, Avcc, AvccExt, Co64, Codec, Ctts, CttsEntry, Dinf, Dref, DrefEntry, Edts, Elst, ElstEntry, Encode,
    Esds, FourCC, Ftyp, Hdlr, Mdhd, Mdia, Minf, Moov, Mp4a, Mvhd, Smhd, Stbl, Stco, Stsc, StscEntry, Stsd, Stss, Stsz,
    StszSamples, Stts, SttsEntry, Tkhd, Trak, Url, Visual, Vmhd,
};

use super::adts::{SoundForm, rate_index};

/// Ticks of a movie's time in a second.
const TICKS: u32 = 90_000;
/// The profile whose streams are all of 4:2:0 and 8 bits, and say so.
const HIGH: u8 = 100;
/// Of the box before the media, with a length of 64 bits.
pub const WIDE_HEAD: u64 = 16;
const HEAD: u64 = 8;

/// Values that repeat: (how often, value).
#[derive(Debug, Default)]
pub struct Runs<T>(pub Vec<(u32, T)>);

impl<T: PartialEq> Runs<T> {
    pub fn push(&mut self, value: T) {
        match self.0.last_mut() {
            Some((count, last)) if *last == value => *count += 1,
            _ => self.0.push((1, value)),
        }
    }
}

/// Parameter sets of a stream of pictures, and their size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub sps: Vec<Vec<u8>>,
    pub pps: Vec<Vec<u8>>,
    pub size: (u32, u32),
}

/// A chunk: where it lies, its samples, and which description they have, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub at: u64,
    pub samples: u32,
    pub description: u32,
}

/// What the index says of one track.
#[derive(Debug)]
pub struct Track<'a> {
    pub media: Media<'a>,
    /// Its own ticks in a second.
    pub scale: u32,
    pub sizes: &'a [u32],
    pub deltas: &'a Runs<u32>,
    pub chunks: Vec<Chunk>,
    /// Before it begins to be seen or heard, and from then to its end; ticks of 90 kHz.
    pub late: u64,
    pub length: u64,
    /// What its first sample's presentation is behind its decoding; own ticks.
    pub skipped: u64,
    /// Of all its samples; own ticks.
    pub duration: u64,
}

#[derive(Debug)]
pub enum Media<'a> {
    /// `keys`: numbers of the keyframes, from 1.
    Pictures {
        descriptions: &'a [Described],
        offsets: &'a Runs<i32>,
        keys: &'a [u32],
    },
    Sounds {
        forms: &'a [SoundForm],
    },
}

pub fn unfit(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// What a file begins with.
pub fn brand() -> Vec<u8> {
    let ftyp = Ftyp {
        major_brand: FourCC::new(b"isom"),
        minor_version: 512,
        compatible_brands: [b"isom", b"iso2", b"avc1", b"mp41"].map(FourCC::new).to_vec(),
    };
    let mut bytes = Vec::new();
    ftyp.encode(&mut bytes).expect("a brand can be written into memory");
    bytes
}

/// The index. `created`: seconds since 1904; `duration`: ticks of 90 kHz; `wide`: places have 64 bits.
pub fn index(tracks: &[Track<'_>], created: u64, duration: u64, wide: bool) -> io::Result<Vec<u8>> {
    let trak = (1..).zip(tracks).map(|(id, track)| track.trak(id, created, wide)).collect::<io::Result<_>>()?;
    let mvhd = Mvhd {
        creation_time: created,
        modification_time: created,
        timescale: TICKS,
        duration,
        rate: 1.into(),
        volume: 1.into(),
        matrix: Default::default(),
        next_track_id: 3,
    };
    let moov = Moov { mvhd, meta: None, mvex: None, trak, udta: None, ainf: None };
    let mut bytes = Vec::new();
    moov.encode(&mut bytes).map_err(unfit)?;
    Ok(bytes)
}

/// What stands before so many bytes of media; not `wide`, these are less than 4 GB.
pub fn media_head(media: u64, wide: bool) -> Vec<u8> {
    let narrow = u32::try_from(media + HEAD).ok().filter(|_| !wide);
    let mut bytes = narrow.unwrap_or(1).to_be_bytes().to_vec();
    bytes.extend_from_slice(b"mdat");
    if narrow.is_none() {
        bytes.extend_from_slice(&(media + WIDE_HEAD).to_be_bytes());
    }
    bytes
}

impl Track<'_> {
    fn trak(&self, id: u32, created: u64, wide: bool) -> io::Result<Trak> {
        let picture = matches!(self.media, Media::Pictures { .. });
        let (width, height) = self.size();
        let tkhd = Tkhd {
            creation_time: created,
            modification_time: created,
            track_id: id,
            duration: self.late + self.length,
            enabled: true,
            in_movie: true,
            volume: if picture { 0.into() } else { 1.into() },
            alternate_group: if picture { 0 } else { 1 },
            width: width.into(),
            height: height.into(),
            ..Tkhd::default()
        };
        let mdhd = Mdhd {
            creation_time: created,
            modification_time: created,
            timescale: self.scale,
            duration: self.duration,
            language: "und".into(),
        };
        let (handler, name) = if picture { (b"vide", "pictures") } else { (b"soun", "sound") };
        let here = DrefEntry::Url(Url { location: String::new() });
        let minf = Minf {
            vmhd: picture.then(Vmhd::default),
            smhd: (!picture).then(Smhd::default),
            dinf: Dinf { dref: Dref { entries: vec![here] } },
            stbl: self.stbl(wide)?,
            ..Minf::default()
        };
        let mdia = Mdia { mdhd, hdlr: Hdlr { handler: FourCC::new(handler), name: name.into() }, minf };
        Ok(Trak { tkhd, edts: self.edts(), mdia, ..Trak::default() })
    }

    /// A track that begins later than the other one has an empty edit before it.
    fn edts(&self) -> Option<Edts> {
        let edit = |segment_duration, media_time| ElstEntry { segment_duration, media_time, media_rate: 1.into() };
        let empty = (self.late > 0).then(|| edit(self.late, None));
        let entries = empty.into_iter().chain([edit(self.length, Some(self.skipped))]).collect();
        (self.late > 0 || self.skipped > 0).then_some(Edts { elst: Some(Elst { entries }) })
    }

    /// The largest that its pictures have.
    fn size(&self) -> (u16, u16) {
        let Media::Pictures { descriptions, .. } = &self.media else { return (0, 0) };
        descriptions
            .iter()
            .map(|d| d.size)
            .fold((0, 0), |most, size| (most.0.max(side(size.0)), most.1.max(side(size.1))))
    }

    fn stbl(&self, wide: bool) -> io::Result<Stbl> {
        let (codecs, ctts, stss) = match &self.media {
            Media::Sounds { forms } => (forms.iter().map(mp4a).collect::<io::Result<_>>()?, None, None),
            Media::Pictures { descriptions, offsets, keys } => {
                let codecs = descriptions.iter().map(avc1).collect();
                let entry = |(count, offset): &(u32, i32)| CttsEntry {
                    sample_count: *count,
                    sample_offset: i64::from(*offset),
                };
                let reordered = offsets.0.iter().any(|(_, offset)| *offset != 0);
                let ctts = reordered.then(|| Ctts { entries: offsets.0.iter().map(entry).collect() });
                let all_keys = keys.len() == self.sizes.len();
                (codecs, ctts, (!all_keys).then(|| Stss { entries: keys.to_vec() }))
            }
        };
        let mut stsc: Vec<StscEntry> = Vec::new();
        for (nth, chunk) in (1..).zip(&self.chunks) {
            let index = chunk.description + 1;
            let same = |e: &StscEntry| e.samples_per_chunk == chunk.samples && e.sample_description_index == index;
            if !stsc.last().is_some_and(same) {
                stsc.push(StscEntry {
                    first_chunk: nth,
                    samples_per_chunk: chunk.samples,
                    sample_description_index: index,
                });
            }
        }
        let entry = |(count, delta): &(u32, u32)| SttsEntry { sample_count: *count, sample_delta: *delta };
        let (stco, co64) = self.places(wide)?;
        Ok(Stbl {
            stsd: Stsd { codecs },
            stts: Stts { entries: self.deltas.0.iter().map(entry).collect() },
            ctts,
            stss,
            stsc: Stsc { entries: stsc },
            stsz: Stsz { samples: StszSamples::Different { sizes: self.sizes.to_vec() } },
            stco,
            co64,
            ..Stbl::default()
        })
    }

    fn places(&self, wide: bool) -> io::Result<(Option<Stco>, Option<Co64>)> {
        let places = self.chunks.iter().map(|chunk| chunk.at);
        if wide {
            return Ok((None, Some(Co64 { entries: places.collect() })));
        }
        let entries = places.map(u32::try_from).collect::<Result<_, _>>().map_err(unfit)?;
        Ok((Some(Stco { entries }), None))
    }
}

fn side(pixels: u32) -> u16 {
    u16::try_from(pixels).unwrap_or(u16::MAX)
}

fn avc1(described: &Described) -> Codec {
    let byte = |n: usize| described.sps.first().and_then(|sps| sps.get(n)).copied().unwrap_or(0);
    let avcc = Avcc {
        configuration_version: 1,
        avc_profile_indication: byte(1),
        profile_compatibility: byte(2),
        avc_level_indication: byte(3),
        length_size: 4,
        sequence_parameter_sets: described.sps.clone(),
        picture_parameter_sets: described.pps.clone(),
        ext: (byte(1) == HIGH).then(AvccExt::default),
    };
    let (width, height) = (side(described.size.0), side(described.size.1));
    let visual = Visual { data_reference_index: 1, width, height, ..Visual::default() };
    Codec::Avc1(Avc1 { visual, avcc, btrt: None, colr: None, pasp: None, taic: None, fiel: None, spatial: None })
}

fn mp4a(form: &SoundForm) -> io::Result<Codec> {
    let freq_index = rate_index(form.rate).ok_or_else(|| unfit("sound of an unknown rate"))?;
    let audio = Audio {
        data_reference_index: 1,
        channel_count: if form.channels == 7 { 8 } else { u16::from(form.channels) },
        sample_size: 16,
        // what does not fit says nothing; the stream's own configuration does
        sample_rate: u16::try_from(form.rate).unwrap_or(0).into(),
    };
    let specific = DecoderSpecific { profile: form.object, freq_index, chan_conf: form.channels, raw: Vec::new() };
    let dec_config = DecoderConfig {
        object_type_indication: 0x40,
        stream_type: 5,
        dec_specific: Some(specific),
        ..DecoderConfig::default()
    };
    let es_desc = EsDescriptor { es_id: 1, dec_config, sl_config: SLConfig::default(), ..EsDescriptor::default() };
    Ok(Codec::Mp4a(Mp4a { audio, esds: Esds { es_desc }, btrt: None, taic: None }))
}

#[cfg(test)]
mod tests {
    use mp4_atom::Decode;

    use super::*;

    #[test]
    fn the_head_of_the_media_has_the_length_that_it_needs() {
        assert_eq!(media_head(8, false), [0, 0, 0, 16, b'm', b'd', b'a', b't']);
        assert_eq!(media_head(8, true), [0, 0, 0, 1, b'm', b'd', b'a', b't', 0, 0, 0, 0, 0, 0, 0, 24]);
        assert_eq!(media_head(8, true).len() as u64, WIDE_HEAD);
    }

    /// A late track of pictures that are shown in another order, in two sizes.
    #[test]
    fn an_index_says_what_was_told() {
        let described =
            |profile, size| Described { sps: vec![vec![0x67, profile, 0, 30]], pps: vec![vec![0x68]], size };
        let descriptions = [described(66, (640, 360)), described(HIGH, (320, 480))];
        let (mut deltas, mut offsets) = (Runs::default(), Runs::default());
        for offset in [3000, 6000, 0] {
            deltas.push(3000);
            offsets.push(offset);
        }
        let chunk = |at, samples, description| Chunk { at, samples, description };
        let track = Track {
            media: Media::Pictures { descriptions: &descriptions, offsets: &offsets, keys: &[1, 3] },
            scale: TICKS,
            sizes: &[10, 20, 30],
            deltas: &deltas,
            chunks: vec![chunk(100, 1, 0), chunk(110, 1, 0), chunk(130, 1, 1)],
            late: 450,
            length: 6000,
            skipped: 3000,
            duration: 9000,
        };
        let bytes = index(&[track], 7, 6450, false).expect("the tables agree");
        let moov = Moov::decode(&mut &bytes[..]).expect("it reads back");
        let [trak] = &moov.trak[..] else { panic!("one track") };
        assert_eq!((moov.mvhd.duration, trak.tkhd.duration, trak.mdia.mdhd.duration), (6450, 6450, 9000));
        assert_eq!((trak.tkhd.width, trak.tkhd.height), (640.into(), 480.into()), "the largest of both");
        let edits = &trak.edts.as_ref().and_then(|edts| edts.elst.as_ref()).expect("an edit list").entries;
        let edits: Vec<_> = edits.iter().map(|edit| (edit.segment_duration, edit.media_time)).collect();
        assert_eq!(edits, [(450, None), (6000, Some(3000))]);
        let stbl = &trak.mdia.minf.stbl;
        assert_eq!(stbl.stts.entries, [SttsEntry { sample_count: 3, sample_delta: 3000 }]);
        assert_eq!(stbl.ctts.as_ref().expect("ctts").entries.len(), 3);
        assert_eq!(stbl.stss.as_ref().expect("stss").entries, [1, 3]);
        assert_eq!(stbl.stco.as_ref().expect("stco").entries, [100, 110, 130]);
        let ranges = stbl.stsc.entries.iter().map(|e| (e.first_chunk, e.sample_description_index));
        assert_eq!(ranges.collect::<Vec<_>>(), [(1, 1), (3, 2)]);
        let more = stbl.stsd.codecs.iter().map(|codec| match codec {
            Codec::Avc1(avc1) => avc1.avcc.ext.is_some(),
            other => panic!("{other:?}"),
        });
        assert_eq!(more.collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn sound_of_an_unknown_rate_is_refused() {
        let deltas = Runs(vec![(1, 1024)]);
        for (rate, known) in [(48_000, true), (47_000, false)] {
            let forms = [SoundForm { rate, channels: 2, object: 2 }];
            let track = Track {
                media: Media::Sounds { forms: &forms },
                scale: rate,
                sizes: &[9],
                deltas: &deltas,
                chunks: vec![Chunk { at: 1 << 33, samples: 1, description: 0 }],
                late: 0,
                length: 1920,
                skipped: 0,
                duration: 1024,
            };
            let made = index(&[track], 0, 1920, true);
            assert_eq!(made.is_ok(), known, "{rate}");
            let Ok(bytes) = made else { continue };
            let moov = Moov::decode(&mut &bytes[..]).expect("it reads back");
            assert!(moov.trak[0].edts.is_none());
            assert_eq!(moov.trak[0].mdia.minf.stbl.co64.as_ref().expect("co64").entries, [1 << 33]);
        }
    }
}
