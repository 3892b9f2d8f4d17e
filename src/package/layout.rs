//! A packed file as it will lie at its destination: its head, and where each chunk of its media is.
//!
//! Owns: the order of chunks, the boxes. Must not touch: samples themselves.
//! Law: the head comes first and is whole, so that a player can begin while it loads; offsets have 64 bits where 32 do
//! not do; the same tables give the same bytes.
//! Sources: ISO/IEC 14496-12 §8 (boxes), 14496-15 §5.4 (avcC), 14496-14 §5.6 (esds).

use mp4_atom::esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig};
use mp4_atom::{
    Audio, Avc1, Avcc, AvccExt, Co64, Codec, Ctts, CttsEntry, Dinf, Dref, DrefEntry, Edts, Elst, ElstEntry, Encode,
    Esds, FourCC, Ftyp, Hdlr, Mdhd, Mdia, Minf, Moov, Mp4a, Mvhd, Smhd, Stbl, Stco, Stsc, StscEntry, Stsd, Stss, Stsz,
    StszSamples, Stts, SttsEntry, Tkhd, Trak, Url, Visual, Vmhd,
};

use super::black::Black;
use super::demux::Coding;
use super::tables::{Chunk, Described, From, PictureTrack, Runs, Samples, SoundTrack};
use crate::model::Timestamp;
use crate::model::package::TICKS;

/// Seconds from 1904 to 1970.
const EPOCH_1904: i64 = 2_082_844_800;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub at: u64,
    pub bytes: u64,
    pub samples: u32,
    pub description: u32,
    pub from: From,
}

/// A file that is known to the last byte.
#[derive(Debug)]
pub struct Layout {
    pub head: Vec<u8>,
    pub chunks: Vec<Placed>,
    pub bytes: u64,
    pub blacks: Vec<(u32, Black)>,
    pub codings: Vec<Coding>,
    /// Frames of sound keep their headers.
    pub adts: bool,
    /// On the line of the sources, ticks.
    pub start: i64,
    pub end: i64,
    pub picture: bool,
    pub sound: bool,
}

/// Both tracks of a file, while they grow.
pub struct Tracks {
    pub pictures: PictureTrack,
    pub sounds: SoundTrack,
}

impl Tracks {
    pub fn is_empty(&self) -> bool {
        self.pictures.samples.sizes.is_empty() && self.sounds.samples.sizes.is_empty()
    }

    pub fn finish(mut self, begun: Timestamp) -> Layout {
        let heard = self.sounds.first.map(|_| self.sounds.time());
        self.sounds.finish();
        self.pictures.finish(heard);
        let start = [self.pictures.first, self.sounds.first].into_iter().flatten().min().unwrap_or(0);
        let end = self.pictures.first.map(|_| self.pictures.end).into_iter().chain(heard).max().unwrap_or(0);
        let order = interleaved(&self.pictures.samples.chunks, &self.sounds.samples.chunks);
        let media: u64 = order.iter().map(|chunk| chunk.bytes).sum();
        let head = match self.sounds.adts() {
            true => Vec::new(),
            false => self.head(&order, media, start, end, begun),
        };
        let mut at = head.len() as u64;
        let place = |chunk: &&Chunk| {
            let Chunk { samples, bytes, description, from, .. } = **chunk;
            let placed = Placed { at, bytes, samples, description, from };
            at += bytes;
            placed
        };
        let chunks = order.iter().map(place).collect();
        let Tracks { pictures, sounds } = self;
        Layout {
            bytes: head.len() as u64 + media,
            head,
            chunks,
            start,
            end,
            picture: pictures.first.is_some(),
            sound: sounds.first.is_some(),
            blacks: pictures.blacks,
            adts: sounds.adts(),
            codings: sounds.codings,
        }
    }

    fn head(&self, order: &[&Chunk], media: u64, start: i64, end: i64, begun: Timestamp) -> Vec<u8> {
        let created = u64::try_from(begun.secs() + EPOCH_1904).unwrap_or(0);
        // the longer tables first: what fits with them fits with the shorter ones
        let most = self.encode(order, media, start, end, created, 0, true).len() as u64;
        if most + media > u64::from(u32::MAX) {
            return self.encode(order, media, start, end, created, most, true);
        }
        let length = self.encode(order, media, start, end, created, 0, false).len() as u64;
        self.encode(order, media, start, end, created, length, false)
    }

