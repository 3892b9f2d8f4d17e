//! Named points between the steps of the order on disk, at which a test lets the box die.
//!
//! Owns: the table of points; dying at one. Must not touch: what happens before and after it.
//! Law: a release build has no points: a call is nothing there, and no setting brings one back. In a build with
//! `debug_assertions` a point does something only when the environment says so: `HOLDFAST_CRASH=NAME`, `NAME:COUNT` (the
//! COUNT-th time that it is passed), `NAME:COUNT:stop` (the process is stopped there instead of killed, so that whoever
//! watches can take the disk's power first), `NAME:COUNT:hang` (the thread that passes it never goes on). Every call is in the table and everything in the table is called.

/// Every point, in the order of HOUSE.md §5: each is named by what has just been done.
pub const POINTS: &[&str] = &[
    // a task begins
    "task.folder-made",
    "task.folder-synced",
    "task.committed",
    "task.described",
    // a segment while it is written
    "segment.created",
    "segment.synced",
    "segment.closed",
    // what one step of the actor decided
    "rooms.decided",
    "rooms.committed",
    "rooms.acted",
    // one commit of the index
    "index.applied",
    "index.flushed",
    "index.synced",
    // a segment on its way to the shelf
    "shelf.synced",
    "shelf.renamed",
    "shelf.folder-synced",
    "shelf.recorded",
    "shelf.told",
    // a playlist
    "playlist.written",
    "playlist.synced",
    "playlist.renamed",
    "playlist.replaced",
    // what a task's folder says of it
    "folder.written",
    "folder.synced",
    "folder.renamed",
    // to the destination
    "upload.put",
    "upload.confirmed",
    "journal.written",
    "journal.synced",
    "upload.recorded",
    "upload.unlinked",
    "parts.begun",
    "parts.recorded",
    "parts.put",
    "parts.counted",
    "parts.completed",
    // packed files: planned, their plans on the shelf, at last their sources let go
    "package.planned",
    "plan.written",
    "plan.synced",
    "plan.renamed",
    "plan.kept",
    "held.gone",
    "held.removed",
    "held.forgotten",
    // to VOD
    "vod.applied",
    "vod.kept",
    "vod.stored",
    "vod.committed",
    "vod.noted",
    // the news
    "webhook.sent",
    "webhook.forgotten",
    // a discarded task: the box, then the destination
    "discard.emptied",
    "discard.cleared",
    "discard.noted",
    "discard.counted",
    "discard.removed",
    "discard.erased",
    // the same at VOD
    "discard.learned",
    "discard.known",
    "discard.deleted",
    // the end of a task
    "forget.committed",
    "forget.undescribed",
    "forget.emptied",
    "forget.removed",
    "forget.forgotten",
    // the next start
    "recover.trimmed",
    "recover.planned",
    "takeover.restored",
    "takeover.told",
    "takeover.settled",
    "takeover.saved",
    // an index that its disk refused something
    "refound.written",
    "refound.removed",
    "refound.renamed",
];

/// The step before this line is done, and the one after it is not.
#[inline(always)]
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::pass(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::POINTS;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Then {
        Die,
        Stop,
        Hang,
    }

    const VARIABLE: &str = "HOLDFAST_CRASH";

    #[derive(Debug)]
    pub(super) struct Armed {
        pub(super) name: String,
        pub(super) count: u32,
        pub(super) then: Then,
        passed: AtomicU32,
    }

    impl Armed {
        pub(super) fn parse(text: &str) -> Result<Armed, String> {
            let mut words = text.split(':');
            let name = words.next().unwrap_or_default().to_owned();
            if !POINTS.contains(&name.as_str()) {
                return Err(format!("{VARIABLE}: there is no point '{name}'"));
            }
            let count = words.next().map_or(Ok(1), str::parse).ok().filter(|count| *count > 0);
            let count = count.ok_or_else(|| format!("{VARIABLE}: '{text}': the count is a number from 1 on"))?;
            let then = match words.next() {
                None => Then::Die,
                Some("stop") => Then::Stop,
                Some("hang") => Then::Hang,
                Some(other) => return Err(format!("{VARIABLE}: '{other}' is neither 'stop' nor 'hang'")),
            };
            Ok(Armed { name, count, then, passed: AtomicU32::new(0) })
        }

        /// It is this one's turn.
        pub(super) fn is_due(&self, name: &str) -> bool {
            self.name == name && self.passed.fetch_add(1, Ordering::SeqCst) + 1 == self.count
        }
    }

    pub(super) fn pass(name: &str) {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty())?;
            Some(Armed::parse(&text).unwrap_or_else(|why| {
                eprintln!("holdfast: {why}");
                std::process::exit(2);
            }))
        });
        if let Some(armed) = armed.as_ref().filter(|armed| armed.is_due(name)) {
            let signal = match armed.then {
                Then::Die => Some(Signal::SIGKILL),
                Then::Stop => Some(Signal::SIGSTOP),
                Then::Hang => None,
            };
            eprintln!("crash point {name}: {}", signal.map_or("it hangs", Signal::as_str));
            let sent = signal.map_or(Ok(()), |signal| kill(Pid::this(), signal));
            // where the whole process is stopped or dies no thread gets far, and this one not a step
            while sent.is_ok() {
                std::thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;

    /// Names in calls of [`point`] under `dir`, and how often.
    fn called(dir: &Path, found: &mut BTreeMap<String, usize>) {
        for entry in std::fs::read_dir(dir).expect("the sources are there") {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                called(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("crash.rs") {
                let text = std::fs::read_to_string(&path).expect("a source is text");
                for (at, call) in text.match_indices("crash::point(") {
                    let name = text[at + call.len()..].strip_prefix('"').and_then(|rest| rest.split_once('"'));
                    let (name, _) = name.unwrap_or_else(|| panic!("{}: a point has no literal name", path.display()));
                    *found.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
    }

    #[test]
    fn the_table_is_what_the_code_calls() {
        let mut found = BTreeMap::new();
        called(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let table: BTreeSet<&str> = POINTS.iter().copied().collect();
        assert_eq!(table.len(), POINTS.len(), "a name stands twice in the table");
        assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), table);
    }

    #[cfg(debug_assertions)]
    #[test]
    fn it_dies_at_the_right_time_only() {
        let armed = armed::Armed::parse("shelf.renamed:2:stop").expect("a name, a count and an end");
        assert!(armed.then == armed::Then::Stop && armed.count == 2);
        assert_eq!(armed::Armed::parse("shelf.renamed:1:hang").expect("another end").then, armed::Then::Hang);
        let due: Vec<bool> =
            ["shelf.renamed", "shelf.synced", "shelf.renamed", "shelf.renamed"].map(|name| armed.is_due(name)).into();
        assert_eq!(due, [false, false, true, false]);
        assert!(armed::Armed::parse("shelf.renamed").expect("a name alone").is_due("shelf.renamed"));
        for wrong in ["", "shelf", "shelf.renamed:0", "shelf.renamed:x", "shelf.renamed:1:go"] {
            assert!(armed::Armed::parse(wrong).is_err(), "{wrong}");
        }
    }
}
