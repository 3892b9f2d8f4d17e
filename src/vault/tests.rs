use std::fs;
use std::io::{Cursor, Read, Seek, SeekFrom};

use proptest::prelude::*;

use super::output::Seal;
use super::*;

const NAME: &str = "hTask/YW5u_main_video_r0_i1";

fn key(n: u8) -> Key {
    Key::new(std::array::from_fn(|i| i as u8 ^ n))
}

fn vault() -> Vault {
    Vault::new(Some(key(1)), vec![key(2)])
}

fn sealed(hand_overs: &[&[u8]]) -> Vec<u8> {
    Seal::new(&key(1), [7; RANDOM_BYTES], NAME).whole(hand_overs)
}

/// Everything that can be read, and what is wrong.
fn read(file: &[u8], vault: &Vault, name: &str) -> io::Result<(Vec<u8>, Option<String>)> {
    let mut input = vault.read(Cursor::new(file), name)?;
    let mut plain = Vec::new();
    input.read_to_end(&mut plain)?;
    Ok((plain, input.fault().map(str::to_owned)))
}

fn error_of(file: &[u8], vault: &Vault, name: &str) -> Error {
    let error = vault.read(Cursor::new(file), name).err().expect("it does not open");
    Error::of(&error).expect("it is the vault's own").clone()
}

/// The format as it was first written. A change of it is a new version beside this one.
#[test]
fn a_sealed_file_has_these_bytes() {
    let file = sealed(&[b"first", b"second"]);
    let golden = include_str!("golden.hex").split_whitespace().collect::<String>();
    assert_eq!(hex::encode(&file), golden);
    assert_eq!(read(&file, &vault(), NAME).unwrap(), (b"firstsecond".to_vec(), None));
}

#[test]
fn keys_are_32_bytes_or_64_digits() {
    let raw: Vec<u8> = (0..32).collect();
    let id = Key::parse(&raw).unwrap().id();
    let digits = hex::encode(&raw);
    for text in [digits.clone(), format!("{digits}\n"), format!("{}\r\n", digits.to_uppercase())] {
        assert_eq!(Key::parse(text.as_bytes()).unwrap().id(), id);
    }
    for wrong in [&b""[..], &raw[1..], &[raw.clone(), vec![1]].concat(), &[0; 32], &digits.as_bytes()[1..], &[b'0'; 64]]
    {
        assert!(Key::parse(wrong).is_err());
    }
    let shown = format!("{:?} {:?}", key(1), vault());
    assert!(!shown.contains(&hex::encode(key(1).bytes)) && shown.contains(&key(1).id().to_string()), "{shown}");
}

#[test]
fn a_plain_file_is_read_as_it_is() {
    for plain in [&b""[..], b"G", b"#EXTM3U\n", &[0x47; 1000]] {
        for vault in [vault(), Vault::default()] {
            assert_eq!(read(plain, &vault, NAME).unwrap(), (plain.to_vec(), None));
        }
    }
}

#[test]
fn it_opens_with_its_key_and_as_itself_alone() {
    let file = sealed(&[b"secret"]);
    assert!(!file.windows(6).any(|w| w == b"secret"));
    let old = Vault::new(Some(key(3)), vec![key(2), key(1)]);
    assert_eq!(read(&file, &old, NAME).unwrap().0, b"secret");
    assert_eq!(error_of(&file, &Vault::default(), NAME), Error::MissingKey(key(1).id()));
    assert_eq!(error_of(&file, &Vault::new(Some(key(3)), vec![]), NAME), Error::MissingKey(key(1).id()));
    assert_eq!(error_of(&file, &vault(), "hTask/YW5u_main_video_r0_i2"), Error::Head);
    let mut newer = file.clone();
    newer[MAGIC.len()] = 2;
    assert_eq!(error_of(&newer, &vault(), NAME), Error::Version(2));
}