    #[expect(clippy::too_many_arguments, reason = "three times the same, with another offset")]
    fn encode(
        &self,
        order: &[&Chunk],
        media: u64,
        start: i64,
        end: i64,
        created: u64,
        first: u64,
        wide: bool,
    ) -> Vec<u8> {
        let (mut of_pictures, mut of_sounds, mut at) = (Vec::new(), Vec::new(), first);
        for chunk in order {
            match chunk.from {
                From::Pictures { .. } | From::Black => of_pictures.push(at),
                From::Sounds { .. } | From::Silence => of_sounds.push(at),
            }
            at += chunk.bytes;
        }
        let whole = unsigned(end - start);
        let mut trak = Vec::new();
        if let Some(from) = self.pictures.first {
            let id = u32::try_from(trak.len() + 1).expect("two tracks");
            trak.push(self.picture_trak(id, from - start, created, offsets(of_pictures, wide)));
        }
        if let Some(from) = self.sounds.first {
            let id = u32::try_from(trak.len() + 1).expect("two tracks");
            trak.push(self.sound_trak(id, from - start, created, offsets(of_sounds, wide)));
        }
        let mvhd = Mvhd {
            creation_time: created,
            modification_time: created,
            timescale: TICKS as u32,
            duration: whole,
            rate: 1.into(),
            volume: 1.into(),
            matrix: Default::default(),
            next_track_id: 3,
        };
        let moov = Moov { mvhd, meta: None, mvex: None, trak, udta: None, ainf: None };
        let ftyp = Ftyp {
            major_brand: FourCC::new(b"isom"),
            minor_version: 512,
            compatible_brands: [b"isom", b"iso2", b"avc1", b"mp41"].map(FourCC::new).to_vec(),
        };
        let mut head = Vec::new();
        let written = ftyp.encode(&mut head).and_then(|()| moov.encode(&mut head));
        written.expect("boxes of a file of this size can be written into memory");
        if wide {
            head.extend_from_slice(&1u32.to_be_bytes());
            head.extend_from_slice(b"mdat");
            head.extend_from_slice(&(media + 16).to_be_bytes());
        } else {
            head.extend_from_slice(&u32::try_from(media + 8).expect("it is not wide").to_be_bytes());
            head.extend_from_slice(b"mdat");
        }
        head
    }

    fn picture_trak(&self, id: u32, late: i64, created: u64, offsets: (Option<Stco>, Option<Co64>)) -> Trak {
        let track = &self.pictures;
        let length = unsigned(track.end - track.first.unwrap_or(track.end));
        let size =
            track.descriptions.iter().fold((0, 0), |most: (u32, u32), d| (most.0.max(d.size.0), most.1.max(d.size.1)));
        let reordered = track.offsets.0.iter().any(|(_, offset)| *offset != 0);
        let ctts = reordered.then(|| Ctts {
            entries: (track.offsets.0.iter())
                .map(|(count, offset)| CttsEntry { sample_count: *count, sample_offset: i64::from(*offset) })
                .collect(),
        });
        let all_keys = track.keys.len() == track.samples.sizes.len();
        let stbl = Stbl {
            stsd: Stsd { codecs: track.descriptions.iter().map(|d| Codec::Avc1(avc1(d))).collect() },
            ctts,
            stss: (!all_keys).then(|| Stss { entries: track.keys.clone() }),
            ..stbl(&track.samples, offsets)
        };
        let minf = Minf { vmhd: Some(Vmhd::default()), dinf: dinf(), stbl, ..Minf::default() };
        let tkhd = Tkhd { width: side(size.0).into(), height: side(size.1).into(), ..tkhd(id, late, length, created) };
        trak(tkhd, late, length, mdia(b"vide", "pictures", TICKS as u32, length, created, minf))
    }

    fn sound_trak(&self, id: u32, late: i64, created: u64, offsets: (Option<Stco>, Option<Co64>)) -> Trak {
        let track = &self.sounds;
        let length = unsigned(track.time() - track.first.unwrap_or(0));
        let stbl = Stbl {
            stsd: Stsd { codecs: track.codings.iter().map(|coding| Codec::Mp4a(mp4a(*coding))).collect() },
            ..stbl(&track.samples, offsets)
        };
        let minf = Minf { smhd: Some(Smhd::default()), dinf: dinf(), stbl, ..Minf::default() };
        let tkhd = Tkhd { volume: 1.into(), alternate_group: 1, ..tkhd(id, late, length, created) };
        let samples = unsigned(track.length());
        trak(tkhd, late, length, mdia(b"soun", "sound", track.rate(), samples, created, minf))
    }
}

