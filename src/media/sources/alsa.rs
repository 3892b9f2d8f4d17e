//! ALSA microphones: which card is meant, and its sound as the hub has it.
//!
//! Owns: names of cards. Must not touch: the room, volumes.
//! Law: a card is known by its name, not by its number; a microphone that is pulled out is looked for until it is back.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Kit;
use super::life::{Life, SOUND_OUT, launch, quoted};
use super::seat::Seat;
use crate::model::TrackKind;
use crate::model::source::Microphone;

const CARDS: &str = "/proc/asound/cards";

/// The card's id of each pair of lines ` 1 [Loopback       ]: Loopback - Loopback` / `   Loopback 1`, and all the words.
fn cards(text: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let id = line.split_once('[').and_then(|(number, rest)| {
            let number = !number.trim().is_empty() && number.trim().bytes().all(|b| b.is_ascii_digit());
            let (id, rest) = rest.split_once(']').filter(|_| number)?;
            Some((id.trim().to_owned(), rest.trim_start_matches(':').trim().to_owned()))
        });
        match (id, all.last_mut()) {
            (Some(card), _) => all.push(card),
            (None, Some((_, words))) => {
                words.push(' ');
                words.push_str(line.trim());
            }
            (None, None) => {}
        }
    }
    all
}

/// The ALSA device that is meant: itself, or the first of a card that has this id, or these words in its name. `None`:
/// there is no such card now.
fn device(told: &str, cards: &[(String, String)]) -> Option<String> {
    // `hw:1,0`, `plughw:CARD=PCH`, `default`, `sysdefault`, `pulse`
    if told.contains(':') || ["default", "sysdefault", "pulse", "pipewire", "null"].contains(&told) {
        return Some(told.to_owned());
    }
    let by = |fits: &dyn Fn(&(String, String)) -> bool| cards.iter().find(|card| fits(card));
    let card = by(&|(id, _)| id == told).or_else(|| by(&|(_, words)| words.contains(told)))?;
    Some(format!("plughw:CARD={}", card.0))
}

pub(super) async fn live(
    microphone: &Microphone,
    kit: &Kit,
    seat: &Arc<Seat>,
    stop: &CancellationToken,
    flows: &(dyn Fn() + Sync),
) -> Option<String> {
    let there = cards(&fs::read_to_string(Path::new(CARDS)).unwrap_or_default());
    let Some(device) = device(&microphone.device, &there) else {
        return Some(format!("no sound card '{}' is plugged in", microphone.device));
    };
    // the stamps are the driver's, so that a card whose clock drifts is followed
    let description = format!(
        "alsasrc device={} provide-clock=false buffer-time=200000 latency-time=20000 ! {SOUND_OUT}",
        quoted(&device)
    );
    match launch(&description, seat, kit.meridian) {
        Ok(pipeline) => Life::new(pipeline, &[]).run(seat, &[TrackKind::Audio], stop, flows).await,
        Err(why) => Some(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_found_by_id_and_by_name() {
        let text = " 0 [PCH            ]: HDA-Intel - HDA Intel PCH\n                      HDA Intel PCH at 0xa1 irq 1\n \
                    2 [Speakerphone   ]: USB-Audio - Jabra [510]\n                      Jabra 510 at usb-1, full speed\n";
        let cards = cards(text);
        assert_eq!(cards.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["PCH", "Speakerphone"]);
        let found = |told: &str| device(told, &cards);
        assert_eq!(found("Speakerphone").as_deref(), Some("plughw:CARD=Speakerphone"));
        assert_eq!(found("Jabra 510").as_deref(), Some("plughw:CARD=Speakerphone"));
        assert_eq!(found("hw:7,1").as_deref(), Some("hw:7,1"));
        assert_eq!(found("default").as_deref(), Some("default"));
        assert_eq!(found("Blue"), None);
        assert_eq!(super::cards("--- no soundcards ---\n"), []);
    }
}
