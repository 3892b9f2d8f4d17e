//! The merge command's hands: what a single-stream file holds, and one file out of many by a plan.
//!
//! Owns: reading the files of a plan in turn, sound and picture side by side into one MP4. Must not touch: which files go
//! together (`model::merge`), names, what is told of it.
//! Law: what is not asked to be coded anew is copied bit by bit, at its time. Memory holds a picture, not a file. A file
//! that breaks off in the middle costs its rest, and is named.

mod pictures;
mod sounds;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::MediaError;
use super::dimensions;
use super::mp4::{Extent, Mp4};
use crate::container::adts::FRAME;
use crate::container::h264::{self, IDR, SEQUENCE_SET};
use crate::container::ts_in::{self, Demux};
use crate::model::merge::{Output, Picturing, Placed, SECOND, SoundForm, Sounding, Span};
use crate::model::mix::Size;
use crate::vault::Vault;

/// How long a picture stands that is the only one.
const LONE_PICTURE: i64 = SECOND / 25;
/// Bytes that are read before they are told of.
const TELL: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error("{0}: {1}")]
    File(String, String),
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error("writing: {0}")]
    Write(#[from] io::Error),
}

/// What a file holds that can be merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    pub picture: Option<Span>,
    pub sizes: BTreeSet<Size>,
    pub sound: Option<Span>,
    pub forms: BTreeSet<SoundForm>,
    /// What is wrong with it, though the rest plays.
    pub fault: Option<String>,
}

/// Reads a file to its end. `told` hears of the bytes. Fails with the reason when nothing in it plays.
pub fn examine(path: &Path, told: &dyn Fn(u64)) -> Result<Contents, String> {
    let mut demux = open(path).map_err(|e| e.to_string())?;
    let mut contents = Contents::default();
    let mut known = 0;
    while let Some(unit) = demux.next_unit().map_err(|e| e.to_string())? {
        match unit {
            ts_in::Unit::Picture(picture) => {
                let begin = &picture.bytes[..picture.bytes.len().min(4096)];
                let size = dimensions::stream_size(begin).filter(|_| begins(&picture));
                contents.sizes.extend(size.map(|(width, height)| Size { width, height }));
                // what stands before the first keyframe cannot be shown
                if !contents.sizes.is_empty() {
                    grow(&mut contents.picture, picture.pts, picture.pts);
                }
            }
            ts_in::Unit::Sound(sound) => {
                contents.forms.insert(sound.form);
                grow(&mut contents.sound, sound.pts, sound.pts + FRAME * SECOND / i64::from(sound.form.rate));
            }
        }
        if demux.bytes() - known >= TELL {
            told(demux.bytes() - known);
            known = demux.bytes();
        }
    }
    told(demux.bytes() - known);
    if let Some(span) = &mut contents.picture {
        // as long as the others stood, but none stands for long because the file ends with it
        let others = i64::try_from(span.count - 1).unwrap_or(i64::MAX);
        let period = (span.last - span.first).checked_div(others).unwrap_or(LONE_PICTURE);
        span.end = span.last + period.clamp(1, SECOND / 2);
    }
    contents.fault = demux.fault().map(str::to_owned);
    if contents.picture.is_none() && contents.sound.is_none() {
        let unknown =
            demux.unknown().map(|kind| format!("it holds a stream of type {kind:#04x}, which is not known here"));
        let why = contents.fault.or(unknown);
        return Err(why.unwrap_or_else(|| "it has neither sound nor a keyframe".into()));
    }
    Ok(contents)
}

fn grow(span: &mut Option<Span>, first: i64, end: i64) {
    let span = span.get_or_insert(Span { first, last: first, end, count: 0 });
    // pictures may be stored in another order than they are shown in
    span.first = span.first.min(first);
    span.last = span.last.max(first);
    span.end = span.end.max(end);
    span.count += 1;
}

