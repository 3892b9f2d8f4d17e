//! Still pictures: backgrounds, placeholders, watermarks, as pixels that can be laid over others.
//!
//! Owns: PNG and JPEG to RGBA, and the shelf on which whoever fetches pictures puts them for the mixing lanes. Must not
//! touch: where the bytes come from, GStreamer.
//! Law: what strangers drew is judged by its bytes and its head before memory is given to it; no bytes make this panic;
//! what the shelf holds is bounded.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

/// Bytes of a file (API.md §1.9).
pub const MOST_BYTES: usize = 5 * 1024 * 1024;
/// Pixels of a side: 2K (API.md §1.9).
pub const MOST_SIDE: u32 = 2560;
/// What decoding may allocate: the largest picture with 16 bits a channel takes 52 MB.
const MOST_ALLOCATED: u64 = 64 * 1024 * 1024;
/// Pixels of all pictures on the shelf, in bytes: ten of the largest, some hundred of the usual size.
const MOST_HELD: usize = 256 * 1024 * 1024;

/// A decoded picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Still {
    pub width: u32,
    pub height: u32,
    /// Four bytes a pixel, rows without padding, alpha not multiplied in.
    pub rgba: Vec<u8>,
}

impl fmt::Debug for Still {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Still({}x{})", self.width, self.height)
    }
}

/// Why bytes are no picture that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StillError {
    #[error("it is neither PNG nor JPEG")]
    Type,
    #[error("it has more than {MOST_BYTES} bytes")]
    Bytes,
    #[error("it has {0}x{1} pixels; a side may have {MOST_SIDE}")]
    Pixels(u32, u32),
    #[error("it cannot be decoded: {0}")]
    Broken(String),
    #[error("there is no more room for pictures")]
    Full,
}

/// Reads a PNG or JPEG file. The type is told by its first bytes, whatever name or header it came with.
pub fn decode(bytes: &[u8]) -> Result<Still, StillError> {
    if bytes.len() > MOST_BYTES {
        return Err(StillError::Bytes);
    }
    let format = format(bytes).ok_or(StillError::Type)?;
    let broken = |error: image::ImageError| StillError::Broken(error.to_string());

    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_ALLOCATED);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    // the head only is read so far; pixels have no memory yet
    let (width, height) = decoder.dimensions();
    if width > MOST_SIDE || height > MOST_SIDE {
        return Err(StillError::Pixels(width, height));
    }
    // cameras and phones write the picture as it lies and say here how to turn it
    let orientation = decoder.orientation().map_err(broken)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    picture.apply_orientation(orientation);
    let pixels = picture.into_rgba8();
    let (width, height) = pixels.dimensions();
    if width == 0 || height == 0 {
        return Err(StillError::Pixels(width, height));
    }
    Ok(Still { width, height, rgba: pixels.into_raw() })
}

/// By the signature of PNG (ISO/IEC 15948 §5.2), and SOI with the first byte of a marker (ISO/IEC 10918-1 B.1.1.2).
fn format(bytes: &[u8]) -> Option<ImageFormat> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some(ImageFormat::Png)
    } else if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        Some(ImageFormat::Jpeg)
    } else {
        None
    }
}

/// The shelf of decoded pictures, by URL. A clone is the same shelf.
#[derive(Debug, Clone, Default)]
pub struct Stills(Arc<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    version: AtomicU64,
    held: Mutex<BTreeMap<String, Arc<Still>>>,
}