/// By time; of two at one time the pictures come first.
fn interleaved<'a>(pictures: &'a [Chunk], sounds: &'a [Chunk]) -> Vec<&'a Chunk> {
    let mut order: Vec<&Chunk> = pictures.iter().chain(sounds).collect();
    order.sort_by_key(|chunk| chunk.time);
    order
}

fn unsigned(ticks: i64) -> u64 {
    u64::try_from(ticks).unwrap_or(0)
}

fn side(pixels: u32) -> u16 {
    u16::try_from(pixels).unwrap_or(u16::MAX)
}

fn tkhd(id: u32, late: i64, length: u64, created: u64) -> Tkhd {
    let duration = unsigned(late) + length;
    Tkhd {
        creation_time: created,
        modification_time: created,
        track_id: id,
        duration,
        enabled: true,
        in_movie: true,
        ..Tkhd::default()
    }
}

/// A track that begins later than the other one has an empty edit before it.
fn trak(tkhd: Tkhd, late: i64, length: u64, mdia: Mdia) -> Trak {
    let edit = |segment_duration, media_time| ElstEntry { segment_duration, media_time, media_rate: 1.into() };
    let entries = vec![edit(unsigned(late), None), edit(length, Some(0))];
    let edts = (late > 0).then_some(Edts { elst: Some(Elst { entries }) });
    Trak { tkhd, edts, mdia, ..Trak::default() }
}

fn mdia(handler: &[u8; 4], name: &str, timescale: u32, duration: u64, created: u64, minf: Minf) -> Mdia {
    let mdhd = Mdhd { creation_time: created, modification_time: created, timescale, duration, language: "und".into() };
    Mdia { mdhd, hdlr: Hdlr { handler: FourCC::new(handler), name: name.into() }, minf }
}

fn dinf() -> Dinf {
    Dinf { dref: Dref { entries: vec![DrefEntry::Url(Url { location: String::new() })] } }
}

fn offsets(at: Vec<u64>, wide: bool) -> (Option<Stco>, Option<Co64>) {
    if wide {
        return (None, Some(Co64 { entries: at }));
    }
    let entries = at.into_iter().map(|at| u32::try_from(at).expect("it is not wide")).collect();
    (Some(Stco { entries }), None)
}

