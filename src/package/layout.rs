//! A packed file as it will lie at its destination: its head, and where each chunk of its media is.
//!
//! Owns: the order of chunks, their places. Must not touch: samples themselves, how boxes are written (`container`).
//! Law: the head comes first and is whole, so that a player can begin while it loads; offsets have 64 bits where 32 do
//! not do; the same tables give the same bytes.

use super::black::Black;
use super::tables::{Chunk, From, PictureTrack, SoundTrack};
use crate::container::adts::SoundForm;
use crate::container::mp4::{self, Media};
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
    pub forms: Vec<SoundForm>,
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
            forms: sounds.forms,
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
            let placed = mp4::Chunk { at, samples: chunk.samples, description: chunk.description };
            match chunk.from {
                From::Pictures { .. } | From::Black => of_pictures.push(placed),
                From::Sounds { .. } | From::Silence => of_sounds.push(placed),
            }
            at += chunk.bytes;
        }
        let pictures = self.pictures.first.map(|from| self.picture_track(from - start, of_pictures));
        let sounds = self.sounds.first.map(|from| self.sound_track(from - start, of_sounds));
        let tracks: Vec<mp4::Track<'_>> = pictures.into_iter().chain(sounds).collect();
        let index = mp4::index(&tracks, created, unsigned(end - start), wide);
        let index = index.expect("tables of a file of this size can be written into memory");
        [mp4::brand(), index, mp4::media_head(media, wide)].concat()
    }

    fn picture_track(&self, late: i64, chunks: Vec<mp4::Chunk>) -> mp4::Track<'_> {
        let track = &self.pictures;
        let length = unsigned(track.end - track.first.unwrap_or(track.end));
        mp4::Track {
            media: Media::Pictures { descriptions: &track.descriptions, offsets: &track.offsets, keys: &track.keys },
            scale: TICKS as u32,
            sizes: &track.samples.sizes,
            deltas: &track.samples.deltas,
            chunks,
            late: unsigned(late),
            length,
            skipped: 0,
            duration: length,
        }
    }

    fn sound_track(&self, late: i64, chunks: Vec<mp4::Chunk>) -> mp4::Track<'_> {
        let track = &self.sounds;
        mp4::Track {
            media: Media::Sounds { forms: &track.forms },
            scale: track.rate(),
            sizes: &track.samples.sizes,
            deltas: &track.samples.deltas,
            chunks,
            late: unsigned(late),
            length: unsigned(track.time() - track.first.unwrap_or(0)),
            skipped: 0,
            duration: unsigned(track.length()),
        }
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

#[cfg(test)]
mod tests {
    use mp4_atom::{Atom, Buf, Decode, FourCC, Ftyp, Header, Moov};

    use super::*;
    use crate::container::mp4::Described;
    use crate::package::tables::NewPicture;

    const ONE: SoundForm = SoundForm { rate: 48_000, channels: 1, object: 2 };

    /// So many pictures of this size, one a second, and as much sound.
    fn layout(count: u32, bytes: u32) -> Layout {
        let mut tracks = Tracks { pictures: PictureTrack::new(None), sounds: SoundTrack::new(false) };
        let form = SoundForm { channels: 2, ..ONE };
        for index in 0..count {
            let at = i64::from(index) * TICKS;
            let described =
                Described { sps: vec![vec![0x67, 66, 0xc0, 30]], pps: vec![vec![0x68, 1]], size: (640, 360) };
            let new = NewPicture { source: 0, index, pts: at, dts: at, key: index % 10 == 0, bytes };
            tracks.pictures.add(new, (index % 10 == 0).then_some(described));
            tracks.sounds.add(1, index, at, form, 300);
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
            tracks.sounds.add(index / 470, index % 470, i64::from(index) * 1_920, ONE, 170);
        }
        let layout = tracks.finish(Timestamp::from_ms(0));
        let kept = layout.head.len() + layout.chunks.len() * size_of::<Placed>();
        assert!(kept * 24 < 80_000_000, "{} bytes a day", kept * 24);
    }
}