/// Whether a decoder can begin with it. Of strangers' streams the mark alone does not tell.
fn begins(picture: &ts_in::Picture<'_>) -> bool {
    let has = |kind| h264::units(picture.bytes).any(|unit| h264::kind(unit) == kind);
    picture.random_access && has(SEQUENCE_SET) || has(IDR)
}

fn open(path: &Path) -> io::Result<Demux<BufReader<File>>> {
    Ok(Demux::new(BufReader::with_capacity(256 * 1024, File::open(path)?)))
}

/// Whether a file is sealed as the box's shelf keeps them.
pub fn is_sealed(path: &Path) -> io::Result<bool> {
    match Vault::new(None, Vec::new()).open(path, "") {
        Ok(input) => Ok(input.is_sealed()),
        Err(e) if crate::vault::Error::of(&e).is_some() => Ok(true),
        Err(e) => Err(e),
    }
}

/// What of a file goes on its way, at its time on the line of the result.
enum Unit {
    Picture {
        pts: i64,
        dts: i64,
        key: bool,
        bytes: Vec<u8>,
    },
    /// With an ADTS header of so many bytes.
    Sound {
        pts: i64,
        form: SoundForm,
        header: usize,
        bytes: Vec<u8>,
    },
}

/// The units of one kind of the files of a plan, one after the other.
struct Reader<'a> {
    files: &'a [PathBuf],
    told: &'a dyn Fn(u64),
    places: std::slice::Iter<'a, Placed>,
    open: Option<(Placed, Demux<BufReader<File>>, u64)>,
    picture: bool,
    /// A keyframe has been seen in the file that is open.
    begun: bool,
}