impl Stills {
    /// A picture of the same URL is replaced. [`StillError::Full`] when the shelf cannot hold it.
    pub fn put(&self, url: &str, still: Still) -> Result<(), StillError> {
        let mut held = self.held();
        let others: usize = held.iter().filter(|(of, _)| *of != url).map(|(_, still)| still.rgba.len()).sum();
        if others.saturating_add(still.rgba.len()) > MOST_HELD {
            return Err(StillError::Full);
        }
        held.insert(url.to_owned(), Arc::new(still));
        // under the lock: who sees the version finds the picture
        self.0.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    pub fn get(&self, url: &str) -> Option<Arc<Still>> {
        self.held().get(url).cloned()
    }

    /// Changes with each picture that is put: a lane looks at it with every frame, and at the shelf only when it differs.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// Nobody shows this one any more.
    pub fn forget(&self, url: &str) {
        self.held().remove(url);
    }

    /// Forgets all pictures but these. A lane that draws one keeps it as long as it does.
    pub fn keep_only<T>(&self, urls: &BTreeMap<String, T>) {
        self.held().retain(|url, _| urls.contains_key(url));
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Still>>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::jpeg::JpegEncoder;
    use image::{ImageEncoder, Rgb, RgbImage, Rgba, RgbaImage};
    use proptest::prelude::*;

    use super::*;

    fn png(width: u32, height: u32, colour: [u8; 4]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let picture = RgbaImage::from_pixel(width, height, Rgba(colour));
        picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
        bytes
    }

    /// Red at the left, blue at the right; `exif` is what stands in its APP1.
    fn jpeg(exif: Option<Vec<u8>>) -> Vec<u8> {
        let picture = RgbImage::from_fn(32, 16, |x, _| if x < 16 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
        if let Some(exif) = exif {
            encoder.set_exif_metadata(exif).unwrap();
        }
        encoder.encode_image(&picture).unwrap();
        bytes
    }

    /// A TIFF head with one entry: Orientation (0x0112), SHORT.
    fn exif(orientation: u8) -> Vec<u8> {
        let mut tiff = b"MM\0\x2a\0\0\0\x08\0\x01".to_vec();
        tiff.extend([0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0]);
        tiff
    }

    fn reddish(still: &Still, x: u32, y: u32) -> bool {
        let at = (y * still.width + x) as usize * 4;
        let pixel = &still.rgba[at..at + 4];
        assert_eq!(pixel[3], 255);
        pixel[0] > 200 && pixel[2] < 60
    }

    #[test]
    fn png_keeps_its_alpha() {
        let still = decode(&png(3, 2, [200, 100, 50, 25])).unwrap();
        assert_eq!((still.width, still.height), (3, 2));
        assert_eq!(still.rgba, [200, 100, 50, 25].repeat(6));
    }

    #[test]
    fn jpeg_is_turned_as_it_says() {
        let plain = decode(&jpeg(None)).unwrap();
        assert_eq!((plain.width, plain.height), (32, 16));
        assert!(reddish(&plain, 4, 8) && !reddish(&plain, 28, 8));
        // 6: turn it clockwise, so that the left comes to the top
        let turned = decode(&jpeg(Some(exif(6)))).unwrap();
        assert_eq!((turned.width, turned.height), (16, 32));
        assert!(reddish(&turned, 8, 4) && !reddish(&turned, 8, 28));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert_eq!(decode(b"").unwrap_err(), StillError::Type);
        assert_eq!(decode(b"GIF89a").unwrap_err(), StillError::Type);
        assert_eq!(decode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").unwrap_err(), StillError::Type);
        assert_eq!(decode(&vec![0; MOST_BYTES + 1]).unwrap_err(), StillError::Bytes);
        assert_eq!(decode(&png(2561, 1, [0; 4])).unwrap_err(), StillError::Pixels(2561, 1));
        assert_eq!(decode(&png(1, 2561, [0; 4])).unwrap_err(), StillError::Pixels(1, 2561));
        decode(&png(2560, 1, [0; 4])).unwrap();
        let whole = png(64, 64, [1, 2, 3, 4]);
        assert!(matches!(decode(&whole[..whole.len() / 2]), Err(StillError::Broken(_))));
    }

    /// A head that promises more than memory holds is refused by its head.
    #[test]
    fn a_huge_promise_gets_no_memory() {
        let mut bomb = png(1, 1, [0; 4]);
        bomb[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        let sum = crc32fast::hash(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&sum.to_be_bytes());
        let refused = decode(&bomb).unwrap_err();
        assert!(matches!(refused, StillError::Pixels(..) | StillError::Broken(_)), "{refused}");
    }

    #[test]
    fn sixteen_bits_of_the_largest_size_are_taken() {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        let samples = vec![0x80; (MOST_SIDE * MOST_SIDE * 8) as usize];
        encoder.write_image(&samples, MOST_SIDE, MOST_SIDE, image::ExtendedColorType::Rgba16).unwrap();
        let still = decode(&bytes).unwrap();
        assert_eq!(still.rgba.len(), (MOST_SIDE * MOST_SIDE * 4) as usize);
    }

    #[test]
    fn the_shelf_tells_news_and_is_bounded() {
        let stills = Stills::default();
        let other = stills.clone();
        let small = Still { width: 1, height: 1, rgba: vec![1; 4] };
        stills.put("a", small.clone()).unwrap();
        let seen = other.version();
        assert_eq!(other.get("a").as_deref(), Some(&small));
        stills.put("b", small.clone()).unwrap();
        assert_ne!(other.version(), seen);
        stills.keep_only(&BTreeMap::from([("b".to_owned(), ())]));
        assert_eq!((other.get("a"), other.get("b").as_deref()), (None, Some(&small)));

        let large = || Still { width: 8192, height: 8192, rgba: vec![0; MOST_HELD] };
        assert_eq!(stills.put("c", large()), Err(StillError::Full));
        stills.keep_only(&BTreeMap::<String, ()>::new());
        stills.put("c", large()).unwrap();
        // its own place is free for it
        stills.put("c", large()).unwrap();
        assert_eq!(stills.put("a", small), Err(StillError::Full));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(head in 0..3_usize, tail in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = [&b""[..], b"\x89PNG\r\n\x1a\n", &[0xff, 0xd8, 0xff]][head].to_vec();
            bytes.extend(tail);
            let _ = decode(&bytes);
        }

        #[test]
        fn no_damage_makes_it_panic(
            as_png: bool,
            hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut bytes = if as_png { png(24, 24, [9, 8, 7, 6]) } else { jpeg(Some(exif(3))) };
            for (at, value) in hits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(keep.index(bytes.len()).max(bytes.len() / 2));
            let _ = decode(&bytes);
        }
    }
}