fn stbl(samples: &Samples, (stco, co64): (Option<Stco>, Option<Co64>)) -> Stbl {
    let Runs(deltas) = &samples.deltas;
    let mut stsc: Vec<StscEntry> = Vec::new();
    for (nth, chunk) in (1..).zip(&samples.chunks) {
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
    let entries =
        deltas.iter().map(|(count, delta)| SttsEntry { sample_count: *count, sample_delta: *delta }).collect();
    Stbl {
        stts: Stts { entries },
        stsc: Stsc { entries: stsc },
        stsz: Stsz { samples: StszSamples::Different { sizes: samples.sizes.clone() } },
        stco,
        co64,
        ..Stbl::default()
    }
}

fn avc1(described: &Described) -> Avc1 {
    let sps = described.sps.first().cloned().unwrap_or_else(|| vec![0x67, 66, 0xc0, 30]);
    let byte = |n: usize| sps.get(n).copied().unwrap_or(0);
    let avcc = Avcc {
        configuration_version: 1,
        avc_profile_indication: byte(1),
        profile_compatibility: byte(2),
        avc_level_indication: byte(3),
        length_size: 4,
        sequence_parameter_sets: described.sps.clone(),
        picture_parameter_sets: described.pps.clone(),
        ext: matches!(byte(1), 100 | 110 | 122 | 144).then(AvccExt::default),
    };
    let (width, height) = (side(described.size.0), side(described.size.1));
    let visual = Visual { data_reference_index: 1, width, height, ..Visual::default() };
    Avc1 { visual, avcc, btrt: None, colr: None, pasp: None, taic: None, fiel: None, spatial: None }
}

fn mp4a(coding: Coding) -> Mp4a {
    let audio = Audio {
        data_reference_index: 1,
        channel_count: u16::from(coding.channels),
        sample_size: 16,
        sample_rate: u16::try_from(coding.rate()).unwrap_or(0).into(),
    };
    let dec_specific = DecoderSpecific {
        profile: coding.object,
        freq_index: coding.rate_index,
        chan_conf: coding.channels,
        raw: vec![],
    };
    let dec_config = DecoderConfig {
        object_type_indication: 0x40,
        stream_type: 5,
        up_stream: 0,
        buffer_size_db: Default::default(),
        max_bitrate: 0,
        avg_bitrate: 0,
        dec_specific: Some(dec_specific),
    };
    let es_desc = EsDescriptor {
        es_id: 1,
        depends_on_es_id: None,
        url: None,
        ocr_es_id: None,
        stream_priority: 0,
        dec_config,
        sl_config: SLConfig::default(),
    };
    Mp4a { audio, esds: Esds { es_desc }, btrt: None, taic: None }
}

#[cfg(test)]
mod tests {
    use mp4_atom::{Atom, Buf, Decode, Header};

    use super::*;
    use crate::package::tables::NewPicture;

    /// So many pictures of this size, one a second, and as much sound.
    fn layout(count: u32, bytes: u32) -> Layout {
        let mut tracks = Tracks { pictures: PictureTrack::new(None), sounds: SoundTrack::new(false) };
        let coding = Coding { object: 2, rate_index: 3, channels: 2 };
        for index in 0..count {
            let at = i64::from(index) * TICKS;
            let described =
                Described { sps: vec![vec![0x67, 66, 0xc0, 30]], pps: vec![vec![0x68, 1]], size: (640, 360) };
            let new = NewPicture { source: 0, index, pts: at, dts: at, key: index % 10 == 0, bytes };
            tracks.pictures.add(new, (index % 10 == 0).then_some(described));
            tracks.sounds.add(1, index, at, coding, 300);
        }
        tracks.finish(Timestamp::from_ms(1_800_000_000_000))
    }

    fn moov(layout: &Layout) -> Moov {
        let mut head = &layout.head[..];
        Ftyp::decode(&mut head).unwrap();
        let moov = Moov::decode(&mut head).unwrap();
        let header = Header::decode(&mut head).unwrap();
        assert_eq!((header.kind, head.remaining()), (FourCC::new(b"mdat"), 0));
        let media = layout.bytes - layout.head.len() as u64;
        assert_eq!(header.size, Some(usize::try_from(media).unwrap()));
        assert_eq!(Moov::KIND, FourCC::new(b"moov"));
        moov
    }

    #[test]
    fn offsets_have_64_bits_where_the_file_is_larger_than_32_can_say() {
        for (count, wide) in [(80, false), (90, true)] {
            let layout = layout(count, 50_000_000);
            let moov = moov(&layout);
            let [pictures, sounds] = &moov.trak[..] else { panic!("two tracks") };
            for (trak, of_pictures) in [(pictures, true), (sounds, false)] {
                let stbl = &trak.mdia.minf.stbl;
                assert_eq!((stbl.stco.is_some(), stbl.co64.is_some()), (!wide, wide), "{count}");
                let told: Vec<u64> = match (&stbl.stco, &stbl.co64) {
                    (Some(stco), _) => stco.entries.iter().map(|at| u64::from(*at)).collect(),
                    (None, Some(co64)) => co64.entries.clone(),
                    (None, None) => panic!("no offsets"),
                };
                let mine = |chunk: &&Placed| matches!(chunk.from, From::Pictures { .. } | From::Black) == of_pictures;
                let there: Vec<u64> = layout.chunks.iter().filter(mine).map(|chunk| chunk.at).collect();
                assert_eq!(told, there);
            }
            let ends = layout.chunks.windows(2).all(|pair| pair[0].at + pair[0].bytes == pair[1].at);
            assert!(ends && layout.chunks[0].at == layout.head.len() as u64, "chunks lie behind one another");
            let last = layout.chunks.last().unwrap();
            assert_eq!(last.at + last.bytes, layout.bytes);
        }
    }

    #[test]
    fn a_day_of_both_fits_in_some_tens_of_megabytes() {
        let mut tracks = Tracks { pictures: PictureTrack::new(None), sounds: SoundTrack::new(false) };
        let coding = Coding { object: 2, rate_index: 3, channels: 1 };
        // an hour stands for the day, with times that never repeat
        let hour = 3_600;
        for index in 0..30 * hour {
            let at = i64::from(index) * 3_000 + i64::from(index % 7);
            let new = NewPicture {
                source: index / 300,
                index: index % 300,
                pts: at,
                dts: at,
                key: index % 60 == 0,
                bytes: 9_000,
            };
            tracks.pictures.add(new, None);
        }
        for index in 0..47 * hour {
            tracks.sounds.add(index / 470, index % 470, i64::from(index) * 1_920, coding, 170);
        }
        let layout = tracks.finish(Timestamp::from_ms(0));
        let kept = layout.head.len() + layout.chunks.len() * size_of::<Placed>();
        assert!(kept * 24 < 80_000_000, "{} bytes a day", kept * 24);
    }
}