impl<'a> Reader<'a> {
    fn new(files: &'a [PathBuf], places: &'a [Placed], picture: bool, told: &'a dyn Fn(u64)) -> Reader<'a> {
        Reader { files, told, places: places.iter(), open: None, picture, begun: false }
    }

    /// Where the unit belongs that was given last.
    fn place(&self) -> Option<Placed> {
        self.open.as_ref().map(|(placed, ..)| *placed)
    }

    /// The next one, its times on the line of the result. Pictures of a file begin with a keyframe; some may be before
    /// the place's `from`, for a decoder, unless `copies`.
    fn next(&mut self, copies: bool) -> Result<Option<Unit>, MergeError> {
        loop {
            let Some((placed, demux, known)) = &mut self.open else {
                let Some(placed) = self.places.next() else { return Ok(None) };
                let path = &self.files[placed.file];
                let demux = open(path).map_err(|e| MergeError::File(name(path), e.to_string()))?;
                self.open = Some((*placed, demux, 0));
                self.begun = false;
                continue;
            };
            if demux.bytes() - *known >= TELL {
                (self.told)(demux.bytes() - *known);
                *known = demux.bytes();
            }
            let unit = match demux.next_unit() {
                Ok(Some(unit)) => unit,
                Ok(None) => {
                    (self.told)(demux.bytes() - *known);
                    self.open = None;
                    continue;
                }
                Err(e) => return Err(MergeError::File(name(&self.files[placed.file]), e.to_string())),
            };
            match unit {
                ts_in::Unit::Picture(picture) if self.picture => {
                    let (pts, dts) = (picture.pts + placed.shift, picture.dts + placed.shift);
                    let key = begins(&picture);
                    self.begun |= key && (!copies || pts >= placed.from);
                    if self.begun && pts < placed.until {
                        return Ok(Some(Unit::Picture { pts, dts, key, bytes: picture.bytes.to_vec() }));
                    }
                }
                ts_in::Unit::Sound(sound) if !self.picture => {
                    let pts = sound.pts + placed.shift;
                    if pts >= placed.from && pts < placed.until {
                        let ts_in::Sound { form, header, bytes, .. } = sound;
                        return Ok(Some(Unit::Sound { pts, form, header, bytes: bytes.to_vec() }));
                    }
                }
                _ => {}
            }
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A picture as it goes into the file.
struct Picture {
    pts: i64,
    dts: i64,
    key: bool,
    bytes: Vec<u8>,
}

/// Where a result's pictures come from.
enum Pictures<'a> {
    Copied(Box<Reader<'a>>),
    Coded(Box<pictures::Coded<'a>>),
}

impl Pictures<'_> {
    fn next(&mut self) -> Result<Option<Picture>, MergeError> {
        match self {
            Pictures::Copied(reader) => {
                let unit = reader.next(true)?;
                Ok(unit.and_then(|unit| match unit {
                    Unit::Picture { pts, dts, key, bytes } => Some(Picture { pts, dts, key, bytes }),
                    Unit::Sound { .. } => None,
                }))
            }
            Pictures::Coded(coded) => coded.next(),
        }
    }
}

/// Makes a file of a plan; gives it written, not synced, and what went wrong on the way without stopping it. `told`
/// hears of bytes that were read.
pub fn make(
    output: &Output,
    files: &[PathBuf],
    into: File,
    told: &dyn Fn(u64),
) -> Result<(File, Vec<String>), MergeError> {
    let mut pictures = match output.picturing {
        None => None,
        Some(Picturing::Copy) => Some(Pictures::Copied(Box::new(Reader::new(files, &output.pictures, true, told)))),
        Some(Picturing::Encode { size, fps }) => {
            Some(Pictures::Coded(Box::new(pictures::Coded::new(output, files, size, fps, told)?)))
        }
    };
    let mut sounds = match output.sounding {
        None => None,
        Some(sounding) => Some(sounds::Sounds::new(sounding, output, files, told)?),
    };
    let form = sounds.as_ref().map(sounds::Sounds::form);
    let mut mp4 = Mp4::new(into, pictures.is_some(), form, &extent(output, files)?)?;
    let mut picture = next_picture(&mut pictures)?;
    let mut sound = next_sound(&mut sounds)?;
    loop {
        let heard = form.zip(sound.as_ref()).map(|(form, (at, _))| at * SECOND / i64::from(form.rate));
        match (&picture, heard) {
            (None, None) => break,
            (Some(shown), heard) if heard.is_none_or(|heard| shown.dts <= heard) => {
                mp4.picture(shown.pts, shown.dts, shown.key, &shown.bytes)?;
                picture = next_picture(&mut pictures)?;
            }
            _ => {
                let (at, bytes) = sound.take().expect("it has a time");
                mp4.sound(at, &bytes)?;
                sound = next_sound(&mut sounds)?;
            }
        }
    }
    let notes = match pictures {
        Some(Pictures::Coded(coded)) => coded.into_notes(),
        _ => Vec::new(),
    };
    Ok((mp4.finish(output.length)?, notes))
}

fn next_picture(pictures: &mut Option<Pictures<'_>>) -> Result<Option<Picture>, MergeError> {
    pictures.as_mut().map_or(Ok(None), Pictures::next)
}

/// A frame of sound and when it is heard, in samples.
type Sound = (i64, Vec<u8>);

fn next_sound(sounds: &mut Option<sounds::Sounds<'_>>) -> Result<Option<Sound>, MergeError> {
    sounds.as_mut().map_or(Ok(None), sounds::Sounds::next)
}

/// More than there can be.
fn extent(output: &Output, files: &[PathBuf]) -> io::Result<Extent> {
    let used: BTreeSet<usize> = output.pictures.iter().chain(&output.sounds).map(|placed| placed.file).collect();
    let mut bytes = 0;
    for file in used {
        bytes += std::fs::metadata(&files[file])?.len();
    }
    let seconds = u64::try_from(output.length / SECOND + 1).unwrap_or(1);
    let pictures = match output.picturing {
        None => 0,
        Some(Picturing::Copy) => output.picture_count,
        Some(Picturing::Encode { fps, .. }) => (seconds + 1) * u64::from(fps),
    };
    let rate = match output.sounding {
        None => 0,
        Some(Sounding::Copy(form)) => u64::from(form.rate),
        Some(Sounding::Encode { .. }) => 48_000,
    };
    Ok(Extent { pictures, sounds: (seconds + 1) * rate / 1024 + 16, seconds, bytes })
}