#[test]
fn records_that_were_moved_doubled_or_left_out_are_noticed() {
    let file = sealed(&[b"aaaa", b"bbbb", b"cccc"]);
    let record = FRAME_BYTES + 4 + TAG_BYTES;
    let part = |n: usize| &file[HEAD_BYTES + n * record..][..record];
    let (head, end) = (&file[..HEAD_BYTES], &file[HEAD_BYTES + 3 * record..]);
    for (parts, whole) in [
        (vec![part(1), part(0), part(2), end], ""),
        (vec![part(0), part(0), part(1), part(2), end], "aaaa"),
        (vec![part(0), part(2), end], "aaaa"),
        (vec![part(1), part(2), end], ""),
        (vec![part(0), part(1), end], "aaaabbbb"),
        (vec![part(0), part(1), part(2)], "aaaabbbbcccc"),
        (vec![part(0), part(1), part(2), end, part(2)], "aaaabbbbcccc"),
        (vec![end], ""),
        (vec![], ""),
    ] {
        let (plain, fault) = read(&[&[head][..], &parts].concat().concat(), &vault(), NAME).unwrap();
        assert_eq!((String::from_utf8(plain).unwrap().as_str(), fault.is_some()), (whole, true));
    }
    // a record of another file of the same name and key
    let other = Seal::new(&key(1), [8; RANDOM_BYTES], NAME).whole(&[b"xxxx"]);
    let strange = [head, &other[HEAD_BYTES..]].concat();
    assert_eq!(read(&strange, &vault(), NAME).unwrap().0, b"");
}

#[test]
fn an_output_is_read_back_and_large_hand_overs_are_split() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.part");
    let large = vec![0x47; BOUND * 2 + 188];
    let mut out = vault().create(&path, NAME).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "the head goes with the first bytes");
    out.write(b"small").unwrap();
    out.write(&large).unwrap();
    assert_eq!(out.plain(), 5 + large.len() as u64);
    let open = vault().open(&path, NAME).unwrap();
    assert!(open.fault().is_some_and(|fault| fault.starts_with("it has no end")));
    out.finish().unwrap();
    out.finish().unwrap();
    let stored = fs::metadata(&path).unwrap().len() as usize;
    let overhead = HEAD_BYTES + 4 * (FRAME_BYTES + TAG_BYTES) + FRAME_BYTES + END_BYTES + TAG_BYTES;
    assert_eq!(stored, 5 + large.len() + overhead);
    let mut input = vault().open(&path, NAME).unwrap();
    assert_eq!((input.len(), input.fault(), input.key()), (out.plain(), None, Some(key(1).id())));
    let mut plain = Vec::new();
    input.seek(SeekFrom::Start(BOUND as u64)).unwrap();
    input.read_to_end(&mut plain).unwrap();
    assert_eq!(plain.len() as u64, out.plain() - BOUND as u64);
    input.seek(SeekFrom::End(-190)).unwrap();
    assert_eq!(io::copy(&mut input, &mut io::sink()).unwrap(), 190);
    assert!(vault().create(&path, NAME).is_err(), "a file is never written over");
    assert!(
        fs::read(&path).unwrap() != fs::read(&path).map(|_| sealed(&[b"small", &large])).unwrap(),
        "other random bytes"
    );
}

#[test]
fn without_a_key_a_file_is_plain() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.part");
    let mut out = Vault::default().create(&path, NAME).unwrap();
    out.write(b"plain").unwrap();
    out.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"plain");
    let mut input = vault().open(&path, NAME).unwrap();
    assert_eq!(input.mend(&path, 3).unwrap(), 3);
    assert_eq!(fs::read(&path).unwrap(), b"pla");
}

#[test]
fn a_torn_file_is_mended_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.part");
    let whole = sealed(&[b"aaaa", b"bbbb", b"cccc"]);
    let record = FRAME_BYTES + 4 + TAG_BYTES;
    for (cut, keep, left) in [
        (HEAD_BYTES + 2 * record + 9, u64::MAX, "aaaabbbb"),
        (HEAD_BYTES + 2 * record, u64::MAX, "aaaabbbb"),
        (HEAD_BYTES + 2 * record, 7, "aaaa"),
        (whole.len(), 11, "aaaabbbb"),
        (whole.len(), 12, "aaaabbbbcccc"),
        (whole.len() - 1, 12, "aaaabbbbcccc"),
        (HEAD_BYTES + 3, 12, ""),
        (9, 12, ""),
    ] {
        fs::write(&path, &whole[..cut]).unwrap();
        for _ in 0..2 {
            let mut input = vault().open(&path, NAME).unwrap();
            io::copy(&mut input, &mut io::sink()).unwrap();
            assert_eq!(input.mend(&path, keep).unwrap(), left.len() as u64);
        }
        let file = fs::read(&path).unwrap();
        assert_eq!(read(&file, &vault(), NAME).unwrap(), (left.as_bytes().to_vec(), None));
        if left.len() == 12 {
            assert_eq!(file, whole, "the end is the same, whoever writes it");
        }
    }
}

/// A disk that is full takes a hand-over in part.
#[test]
fn a_number_is_never_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.part");
    let mut out = vault().create(&path, NAME).unwrap();
    out.write(b"aaaa").unwrap();
    let before = fs::read(&path).unwrap();
    out.fail_next();
    out.write(b"bbbb").unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), before, "as it was");
    out.write(b"cccc").unwrap();
    out.finish().unwrap();
    let file = fs::read(&path).unwrap();
    assert_eq!(read(&file, &vault(), NAME).unwrap(), (b"aaaacccc".to_vec(), None));
    let numbers = [HEAD_BYTES, HEAD_BYTES + 28, HEAD_BYTES + 56].map(|at| file[at + 3]);
    assert_eq!(numbers, [1, 3, 4]);
}

fn hand_overs() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..400), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_prefix_is_good_up_to_its_last_whole_record(parts in hand_overs(), at in any::<prop::sample::Index>()) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let whole = sealed(&parts);
        let cut = at.index(whole.len());
        // what the records hold that are whole up to there
        let until = |length: usize| {
            let (mut end, mut expected) = (HEAD_BYTES, Vec::new());
            for part in &parts {
                end += FRAME_BYTES + part.len() + TAG_BYTES;
                if end <= length {
                    expected.extend_from_slice(part);
                }
            }
            expected
        };
        let (plain, fault) = read(&whole[..cut], &vault(), NAME).unwrap();
        prop_assert_eq!(plain, until(cut));
        prop_assert!(fault.is_some() || cut == 0);
        // zeros where the disk had not yet written: of 256 tags one ends with just that
        if cut >= HEAD_BYTES {
            let torn = [&whole[..cut], &[0; 300][..]].concat();
            let same = torn.iter().zip(&whole).take_while(|(torn, written)| torn == written).count();
            let (zeros, fault) = read(&torn, &vault(), NAME).unwrap();
            prop_assert!(fault.is_some());
            prop_assert_eq!(zeros, until(same));
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed(parts in hand_overs(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let whole = sealed(&parts);
        let plain = parts.concat();
        let mut bent = whole.clone();
        let at = at.index(whole.len());
        bent[at] ^= 1 << bit;
        match read(&bent, &vault(), NAME) {
            // without its magic it is no sealed file at all
            Ok((read, None)) => prop_assert!(at < MAGIC.len() && read == bent),
            Ok((read, Some(_))) => prop_assert!(at >= HEAD_BYTES && plain.starts_with(&read)),
            Err(_) => prop_assert!(at < HEAD_BYTES),
        }
    }

    #[test]
    fn any_part_of_it_can_be_read(parts in hand_overs(), from in any::<prop::sample::Index>(), n in 0..900usize) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let (whole, plain) = (sealed(&parts), parts.concat());
        let mut input = vault().read(Cursor::new(&whole), NAME).unwrap();
        let from = from.index(plain.len());
        input.seek(SeekFrom::Start(from as u64)).unwrap();
        let mut read = Vec::new();
        input.by_ref().take(n as u64).read_to_end(&mut read).unwrap();
        prop_assert_eq!(&read[..], &plain[from..(from + n).min(plain.len())]);
    }

    #[test]
    fn strange_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), behind in any::<bool>()) {
        let file = if behind { [sealed(&[b"a"]), bytes].concat() } else { [&MAGIC[..], &[VERSION], &bytes].concat() };
        let _ = read(&file, &vault(), NAME);
        let headed = [&sealed(&[])[..HEAD_BYTES], &file].concat();
        let _ = read(&headed, &vault(), NAME);
    }
}
